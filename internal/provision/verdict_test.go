package provision_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// What one answer makes of a record (design section 3), with all that the
// requester and the next worker get to see of it.
func TestVerdictToState(t *testing.T) {
	type seen struct {
		State     provision.State
		Verdict   provision.Verdict
		Sent      int
		Wait      string
		NotBefore bool
		Reason    provision.Reason
		Billed    provision.Billed
		Retryable bool
		Gate      string
		Adopted   bool
	}
	salvaged := lost(201, true)
	salvaged.answer.VPSID = "vps_1"
	hold := func(c *provision.Config) { c.AuthHold = true }
	authFail := func(c *provision.Config) { c.AuthHold = false }
	limitWait := func(c *provision.Config) { c.LimitWait = true }
	theirs := func(reason provision.Reason, retryable bool) seen {
		return seen{provision.StateDone, provision.VerdictRefused, 1, "", false, reason, provision.BilledNo, retryable, "", false}
	}
	unknown := seen{State: provision.StateUnknown, Verdict: provision.VerdictUnknown, Sent: 1, Wait: provision.WaitLookup, NotBefore: true}
	found := seen{State: provision.StateDone, Verdict: provision.VerdictUnknown, Sent: 1, Billed: provision.BilledYes, Adopted: true}
	tests := map[string]struct {
		answer reply
		set    func(*provision.Config)
		want   seen
	}{
		"Created":         {created(), nil, seen{State: provision.StateDone, Verdict: provision.VerdictCreated, Sent: 1, Billed: provision.BilledYes}},
		"RefusedFinal":    {refused(400, provision.RefusalFinal), nil, theirs(provision.ReasonRefused, false)},
		"RefusedNoKind":   {refused(418, ""), nil, theirs(provision.ReasonRefused, false)},
		"RefusedConflict": {refused(409, provision.RefusalFinal), nil, theirs(provision.ReasonRefused, true)},
		"LimitFail":       {refused(403, provision.RefusalLimit), nil, theirs(provision.ReasonLimitExceeded, true)},
		"Limit409Fail":    {refused(409, provision.RefusalLimit), nil, theirs(provision.ReasonLimitExceeded, true)},
		"LimitWait": {refused(403, provision.RefusalLimit), limitWait, seen{
			State: provision.StateAccepted, Verdict: provision.VerdictRefused, Sent: 1, Wait: provision.WaitLimits, NotBefore: true,
		}},
		"AuthHold": {refused(401, provision.RefusalAuth), hold, seen{
			State: provision.StateAccepted, Verdict: provision.VerdictRefused, Sent: 1, Wait: provision.WaitAuth, NotBefore: true, Gate: provision.WaitAuth,
		}},
		"AuthFail": {refused(401, provision.RefusalAuth), authFail, theirs(provision.ReasonRefused, false)},
		"ThrottledWithWish": {throttled(time.Minute), nil, seen{
			State: provision.StateAccepted, Verdict: provision.VerdictThrottled, Sent: 1, Wait: provision.WaitGate, NotBefore: true, Gate: provision.WaitGate,
		}},
		"ThrottledNoWish": {throttled(0), nil, seen{
			State: provision.StateAccepted, Verdict: provision.VerdictThrottled, Sent: 1, Wait: provision.WaitGate, NotBefore: true, Gate: provision.WaitGate,
		}},
		"NeverSent": {neverSent(), nil, seen{
			State: provision.StateAccepted, Verdict: provision.VerdictNeverSent, Wait: provision.WaitNeverSent, NotBefore: true,
		}},
		"Unknown":         {lost(500, false), nil, unknown},
		"UnknownSilence":  {lost(0, true), nil, found},
		"UnknownSalvaged": {salvaged, nil, found},
		"NotRecognised":   {reply{answer: provision.Answer{Verdict: "brand-new", Status: 299}, buys: true}, nil, found},
		"ZeroAnswer":      {reply{buys: true}, nil, found},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.InlineWait = 0
				w.cfg.BackoffInitial = 10 * time.Second
				if tc.set != nil {
					tc.set(&w.cfg)
				}
				w.api.script = []reply{tc.answer}
				wk := w.worker()
				wk.once(order("a"))
				synctest.Wait()
				r := w.record("a")
				got := seen{State: r.State, Verdict: r.Attempts[0].Verdict, Sent: r.Sent, Wait: r.WaitReason, NotBefore: r.NotBefore.After(time.Now())}
				if o := r.Outcome; o != nil {
					got.Reason, got.Billed, got.Retryable, got.Adopted = o.Reason, o.Billed, o.Retryable, o.Adopted
				}
				if c, closed := wk.gate.Closed(); closed {
					got.Gate = c.Reason
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("(-want, +got):\n%s", diff)
				}
				if n := len(w.api.sent()); n != 1 {
					t.Errorf("%d creates", n)
				}
			})
		})
	}
}

// What the events say about a server, a refusal and a holding.
func TestEventsOfVerdicts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		salvaged := lost(201, true)
		salvaged.answer.VPSID = "vps_9"
		w.api.script = []reply{created(), refused(422, provision.RefusalFinal), salvaged}
		w.inventory.lag = 100 * time.Hour
		wk := w.worker()
		for i, key := range []string{"a", "b"} {
			m := order(key)
			m.Sequence = uint64(i + 1)
			wk.once(m)
		}
		wk.until(order("c"), "held")
		all := w.events.all()
		if len(all) != 3 {
			t.Fatalf("%d events", len(all))
		}
		if e := all[0]; e.VPSID != "vps_1" || e.OrderID != "ord_vps_1" || e.InvoiceID != "inv_vps_1" || e.Adopted || e.Attempts != 1 || e.CausationID != "cause-a" {
			t.Errorf("provisioning: %+v", e)
		}
		if diff := cmp.Diff(w.api.script[1].answer.Problem, all[1].Problem); diff != "" {
			t.Errorf("HostUp's document was changed (-want, +got):\n%s", diff)
		}
		held := all[2]
		var p provision.Problem
		if err := json.Unmarshal(held.Problem, &p); err != nil || p.Type != "urn:hostup-worker:problem:held" {
			t.Errorf("held problem %s: %v", held.Problem, err)
		}
		if held.Evidence == nil || len(held.Evidence.Attempts) != 1 || len(held.Evidence.Candidates) != 1 || held.Evidence.Candidates[0].VPSID != "vps_9" {
			t.Errorf("evidence: %+v", held.Evidence)
		}
	})
}

// A long history is bounded, its numbers are not.
func TestHistoryIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.InlineWait, w.cfg.BackoffMax = 2*time.Hour, time.Second
		for i := range 100 {
			w.api.script = append(w.api.script, neverSent())
			if i%2 == 0 {
				w.api.script[i] = throttled(0)
			}
		}
		w.worker().once(order("a"))
		r := w.record("a")
		var numbers []int
		for _, a := range r.Attempts {
			numbers = append(numbers, a.Number)
		}
		want := []int{1}
		for n := 71; n <= 101; n++ {
			want = append(want, n)
		}
		if diff := cmp.Diff(want, numbers); diff != "" || r.Sent != 51 {
			t.Errorf("sent %d, want 51; attempts kept (-want, +got):\n%s", r.Sent, diff)
		}
	})
}
