package provision_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// salvaged is an answer that cannot be read as a whole and names the server
// that the call made.
func salvaged() reply {
	r := lost(201, true)
	r.answer.VPSID = "vps_1"
	return r
}

// alter changes a server of the account.
func (i *inventory) alter(id string, change func(*rented)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for n := range i.servers {
		if i.servers[n].ID == id {
			change(&i.servers[n])
		}
	}
}

// The account may list a server under another spelling of its name. An id that
// an answer named is looked at by itself.
func TestServerNamedInAnAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*rented)
		adopt  bool
	}{
		"OtherName":      {func(s *rented) { s.Name = "web-a.example.com" }, true},
		"SameName":       {func(*rented) {}, true},
		"OtherSize":      {func(s *rented) { s.Name, s.CPUCores = "web-a.example.com", 8 }, false},
		"OtherSizeOnly":  {func(s *rented) { s.CPUCores = 8 }, false},
		"FixedCycle":     {func(s *rented) { s.PAYG = false }, false},
		"NobodyKnowsAge": {func(s *rented) { s.Name, s.Born = "other", time.Time{} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				r := salvaged()
				r.during = func() { w.inventory.alter("vps_1", tc.change) }
				w.api.script = []reply{r}
				wk := w.worker()
				if tc.adopt {
					wk.finish(order("a"))
					if e := w.end("a"); !e.Adopted || e.Creates != 1 || e.Servers != 1 || e.Held != nil {
						t.Errorf("%+v", e)
					}
					return
				}
				wk.until(order("a"), "held")
				_, err := wk.Resolve(t.Context(), "a", decision(provision.ResolveNotCreated))
				if c, ok := errors.AsType[*provision.CandidatesError](err); !ok || len(c.Candidates) != 1 || c.Candidates[0].VPSID != "vps_1" {
					t.Errorf("not-created: %v", err)
				}
				d := decision(provision.ResolveAdopt)
				d.VPSID = "vps_1"
				if _, err := wk.Resolve(t.Context(), "a", d); err != nil {
					t.Errorf("adopt: %v", err)
				}
				synctest.Wait()
				if e := w.end("a"); !e.Adopted || e.Creates != 1 || len(e.Held) != 1 {
					t.Errorf("%+v", e)
				}
			})
		})
	}
	t.Run("Gone", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			r := salvaged()
			r.during = func() { w.inventory.alter("vps_1", func(s *rented) { s.Live = false }) }
			w.api.script = []reply{r}
			wk := w.worker()
			wk.until(order("a"), "held")
			if _, err := wk.Resolve(t.Context(), "a", decision(provision.ResolveNotCreated)); err != nil {
				t.Error(err)
			}
			w.decided["a"]++
		})
	})
	t.Run("Unreadable", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			w.inventory.broken = map[string]error{"vps_1": lookError(503)}
			w.inventory.lag = 100 * time.Hour
			w.api.script = []reply{salvaged()}
			w.worker().finish(order("a"))
			if e := w.end("a"); e.Creates != 1 || e.Reason != provision.ReasonOutcomeUnknown {
				t.Errorf("%+v", e)
			}
		})
	})
}

// However many attempts follow: one that nobody answered is not forgotten, and
// a server that the account lists far too late is found by whatever look
// follows.
func TestUnansweredAttemptIsNotForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.inventory.lag = 40 * time.Minute
		w.api.script = append([]reply{throttled(0), lost(0, true)}, slices.Repeat([]reply{throttled(0)}, 100)...)
		w.worker().finish(order("a"))
		if e := w.end("a"); e.Servers != 1 || !e.Adopted {
			t.Errorf("%+v after %d attempts", e, w.record("a").Sent)
		}
		r := w.record("a")
		if r.Sent < 40 || len(r.Attempts) > 33 || r.Attempts[1].Number != 2 {
			t.Errorf("%d calls, %d attempts kept: the test needs more, or they are not bounded: %+v", r.Sent, len(r.Attempts), r.Attempts[:3])
		}
	})
}

// A server that was bought is announced also when its answer can be stored only
// after others have proved, wrongly, that there is none: whoever made the call
// knows better.
func TestAnswerAfterTheProofOfItsAbsence(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("again=%v", again), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.StoreTimeout = 2 * time.Hour
				w.inventory.lag = 100 * time.Hour
				w.shelf.plan = func(_ int, _ string, r *provision.Record) fault {
					if r.State == provision.StateCreated {
						return unwritten
					}
					return nil
				}
				if again {
					w.api.script = []reply{created(), throttled(time.Hour)}
				} else {
					// From the second look at the account on it cannot be read.
					w.account.ask = func(n int) (admission.Facts, error) {
						if n > 1 {
							return admission.Facts{}, lookError(503)
						}
						f := roomy()
						f.AskedAt = time.Now()
						return f, nil
					}
				}
				maker, other, m := w.worker(), w.worker(), order("a")
				go maker.deliver(t.Context(), m)
				pass(time.Second)
				m.Deliveries++
				other.until(m, "accepted")
				w.shelf.heal()
				w.account.mu.Lock()
				w.account.ask = nil
				w.account.mu.Unlock()
				pass(5 * time.Minute)
				m.Deliveries++
				w.inventory.alter("vps_1", func(s *rented) { s.Seen = time.Now() })
				other.finish(m)
				if e := w.end("a"); e.Servers != 1 || e.State != "done" || len(e.Outcomes) != 1 || w.record("a").VPSID != "vps_1" {
					t.Errorf("%+v, announced %s", e, w.record("a").VPSID)
				}
				if past, err := w.shelf.ledger().Finished(t.Context(), "web-a"); err != nil || !past.Includes("vps_1") {
					t.Errorf("the name does not know the server: %+v, %v", past, err)
				}
			})
		})
	}
}

// A ledger that lost the record of a call, and a redelivery that then only
// waits until its deadline: the answer does not say that nothing was billed
// without a look.
func TestForgottenCallAtTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.events.failing = 1000 // nothing is announced before the ledger forgets
		m := order("a")
		w.worker().once(m)
		synctest.Wait()
		w.shelf.forget("a")
		w.events.failing = 0
		pass(time.Minute) // what is known of the account is too old by then
		w.account.ask = func(int) (admission.Facts, error) { return admission.Facts{}, lookError(503) }
		m.Deliveries++
		w.worker().finish(m)
		if e := w.end("a"); !e.Adopted || e.Servers != 1 || e.Creates != 1 {
			t.Errorf("%+v", e)
		}
	})
}

// At its deadline a request does not wait for its name: found by a history that
// never ended.
func TestNameTakenAtTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.HoldUnknown = true
		w.inventory.lag = 100 * time.Hour
		w.api.script = []reply{lost(0, true)}
		wk := w.worker()
		first, second := order("a"), order("b")
		second.Request.Name = first.Request.Name
		second.Sequence, second.Deliveries = 2, 2
		second.Request.Deadline = time.Now().Add(30 * time.Minute)
		wk.until(first, "held")
		w.inventory.plant(namesake("a", "vps_x"))
		pass(time.Hour)
		before := time.Now()
		if d := wk.once(second); d.Action != provision.Done || time.Since(before) > time.Second {
			t.Errorf("%+v after %s", d, time.Since(before))
		}
		if r := w.record("b"); r.Outcome == nil || r.Outcome.Reason != provision.ReasonOutcomeUnknown || r.Outcome.Billed != provision.BilledUnknown {
			t.Errorf("record %+v", r)
		}
	})
}
