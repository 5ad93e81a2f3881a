package provision_test

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

func full() admission.Facts {
	f := roomy()
	f.Remaining = admission.Resources{CPUCores: 1, MemoryGB: 1, StorageGB: 10, Instances: 0}
	return f
}

// A full account fails the request and names every limit with its numbers.
func TestLimitExceededNamesEveryLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.account.room = full()
		if d := w.worker().finish(order("a")); d.Reason != string(provision.ReasonLimitExceeded) {
			t.Errorf("got %+v", d)
		}
		o := w.record("a").Outcome
		var p provision.Problem
		if err := json.Unmarshal(o.Problem, &p); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"cpuCores: 1 left, 2 asked", "memoryGb: 1 left, 4 asked", "storageGb: 10 left, 80 asked", "instanceCount: 0 left, 1 asked"} {
			if !strings.Contains(p.Detail, want) {
				t.Errorf("detail %q lacks %q", p.Detail, want)
			}
		}
		if len(p.Limits) != 4 || p.Status != 403 || !o.Retryable || len(w.api.sent()) != 0 || w.record("a").Sent != 0 {
			t.Errorf("problem %+v, retryable %v, %d creates", p, o.Retryable, len(w.api.sent()))
		}
	})
}

// Nobody is refused on facts from before the request was looked at.
func TestStaleFactsAreRefreshedBeforeARefusal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.account.room = full()
		w.account.facts(time.Now())
		w.account.room = roomy()
		pass(5 * time.Second) // within the TTL
		if d := w.worker().finish(order("a")); d.Result != provision.ResultProvisioning || len(w.account.asked()) != 2 {
			t.Errorf("got %+v after %d reads", d, len(w.account.asked()))
		}
	})
}

// Facts are used for their TTL: admitting does not read per message.
func TestFactsAreShared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		wk := w.worker()
		for _, key := range []string{"a", "b", "c", "d"} {
			wk.finish(order(key))
		}
		if n := len(w.account.asked()); n != 1 {
			t.Errorf("%d reads for four requests", n)
		}
	})
}

// Under wait a request stays until there is room, or its deadline.
func TestLimitWait(t *testing.T) {
	tests := map[string]struct {
		room   time.Duration
		theirs bool
		want   provision.Result
		reason provision.Reason
	}{
		"FoundByTheCheck": {10 * time.Minute, false, provision.ResultProvisioning, ""},
		"FoundByHostUp":   {0, true, provision.ResultProvisioning, ""},
		"Never":           {100 * time.Hour, false, provision.ResultFailed, provision.ReasonDeadlineExceeded},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.LimitWait = true
				began := time.Now()
				w.account.ask = func(int) (admission.Facts, error) {
					if time.Since(began) < tc.room {
						return full(), nil
					}
					return roomy(), nil
				}
				if tc.theirs {
					w.api.script = []reply{refused(403, provision.RefusalLimit), refused(403, provision.RefusalLimit)}
				}
				wk := w.worker()
				if d := wk.once(order("a")); d.Reason != provision.WaitLimits || w.record("a").WaitReason != provision.WaitLimits {
					t.Errorf("got %+v, stored %q", d, w.record("a").WaitReason)
				}
				if d := wk.finish(order("a")); d.Result != tc.want || d.Reason != string(tc.reason) {
					t.Errorf("got %+v", d)
				}
				if wrong := w.safe("a", true); wrong != nil {
					t.Errorf("%q", wrong)
				}
			})
		})
	}
}

// A burst does not spend the same free slot twice, refuses nobody for what is
// only in flight, and uses the last slot.
func TestBurstOnTheLastSlots(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.LimitWait = true
		var left atomic.Int64
		left.Store(2)
		w.account.ask = func(int) (admission.Facts, error) {
			f := roomy()
			f.Remaining.Instances = left.Load()
			return f, nil
		}
		w.api.answers = func(int, provision.Request) reply {
			r := created()
			r.takes = 20 * time.Second
			r.during = func() { left.Add(-1) }
			return r
		}
		wk := w.worker()
		for i, key := range []string{"a", "b", "c"} {
			m := order(key)
			m.Sequence = uint64(i + 1)
			go wk.drive(m, time.Now().Add(10*time.Minute))
		}
		pass(11 * time.Minute)
		synctest.Wait()
		servers := w.api.made("a") + w.api.made("b") + w.api.made("c")
		if len(w.api.sent()) != 2 || servers != 2 {
			t.Errorf("%d creates, %d servers; there was room for 2", len(w.api.sent()), servers)
		}
	})
}

// A create that ended without a server gives its place back at once.
func TestPlaceIsGivenBack(t *testing.T) {
	ends := map[string]reply{
		"Refused": refused(400, provision.RefusalFinal), "Throttled": throttled(time.Hour), "NeverSent": neverSent(), "Unknown": lost(500, false),
	}
	for name, answer := range ends {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.InlineWait = 0
				w.account.room.Remaining.Instances = 1
				w.api.script = []reply{answer}
				wk := w.worker()
				wk.once(order("a"))
				other := order("b")
				other.Sequence = 2
				wk.drive(other, time.Now().Add(2*time.Hour))
				if w.api.made("b") != 1 {
					t.Errorf("the only place was not given back: b is %s", w.shelf.state("b"))
				}
			})
		})
	}
}
