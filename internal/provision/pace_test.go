package provision_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

func TestPaced(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		d           time.Duration
		reason      string
		n           int
		least, most time.Duration
	}{
		"nobody waits":        {10 * time.Second, provision.WaitLimits, 0, 10 * time.Second, 10 * time.Second},
		"a number below none": {time.Second, provision.WaitLimits, -5, time.Second, time.Second},
		"few wait":            {10 * time.Second, provision.WaitLimits, 100, 10 * time.Second, 10500 * time.Millisecond},
		"many wait":           {10 * time.Second, provision.WaitLimits, 20_000, 100 * time.Second, 200 * time.Second},
		"at once":             {0, provision.WaitLimits, 400, 2 * time.Second, 4 * time.Second},
		"never shortened":     {time.Hour, provision.WaitLimits, 20_000, time.Hour, 3700 * time.Second},
		"when the gate opens": {time.Minute, provision.WaitGate, 20_000, time.Minute, 160 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shortest, longest := time.Duration(1<<62), time.Duration(0)
			for range 2000 {
				d := provision.Paced(tc.d, tc.reason, tc.n)
				shortest, longest = min(shortest, d), max(longest, d)
			}
			if shortest < tc.least || longest > tc.most {
				t.Errorf("from %s to %s, want %s to %s", shortest, longest, tc.least, tc.most)
			}
			// The chance of a false alarm is below 0.9^2000.
			if spread := tc.most - tc.least; longest-shortest < spread*8/10 {
				t.Errorf("spread over %s only, of %s", longest-shortest, spread)
			}
		})
	}
}

// However many begin to wait at one moment, and however long the wait that is
// stretched: in no second do more come back than the rate, beyond what chance
// adds to it.
func TestPacedHasNoRush(t *testing.T) {
	t.Parallel()
	const rate, rounds = 200, 6
	for name, tc := range map[string]struct {
		d time.Duration
		n int
	}{
		"SoonerThanAll": {4 * time.Second, 1000},
		"LaterThanAll":  {10 * time.Second, 1000},
		"Thousands":     {10 * time.Second, 20_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			came := make(map[time.Duration]int)
			for range tc.n {
				at := time.Duration(0)
				for range rounds {
					at += provision.Paced(tc.d, provision.WaitLimits, tc.n)
					came[at.Truncate(time.Second)]++
				}
			}
			most := 0
			for _, n := range came {
				most = max(most, n)
			}
			// Six standard deviations: the chance of a false alarm is below 1e-6.
			if bound := rate + 6*14; most > bound {
				t.Errorf("%d of %d came back in one second, want %d or less", most, tc.n, bound)
			}
		})
	}
}

// What is stretched by many waiting requests, what is not, and that neither
// the deadline is slept through nor the ledger written at each redelivery.
func TestWaitsAmongThousands(t *testing.T) {
	const waiting, least = 20_000, 100 * time.Second
	gate := func(shut func(*provision.Gate)) func(*world) *worker {
		return func(w *world) *worker {
			wk := w.worker()
			shut(wk.gate)
			return wk
		}
	}
	for name, tc := range map[string]struct {
		worker func(*world) *worker
		reason string
		paced  bool
	}{
		"limits": {func(w *world) *worker {
			w.cfg.LimitWait, w.account.room.Remaining.CPUCores = true, 0
			return w.worker()
		}, provision.WaitLimits, true},
		"gate": {gate(func(g *provision.Gate) { g.Raise(time.Hour, admission.Rate{}) }), provision.WaitGate, true},
		"auth": {gate(func(g *provision.Gate) { g.Hold(provision.WaitAuth) }), provision.WaitAuth, true},
		"account": {func(w *world) *worker {
			w.account.ask = func(int) (admission.Facts, error) { return admission.Facts{}, errLook }
			return w.worker()
		}, provision.WaitAccount, true},
		"publish": {func(w *world) *worker {
			w.events.failing = 1000
			return w.worker()
		}, provision.WaitPublish, false},
		"ledger": {func(w *world) *worker {
			w.shelf.loadErr = func(string) error { return errLedger }
			return w.worker()
		}, provision.WaitLedger, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.InlineWait = 0
				wk := tc.worker(w)
				m := order("a")
				m.Waiting = waiting
				for range 5 {
					d := wk.once(m)
					m.Deliveries++
					if d.Action != provision.Retry || d.Reason != tc.reason || (d.After >= least) != tc.paced {
						t.Errorf("got %s for %s", d.Reason, d.After)
					}
					pass(min(d.After, 3*time.Minute))
				}
				synctest.Wait()
				if n := len(w.journal.lines("store", "intend")); tc.paced && n != 1 {
					t.Errorf("%d ledger writes in 5 deliveries, want the first: %q", n, w.journal.lines("store", "intend"))
				}
				if !tc.paced {
					return
				}
				late := order("b")
				late.Waiting, late.Request.Deadline = waiting, time.Now().Add(30*time.Second)
				if d := wk.once(late); d.After > 30*time.Second {
					t.Errorf("a wait of %s with 30s to the deadline", d.After)
				}
			})
		})
	}
}

// Short waits keep their slot only while few others want it.
func TestNobodyWaitsInHandInACrowd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for queued, inHand := range map[int]bool{0: true, 63: true, 64: false, 1000: false} {
			w := newWorld(t)
			wk := w.worker()
			wk.gate.Raise(2*time.Second, admission.Rate{})
			m := order("a")
			m.Queued = queued
			began := time.Now()
			d := wk.once(m)
			if (d.Action == provision.Done) != inHand || !inHand && time.Since(began) > 0 {
				t.Errorf("beside %d queued: after %s got %+v", queued, time.Since(began), d)
			}
		}
	})
}

// Who only waits for room does not have the account read for each request.
func TestWaitingDoesNotReadTheAccountEachTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.LimitWait = true
		w.account.room.Remaining.CPUCores = 0
		wk := w.worker()
		for _, key := range []string{"a", "b", "c", "d"} {
			pass(time.Second)
			if d := wk.once(order(key)); d.Reason != provision.WaitLimits {
				t.Errorf("got %+v", d)
			}
		}
		if n := len(w.account.asked()); n != 1 {
			t.Errorf("the account was read %d times within its TTL", n)
		}
	})
}
