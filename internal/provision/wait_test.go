package provision_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Retry-After is never undercut, whatever it is and wherever the wait is spent.
func TestRetryAfterIsNeverUndercut(t *testing.T) {
	t.Parallel()
	wishes := []time.Duration{
		0, 1, time.Millisecond, 999 * time.Millisecond, time.Second, 4999 * time.Millisecond, 5 * time.Second, 5001 * time.Millisecond,
		time.Minute, 61 * time.Second, time.Hour, 100 * time.Minute,
	}
	for range 200 {
		wishes = append(wishes, rand.N(90*time.Second))
	}
	for i, wish := range wishes {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.api.script = []reply{throttled(wish), throttled(wish / 2), created()}
			w.api.script[0].takes = time.Duration(i%7) * time.Second
			// Every delivery goes to another process, which knows nothing of
			// the gate of the one that got the 429.
			m, sole := order("a"), w.worker()
			for {
				wk := sole
				if i%2 == 0 {
					wk = w.worker()
				}
				d := wk.once(m)
				if d.Action == provision.Done {
					break
				}
				m.Deliveries++
				// Redelivered early, and at the time asked for.
				pass(d.After / 2)
				w.worker().once(m)
				pass(d.After - d.After/2)
			}
			synctest.Wait()
			if wrong := w.safe("a", true); wrong != nil {
				t.Errorf("wish %s: %q", wish, wrong)
			}
		})
	}
}

// Short waits stay in hand, long ones are handed back and stored.
func TestWhereAWaitIsSpent(t *testing.T) {
	tests := map[string]struct {
		wish   time.Duration
		inline bool
	}{
		"InHand":     {4 * time.Second, true},
		"HandedBack": {6 * time.Second, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.script = []reply{throttled(tc.wish)}
				began := time.Now()
				d := w.worker().once(order("a"))
				if tc.inline {
					if d.Result != provision.ResultProvisioning || time.Since(began) < tc.wish {
						t.Errorf("after %s got %+v", time.Since(began), d)
					}
					return
				}
				if d.Action != provision.Retry || d.Reason != provision.WaitGate || d.After < tc.wish || time.Since(began) > 0 {
					t.Errorf("after %s got %+v; want it handed back at once for %s or more", time.Since(began), d, tc.wish)
				}
				if r := w.record("a"); r.NotBefore.Before(began.Add(tc.wish)) || r.WaitReason != provision.WaitGate {
					t.Errorf("stored: not before %s, %q", r.NotBefore, r.WaitReason)
				}
				if d := w.worker().once(order("a")); d.After < tc.wish || len(w.api.sent()) != 1 {
					t.Errorf("another worker got %+v", d)
				}
			})
		})
	}
}

// One delivery does not wait in hand longer than InlineWait in sum.
func TestInlineWaitIsASum(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.api.answers = func(int, provision.Request) reply { return throttled(900 * time.Millisecond) }
		began := time.Now()
		d := w.worker().once(order("a"))
		if d.Action != provision.Retry || time.Since(began) > w.cfg.InlineWait {
			t.Errorf("after %s in hand got %+v", time.Since(began), d)
		}
	})
}

// backoff(n) is spread over all of 0 to min(max, initial·2^(n-1)).
func TestFullJitter(t *testing.T) {
	t.Parallel()
	const tries, runs = 9, 60
	longest := make([]time.Duration, tries)
	shortest := make([]time.Duration, tries)
	bound := func(n int) time.Duration { return min(time.Minute, time.Second<<n) }
	for run := range runs {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.InlineWait = 2 * time.Hour
			for range tries {
				w.api.script = append(w.api.script, neverSent())
			}
			w.worker().once(order("a"))
			calls := w.api.sent()
			for n := range tries {
				gap := calls[n+1].At.Sub(calls[n].At)
				if gap > bound(n)+1 {
					t.Errorf("wait %d was %s, above %s", n+1, gap, bound(n))
				}
				longest[n] = max(longest[n], gap)
				if run == 0 || gap < shortest[n] {
					shortest[n] = gap
				}
			}
		})
	}
	for n := range tries {
		// The chance of a false alarm is below 0.8^60 each.
		if longest[n] < bound(n)*8/10 || shortest[n] > bound(n)*2/10 {
			t.Errorf("wait %d lay between %s and %s; full jitter goes from 0 to %s", n+1, shortest[n], longest[n], bound(n))
		}
	}
}

