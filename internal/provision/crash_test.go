package provision_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// end is what a message came to.
type end struct {
	State    string
	Reason   provision.Reason
	Outcomes []string
	Held     []string
	Creates  int
	Servers  int
	Adopted  bool
}

func (w *world) end(key string) end {
	r := w.record(key)
	e := end{
		State: string(r.State), Outcomes: w.events.outcomes(key), Held: w.events.ids(key, provision.KindHeld),
		Creates: len(w.api.sent()), Servers: w.api.made(key),
	}
	if r.Outcome != nil {
		e.Reason, e.Adopted = r.Outcome.Reason, r.Outcome.Adopted
	}
	return e
}

// The table "What a crash leaves, and what happens then" of design section 2,
// row by row. Effects of a happy request: 1 load, 2 facts, 3 intend, 4 create,
// 5 store created, 6 publish, 7 store done, 8 release.
func TestCrashTable(t *testing.T) {
	provisioned := end{State: "done", Outcomes: []string{provision.OutcomeID("a", provision.KindProvisioning)}, Creates: 1, Servers: 1}
	adopted := provisioned
	adopted.Adopted = true
	tests := map[string]struct {
		reason string
		at     int
		after  bool
		leaves string
		want   end
	}{
		"BeforeLedgerRead":   {"it starts over", 1, false, "nothing", provisioned},
		"AfterLedgerRead":    {"it starts over", 1, true, "nothing", provisioned},
		"AfterAdmission":     {"it starts over", 2, true, "nothing", provisioned},
		"BeforeIntent":       {"it starts over", 3, false, "nothing", provisioned},
		"AfterIntent":        {"nobody knows whether a call was sent: absence is proved first", 3, true, "creating", provisioned},
		"BeforeCreate":       {"as after the intent", 4, false, "creating", provisioned},
		"AfterCreate":        {"the answer died with the worker: the server is adopted, never a second POST", 4, true, "creating", adopted},
		"BeforeResultStored": {"as after the create", 5, false, "creating", adopted},
		"AfterResultStored":  {"the stored event is published", 5, true, "created", provisioned},
		"BeforePublish":      {"the stored event is published", 6, false, "created", provisioned},
		"AfterPublish":       {"it is published again with the same id", 6, true, "created", provisioned},
		"BeforeDone":         {"it is published again with the same id", 7, false, "created", provisioned},
		"AfterDone":          {"it is only acked", 7, true, "done", provisioned},
		"BeforeRelease":      {"it is only acked", 8, false, "done", provisioned},
		"AfterRelease":       {"it is only acked", 8, true, "done", provisioned},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				m := order("a")
				wk := w.mortal(tc.at, tc.after)
				wk.deliver(t.Context(), m)
				synctest.Wait()
				if got := w.shelf.state("a"); got != tc.leaves {
					t.Fatalf("the crash left %q, want %q", got, tc.leaves)
				}
				m.Deliveries++
				w.worker().finish(m)
				if diff := cmp.Diff(tc.want, w.end("a")); diff != "" {
					t.Errorf("%s (-want, +got):\n%s\n%s", tc.reason, diff, strings.Join(w.journal.lines(), "\n"))
				}
			})
		})
	}
}

// scenarios are the scripts over which crashes are tried at every effect.
func scenarios() map[string][]reply {
	slow := created()
	slow.takes = 10 * time.Second
	return map[string][]reply{
		"created":                     {created()},
		"created after a while":       {slow},
		"refused":                     {refused(400, provision.RefusalFinal)},
		"limit":                       {refused(403, provision.RefusalLimit)},
		"auth, then created":          {refused(401, provision.RefusalAuth), created()},
		"throttled, then created":     {throttled(2 * time.Second), created()},
		"throttled long":              {throttled(time.Hour), created()},
		"never sent, then created":    {neverSent(), neverSent(), created()},
		"unknown and bought":          {lost(502, true)},
		"unknown and not bought":      {lost(0, false)},
		"answered 500, not bought":    {answered(500, false), created()},
		"answered 500, bought":        {answered(500, true)},
		"unknown twice":               {lost(0, false), answered(500, false), lost(504, true)},
		"throttled, then unknown":     {throttled(0), lost(500, true)},
		"throttled, refused for good": {throttled(0), refused(422, provision.RefusalFinal)},
	}
}

