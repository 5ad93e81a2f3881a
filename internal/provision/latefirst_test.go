package provision_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// lateOrder is an order whose first call comes late.
func lateOrder(how string) provision.Message {
	m := order("a")
	switch how {
	case "redelivered":
		m.Deliveries = 2
	case "old":
		m.StoredAt = time.Now().Add(-time.Minute - time.Second)
	}
	return m
}

// A late first call is preceded by a look; an early one is not.
func TestLateFirstCallLooks(t *testing.T) {
	for how, looks := range map[string]int{"fresh": 0, "redelivered": 1, "old": 1} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.worker().finish(lateOrder(how))
				if n := len(w.inventory.looked()); n != looks {
					t.Errorf("%d looks, want %d", n, looks)
				}
				if e := w.end("a"); e.Servers != 1 || e.Adopted {
					t.Errorf("%+v", e)
				}
			})
		})
	}
}

// The ledger forgot everything at any moment after the call was sent: the
// server is adopted, never bought twice.
func TestLedgerLostAfterTheCall(t *testing.T) {
	t.Parallel()
	for at := 4; at <= 8; at++ {
		for _, answer := range []reply{created(), lost(0, true)} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.script = []reply{answer}
				m := order("a")
				w.mortal(at, true).deliver(t.Context(), m)
				w.shelf.lose()
				w.wiped["a"] = true
				m.Deliveries++
				pass(20 * time.Minute)
				w.worker().finish(m)
				r := w.record("a")
				if r.VPSID != "vps_1" || !r.Outcome.Adopted || w.api.made("a") != 1 {
					t.Errorf("died at %d: %+v with %q", at, w.end("a"), r.VPSID)
				}
				if wrong := w.safe("a", true); wrong != nil {
					t.Errorf("died at %d: %q", at, wrong)
				}
			})
		}
	}
}

// Finding its own server and meeting trouble while storing that is no licence
// to call.
func TestLateFirstCallAndLedgerTrouble(t *testing.T) {
	for name, f := range map[string]fault{"NotWritten": unwritten, "AnswerLost": lostAnswer, "Conflict": conflicting} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 1; at <= 6; at++ {
				for _, twice := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t)
						w.inventory.plant(namesake("a", "mine"))
						w.shelf.plan = func(n int, _ string, _ *provision.Record) fault {
							if n == at || twice && n == at+1 {
								return f
							}
							return nil
						}
						m := lateOrder("redelivered")
						w.worker().finish(m)
						m.Sequence++
						w.worker().once(m)
						if r := w.record("a"); r.VPSID != "mine" || len(w.api.sent()) != 0 || r.Sent < 0 {
							t.Errorf("trouble at %d: %q, %d creates, %d sent", at, r.VPSID, len(w.api.sent()), r.Sent)
						}
					})
				}
			}
		})
	}
}

// A look that fails before a late first call makes it wait, with growing
// pauses, and not for ever.
func TestLateFirstCallWaitsForTheLook(t *testing.T) {
	for name, of := range map[string]error{"down": lookError(503), "throttled": readError(429, 10*time.Minute), "auth": readError(401, 0)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				began := time.Now()
				w.inventory.down = func() error {
					if time.Since(began) < 30*time.Minute {
						return of
					}
					return nil
				}
				wk := w.worker()
				stop := w.tend(wk)
				wk.finish(lateOrder("old"))
				stop()
				synctest.Wait()
				if c := w.api.sent(); len(c) != 1 || c[0].At.Sub(began) < 30*time.Minute {
					t.Errorf("calls %+v", c)
				}
				if n := len(w.inventory.looked()); n > 250 {
					t.Errorf("%d looks in half an hour: that is a storm", n)
				}
			})
		})
	}
}

// A server of another unfinished request of that name is not stolen, and one
// of a finished request is not taken for its own.
func TestLateFirstCallLeavesWhatIsOthers(t *testing.T) {
	for name, finishes := range map[string]bool{"Unfinished": false, "Finished": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.script = []reply{lost(0, true)}
				late := lateOrder("old")
				late.Sequence, late.Request.Key = 2, "b"
				wk := w.worker()
				if finishes {
					wk.finish(order("a"))
				} else {
					w.mortal(5, true).deliver(t.Context(), order("a"))
					d := wk.once(late)
					if d.Action != provision.Retry || d.Reason != provision.WaitName || w.shelf.state("b") != "accepted" || len(w.record("b").Attempts) != 0 {
						t.Errorf("b got %+v and is %+v", d, w.record("b"))
					}
					pass(d.After)
					wk.finish(order("a"))
				}
				wk.finish(late)
				if a, b := w.record("a").VPSID, w.record("b").VPSID; a != "vps_1" || b != "vps_2" {
					t.Errorf("a got %q, b %q", a, b)
				}
				for _, key := range []string{"a", "b"} {
					if wrong := w.safe(key, true); wrong != nil {
						t.Errorf("%q", wrong)
					}
				}
			})
		})
	}
}

// The deadline passes, and the gate closes, while the look is under way.
func TestLateLookTakesItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.inventory.takes = 2 * time.Minute
		m := lateOrder("redelivered")
		m.Request.Deadline = time.Now().Add(time.Minute)
		w.worker().finish(m)
		if e := w.end("a"); e.Creates != 0 || e.Reason != provision.ReasonDeadlineExceeded {
			t.Errorf("%+v", e)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		wk := w.worker()
		w.inventory.during = func() { wk.gate.Raise(time.Hour, admission.Rate{}) }
		if d := wk.once(lateOrder("redelivered")); d.Reason != provision.WaitGate || len(w.api.sent()) != 0 {
			t.Errorf("got %+v, %d creates", d, len(w.api.sent()))
		}
	})
}

// A server that HostUp lists only after the settle time is still found by
// whatever look follows: the one before a call that had to wait, those after a
// later call that was lost as well, and the last one at the deadline.
func TestServerListedAfterTheSettleTime(t *testing.T) {
	for name, tc := range map[string]struct {
		second reply
		limit  time.Duration
		calls  int
	}{
		"BeforeTheNextCall":   {throttled(time.Hour), 0, 2},
		"AfterTheNextLostOne": {lost(0, false), 0, 2},
		"AtTheDeadline":       {throttled(time.Hour), 30 * time.Minute, 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.inventory.lag = 15 * time.Minute
				w.api.script = []reply{lost(0, true), tc.second}
				m := order("a")
				if tc.limit > 0 {
					m.Request.Deadline = time.Now().Add(tc.limit)
				}
				w.worker().finish(m)
				if e := w.end("a"); e.Servers != 1 || !e.Adopted || e.Creates != tc.calls {
					t.Errorf("%+v, want one adopted server after %d calls", e, tc.calls)
				}
			})
		})
	}
}
