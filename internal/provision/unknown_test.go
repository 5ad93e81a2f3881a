package provision_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// What the requester learns of a server that was found.
func TestAdoptedEvent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.api.script = []reply{lost(502, true)}
		w.worker().finish(order("a"))
		e := w.events.all()
		if len(e) != 1 {
			t.Fatalf("%d events", len(e))
		}
		if a := e[0]; a.Kind != provision.KindProvisioning || !a.Adopted || a.VPSID != "vps_1" || a.OrderID != "" || a.InvoiceID != "" || a.Attempts != 1 || a.ID != provision.OutcomeID("a", provision.KindProvisioning) {
			t.Errorf("event %+v", a)
		}
		if r := w.record("a"); r.Outcome.Billed != provision.BilledYes || r.Search != nil || r.WaitReason != "" || !r.NotBefore.IsZero() {
			t.Errorf("record %+v", r)
		}
		if past, err := w.shelf.ledger().Finished(t.Context(), "WEB-A"); err != nil || !past.Includes("vps_1") {
			t.Errorf("the next request of this name could adopt it again: %+v, %v", past, err)
		}
	})
}

// A server that turns up at any time below the settle time is adopted, under
// both policies, and there is never a second call.
func TestVisibilityLagBelowTheSettleTime(t *testing.T) {
	for name, tc := range map[string]struct {
		answer reply
		over   time.Duration
	}{"Unanswered": {lost(0, true), 10 * time.Minute}, "Answered": {answered(500, true), 2 * time.Minute}} {
		for _, part := range []float64{0, 0.05, 0.3, 0.6, 0.9, 0.999999} {
			for _, hold := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/hold=%v", name, part, hold), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						w := newWorld(t)
						w.cfg.HoldUnknown = hold
						w.inventory.lag = time.Duration(float64(tc.over) * part)
						w.api.script = []reply{tc.answer}
						relay(w, order("a"))
						if e := w.end("a"); !e.Adopted || e.Creates != 1 || e.Servers != 1 || e.Held != nil {
							t.Errorf("%+v", e)
						}
						if wrong := w.safe("a", true); wrong != nil {
							t.Errorf("%q", wrong)
						}
					})
				})
			}
		}
	}
}

// The assumption on which absence is proved: a server is in the inventory
// within the settle time of its call. Beyond it there is a second server; that
// is the documented limit, and the reason for WORKER_UNKNOWN_POLICY=hold,
// which does not have it.
func TestAssumptionServersTurnUpWithinTheSettleTime(t *testing.T) {
	for _, hold := range []bool{false, true} {
		t.Run(fmt.Sprintf("hold=%v", hold), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.HoldUnknown = hold
				w.inventory.lag = 15 * time.Minute
				w.api.script = []reply{lost(0, true)}
				w.worker().finish(order("a"))
				want := map[bool]int{false: 2, true: 1}[hold]
				if e := w.end("a"); e.Servers != want || len(e.Outcomes) != 1 || len(e.Held) != 2-want {
					t.Errorf("%+v, want %d servers", e, want)
				}
			})
		})
	}
}

// The other assumption: the worker's clock is at most two minutes ahead of
// HostUp's. Otherwise its own server looks like an older namesake.
func TestAssumptionClocksAgreeWithinTwoMinutes(t *testing.T) {
	for skew, servers := range map[time.Duration]int{-2 * time.Minute: 1, 2 * time.Hour: 1, -3 * time.Minute: 2} {
		t.Run(skew.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.inventory.skew = skew
				w.api.script = []reply{lost(0, true)}
				w.worker().finish(order("a"))
				if e := w.end("a"); e.Servers != servers {
					t.Errorf("%+v, want %d servers", e, servers)
				}
			})
		})
	}
}

// An id that was salvaged from an unreadable answer is stronger than looks
// that find nothing: never a second call.
func TestSalvagedIDIsNeverRetried(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		salvaged := lost(201, true)
		salvaged.answer.VPSID = "vps_1"
		w.inventory.lag = 100 * time.Hour
		w.api.script = []reply{salvaged}
		w.worker().finish(order("a"))
		if e := w.end("a"); e.Creates != 1 || len(e.Held) != 1 || e.Reason != provision.ReasonOutcomeUnknown {
			t.Errorf("%+v", e)
		}
		if e := w.record("a").Evidence; e == nil || len(e.Candidates) != 1 || e.Candidates[0].VPSID != "vps_1" {
			t.Errorf("evidence %+v", e)
		}
	})
}