// withKey is a worker whose key watch runs until the returned function.
func (w *world) tend(wk *worker) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go wk.WatchAuth(ctx, nil)
	return cancel
}

// Every scenario, with a death before and after every effect, and again a
// death of the next process.
func TestDeathAtEveryEffect(t *testing.T) {
	for name, script := range scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			effects := 0
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.script = script
				wk := w.worker()
				stop := w.tend(wk)
				wk.finish(order("a"))
				stop()
				synctest.Wait()
				effects = wk.life.effects()
				if wrong := w.safe("a", true); wrong != nil {
					t.Fatalf("without any crash: %q", wrong)
				}
			})
			for first := range 2 * effects {
				for _, second := range []int{0, 1, 3, 4, 5, 7} {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t)
						w.api.script = script
						deaths := []*worker{w.mortal(first/2+1, first%2 == 1), w.mortal(second/2+3, second%2 == 1)}
						m := order("a")
						for _, wk := range deaths {
							stop := w.tend(wk)
							wk.drive(m, time.Now().Add(48*time.Hour))
							wk.life.kill()
							stop()
							synctest.Wait()
							m.Deliveries++
						}
						wk := w.worker()
						stop := w.tend(wk)
						wk.finish(m)
						stop()
						synctest.Wait()
						if wrong := w.safe("a", true); wrong != nil {
							t.Errorf("deaths at half-effects %d and %d: %q\n%s", first, second, wrong, strings.Join(w.journal.lines(), "\n"))
						}
					})
				}
			}
		})
	}
}

// A left-over intent is waited out on the observer's own clock, counted from
// when it first saw it, whatever the clocks in the record say.
func TestLeftOverIntentIsWaitedOut(t *testing.T) {
	tests := map[string]struct {
		reason string
		skew   time.Duration
	}{
		"SameClock":  {"the plain case", 0},
		"ClockAhead": {"the maker's clock was an hour ahead", time.Hour},
		"LongAgo":    {"the maker's clock says that the call ended long ago", -10 * time.Hour},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				m := order("a")
				w.mortal(3, true).deliver(t.Context(), m)
				r := w.record("a")
				r.Attempts[0].StartedAt = r.Attempts[0].StartedAt.Add(tc.skew)
				if err := w.shelf.ledger().Store(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				wk, seen := w.worker(), time.Now()
				for w.shelf.state("a") == "creating" {
					d := wk.once(m)
					if d.Action == provision.Retry && d.Reason == provision.WaitInFlight {
						pass(d.After)
					}
				}
				if waited := time.Since(seen); waited < w.cfg.CreateTimeout || waited > 2*w.cfg.CreateTimeout {
					t.Errorf("%s: given up after %s; the call may take %s", tc.reason, waited, w.cfg.CreateTimeout)
				}
				if got := w.end("a"); got.State != "unknown" || got.Held != nil || got.Creates != 0 || got.Outcomes != nil {
					t.Errorf("%s: got %+v, want it looked up and nothing sent", tc.reason, got)
				}
				given := time.Now()
				wk.finish(m)
				if c := w.api.sent(); len(c) != 1 || c[0].At.Sub(given) < w.cfg.SettleUnanswered {
					t.Errorf("%s: %d creates after it was given up; want one after %s", tc.reason, len(c), w.cfg.SettleUnanswered)
				}
				if wrong := w.safe("a", true); wrong != nil {
					t.Errorf("%q", wrong)
				}
			})
		})
	}
}