// The deadline is not slept through, whatever the request waits for, and
// nothing is sent at or after it.
func TestDeadlineIsNotSleptThrough(t *testing.T) {
	slowRead := func(w *world) {
		w.account.takes = 90 * time.Second
		w.account.errs = []error{
			&provision.ReadError{Status: 429, Throttled: true, RetryAfter: time.Hour, Err: errLedger},
			&provision.ReadError{Status: 429, Throttled: true, RetryAfter: time.Hour, Err: errLedger},
		}
	}
	tests := map[string]struct {
		set  func(*world, *worker)
		want provision.Reason
	}{
		"RetryAfter":   {func(w *world, _ *worker) { w.api.script = []reply{throttled(time.Hour)} }, provision.ReasonDeadlineExceeded},
		"Gate":         {func(_ *world, wk *worker) { wk.gate.Raise(time.Hour, admission.Rate{}) }, provision.ReasonDeadlineExceeded},
		"Auth":         {func(w *world, _ *worker) { w.api.script = []reply{refused(401, provision.RefusalAuth)} }, provision.ReasonDeadlineExceeded},
		"SlowRead":     {func(w *world, _ *worker) { slowRead(w) }, provision.ReasonDeadlineExceeded},
		"SlowGoodRead": {func(w *world, _ *worker) { w.account.takes = 90 * time.Second }, provision.ReasonDeadlineExceeded},
		"Looking":      {func(w *world, _ *worker) { w.api.script = []reply{lost(500, false)} }, provision.ReasonOutcomeUnknown},
		"Held":         {func(w *world, _ *worker) { w.api.script = []reply{answered(500, false)} }, provision.ReasonOutcomeUnknown},
		"HeldEventWaits": {func(w *world, _ *worker) {
			w.api.script = []reply{answered(500, false)}
			w.events.failing = 8
		}, provision.ReasonOutcomeUnknown},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.HoldUnknown, w.cfg.SettleAnswered = true, 20*time.Second
				wk := w.worker()
				tc.set(w, wk)
				m := order("a")
				m.Request.Deadline = time.Now().Add(80 * time.Second)
				wk.finish(m)
				r := w.record("a")
				if late := r.Outcome.OccurredAt.Sub(m.Request.Deadline); late < 0 || late > 15*time.Second {
					t.Errorf("ended %s after its deadline", late)
				}
				if r.Outcome.Reason != tc.want {
					t.Errorf("reason %s, want %s", r.Outcome.Reason, tc.want)
				}
				for _, c := range w.api.sent() {
					if !c.At.Before(m.Request.Deadline) {
						t.Errorf("a create was sent %s after the deadline", c.At.Sub(m.Request.Deadline))
					}
				}
				if wrong := w.safe("a", true); wrong != nil {
					t.Errorf("%q", wrong)
				}
			})
		})
	}
}