// Proof of absence goes before a person under hold, once, with the looks.
func TestHoldPolicy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.HoldUnknown = true
		w.api.script = []reply{answered(500, false)}
		w.events.failing = 2
		wk := w.worker()
		wk.until(order("a"), "held")
		r := w.record("a")
		e := w.events.all()
		if len(e) != 1 || e[0].Evidence.Lookups != 4 || len(e[0].Evidence.Attempts) != 1 || len(e[0].Evidence.Candidates) != 0 || r.HeldAnnounced != 1 {
			t.Fatalf("held with %+v, events %+v", r, e)
		}
		if !strings.Contains(r.HeldReason, "hold") {
			t.Errorf("reason %q", r.HeldReason)
		}
		wk.finish(order("a"))
		if got := w.end("a"); got.Reason != provision.ReasonOutcomeUnknown || got.Creates != 1 || len(got.Held) != 1 {
			t.Errorf("%+v", got)
		}
		if o := w.record("a").Outcome; o.Billed != provision.BilledUnknown {
			t.Errorf("billed %s", o.Billed)
		}
	})
}

// The deadline ends the looking; whatever comes then, nothing is sent again.
func TestDeadlineWhileLooking(t *testing.T) {
	sets := map[string]func(*world){
		"Empty":    func(*world) {},
		"Failing":  func(w *world) { w.inventory.down = func() error { return lookError(500) } },
		"Auth":     func(w *world) { w.inventory.down = func() error { return readError(401, 0) } },
		"Throttle": func(w *world) { w.inventory.down = func() error { return readError(429, time.Hour) } },
		"Doubtful": func(w *world) {
			s := namesake("a", "x1")
			s.Born = time.Time{}
			w.inventory.plant(s)
		},
	}
	for name, set := range sets {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				set(w)
				w.api.script = []reply{lost(0, true)}
				w.inventory.lag = 9 * time.Minute
				m := order("a")
				m.Request.Deadline = time.Now().Add(4 * time.Minute)
				wk := w.worker()
				wk.finish(m)
				r := w.record("a")
				if r.Outcome.Reason != provision.ReasonOutcomeUnknown || r.Outcome.Billed != provision.BilledUnknown || r.Outcome.OccurredAt.Sub(m.Request.Deadline) > 15*time.Second {
					t.Errorf("%+v, %s after the deadline", r.Outcome, r.Outcome.OccurredAt.Sub(m.Request.Deadline))
				}
				if wrong := w.safe("a", true); wrong != nil || len(w.api.sent()) != 1 {
					t.Errorf("%d creates, %q", len(w.api.sent()), wrong)
				}
			})
		})
	}
}

// A record that lost its name between intent and withdrawal, because its
// worker died there, may not adopt what the name's owner bought. Found by
// TestAnyHistory (seed 12982824652230734293).
func TestIntentWithoutTheNameClaimsNothing(t *testing.T) {
	for _, first := range []string{"a", "b"} {
		t.Run("first="+first, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.script = []reply{lost(0, true)}
				a, b := order("a"), order("b")
				b.Sequence, b.Request.Name = 2, "WEB-a"
				w.mortal(5, true).deliver(t.Context(), a) // unknown, and the name is its own
				w.mortal(3, true).deliver(t.Context(), b) // creating, without the name
				if w.shelf.state("a") != "unknown" || w.shelf.state("b") != "creating" {
					t.Fatalf("a is %s, b %s", w.shelf.state("a"), w.shelf.state("b"))
				}
				wk := w.worker()
				order := []provision.Message{a, b}
				if first == "b" {
					driven := make(chan struct{})
					defer func() { <-driven }()
					go func() {
						defer close(driven)
						wk.drive(b, time.Now().Add(time.Hour))
					}()
					pass(5 * time.Minute)
					if got := w.shelf.state("b"); got != "unknown" {
						t.Errorf("b is %s while its name is a's", got)
					}
				}
				for _, m := range order {
					wk.finish(m)
				}
				for key, id := range map[string]string{"a": "vps_1", "b": "vps_2"} {
					if got := w.record(key); got.VPSID != id {
						t.Errorf("%s got %q, want %q", key, got.VPSID, id)
					}
					if wrong := w.safe(key, true); wrong != nil {
						t.Errorf("%q", wrong)
					}
				}
			})
		})
	}
}

// The name changes hands in the middle of a look.
func TestCandidateIsAnnouncedDuringTheLook(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.api.script = []reply{lost(0, true)}
		a, b := order("a"), order("b")
		b.Sequence, b.Request.Name = 2, "web-a"
		w.mortal(5, true).deliver(t.Context(), a)
		w.mortal(3, true).deliver(t.Context(), b)
		wk := w.worker()
		wk.once(b)
		pass(2 * w.cfg.CreateTimeout)
		// It ends while b has read which servers are finished, and decides.
		fired := false
		w.shelf.past = func(p provision.Past) provision.Past {
			if !fired {
				fired = true
				w.worker().finish(a)
			}
			return p
		}
		wk.finish(b)
		synctest.Wait()
		for _, key := range []string{"a", "b"} {
			if wrong := w.safe(key, true); wrong != nil {
				t.Errorf("%q", wrong)
			}
		}
	})
}