// Which deadline counts, and that a past one costs no call.
func TestDeadline(t *testing.T) {
	tests := map[string]struct {
		asked time.Duration
		age   time.Duration
		want  time.Duration
		calls int
	}{
		"None":         {0, 0, 3 * time.Hour, 1},
		"Earlier":      {time.Hour, 0, time.Hour, 1},
		"LaterClamped": {30 * time.Hour, 0, 3 * time.Hour, 1},
		"Past":         {-time.Second, 0, -time.Second, 0},
		"OldMessage":   {0, 4 * time.Hour, -time.Hour, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				now := time.Now()
				m := order("a")
				m.StoredAt = now.Add(-tc.age)
				if tc.asked != 0 {
					m.Request.Deadline = now.Add(tc.asked)
				}
				w.worker().finish(m)
				r := w.record("a")
				if !r.Deadline.Equal(now.Add(tc.want)) || len(w.api.sent()) != tc.calls {
					t.Errorf("deadline %s from now, %d calls; want %s, %d", r.Deadline.Sub(now), len(w.api.sent()), tc.want, tc.calls)
				}
				if wrong := w.safe("a", true); wrong != nil {
					t.Errorf("%q", wrong)
				}
			})
		})
	}
}

// The last problem is the cause of a missed deadline.
func TestDeadlineTellsTheCause(t *testing.T) {
	for name, answer := range map[string]reply{"throttled": throttled(time.Hour), "unknown": lost(500, false)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				answer.answer.Problem = json.RawMessage(`{"status":429,"code":"slow_down"}`)
				w.api.script = []reply{answer}
				m := order("a")
				m.Request.Deadline = time.Now().Add(time.Minute)
				w.worker().finish(m)
				var p provision.Problem
				if err := json.Unmarshal(w.record("a").Outcome.Problem, &p); err != nil || string(p.Cause) != `{"status":429,"code":"slow_down"}` {
					t.Errorf("cause %s, %v", p.Cause, err)
				}
			})
		})
	}
}

// Cancelling while a request waits hands it back at once.
func TestShutdownWhileWaiting(t *testing.T) {
	tests := map[string]func(*world){
		"InHand":  func(w *world) { w.api.script = []reply{throttled(4 * time.Second)} },
		"Reading": func(w *world) { w.account.takes = 10 * time.Second },
		"Other": func(w *world) {
			w.mortal(3, true).deliver(context.Background(), order("a"))
			w.cfg.InlineWait = time.Hour
		},
	}
	for name, set := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				set(w)
				ctx, cancel := context.WithCancel(t.Context())
				wk := w.worker()
				go func() { pass(2 * time.Second); cancel() }()
				began := time.Now()
				d, _ := wk.deliver(ctx, order("a"))
				if d.Action != provision.Retry || d.Reason != provision.WaitShutdown || d.After != 0 || time.Since(began) != 2*time.Second {
					t.Errorf("after %s got %+v", time.Since(began), d)
				}
				// Nothing is lost by it.
				wk.finish(order("a"))
				if wrong := w.safe("a", true); wrong != nil {
					t.Errorf("%q", wrong)
				}
			})
		})
	}
}

// Cancelling during the create call loses nothing: the call runs to its end,
// the result is stored and announced.
func TestShutdownDuringCreate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		slow := created()
		slow.takes = 30 * time.Second
		w.api.script = []reply{slow}
		ctx, cancel := context.WithCancel(t.Context())
		wk := w.worker()
		go func() { pass(time.Second); cancel() }()
		began := time.Now()
		d, _ := wk.deliver(ctx, order("a"))
		if d.Action != provision.Done || d.Result != provision.ResultProvisioning || time.Since(began) != 30*time.Second {
			t.Errorf("after %s got %+v", time.Since(began), d)
		}
		if err := wk.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if wrong := w.safe("a", true); wrong != nil {
			t.Errorf("%q", wrong)
		}
	})
}

// The call is cut at its hard deadline.
func TestCreateIsCutAtItsDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		hangs := lost(0, true)
		hangs.takes = time.Hour
		w.api.script = []reply{hangs}
		began := time.Now()
		w.worker().once(order("a"))
		synctest.Wait()
		if c := w.api.sent()[0]; c.Ended.Sub(began) != w.cfg.CreateTimeout || w.shelf.state("a") != "done" || !w.record("a").Outcome.Adopted {
			t.Errorf("the call ended after %s, the record is %s", c.Ended.Sub(began), w.shelf.state("a"))
		}
	})
}
