package provision_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// onHold brings the order a before a person: policy hold, one call.
func onHold(t *testing.T, answer reply) (*world, *worker) {
	t.Helper()
	w := newWorld(t)
	w.cfg.HoldUnknown = true
	w.api.script = []reply{answer}
	w.inventory.lag = time.Hour
	wk := w.worker()
	wk.until(order("a"), "held")
	return w, wk
}

func decision(a provision.ResolveAction) provision.Resolution {
	return provision.Resolution{Action: a, Reason: "ticket 17", By: "kim"}
}

// Only a held request waits for a decision, and nothing is done to others.
func TestResolveOnlyWhatIsHeld(t *testing.T) {
	for state, bring := range states() {
		for _, action := range []provision.ResolveAction{provision.ResolveAdopt, provision.ResolveNotCreated, provision.ResolveAbandon, "guess"} {
			t.Run(state+"/"+string(action), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					bring(w)
					synctest.Wait()
					before, events := w.record("a").Revision, len(w.events.all())
					d := decision(action)
					d.VPSID = "nobody"
					_, err := w.worker().Resolve(t.Context(), "a", d)
					synctest.Wait()
					switch {
					case state != "held":
						if !errors.Is(err, provision.ErrNotHeld) || w.record("a").Revision != before || len(w.events.all()) != events {
							t.Errorf("%v; revision %d -> %d", err, before, w.record("a").Revision)
						}
					case action != provision.ResolveAbandon:
						if err == nil || w.shelf.state("a") != "held" || w.record("a").Resolution != nil {
							t.Errorf("%v, the record is %s", err, w.shelf.state("a"))
						}
					}
				})
			})
		}
	}
	t.Run("unknown key", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			if _, err := newWorld(t).worker().Resolve(t.Context(), "z", decision(provision.ResolveAbandon)); !errors.Is(err, provision.ErrNoRecord) {
				t.Error(err)
			}
		})
	})
}

func TestResolveAdopt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, wk := onHold(t, lost(0, true))
		for _, bad := range []string{"", "nobody", "vps_1"} { // not to be seen yet
			d := decision(provision.ResolveAdopt)
			d.VPSID = bad
			if _, err := wk.Resolve(t.Context(), "a", d); !errors.Is(err, provision.ErrNoServer) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		pass(time.Hour)
		dead := namesake("a", "dead")
		dead.Live = false
		w.inventory.plant(dead)
		w.inventory.broken = map[string]error{"broken": lookError(500)}
		for bad, want := range map[string]error{"dead": provision.ErrNoServer, "broken": errLook} {
			d := decision(provision.ResolveAdopt)
			d.VPSID = bad
			if _, err := wk.Resolve(t.Context(), "a", d); !errors.Is(err, want) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		if w.shelf.state("a") != "held" {
			t.Fatalf("the record is %s", w.shelf.state("a"))
		}
		d := decision(provision.ResolveAdopt)
		d.VPSID = "vps_1"
		now := time.Now()
		if _, err := w.worker().Resolve(t.Context(), "a", d); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r := w.record("a")
		if s := r.Resolution; s == nil || s.By != "kim" || s.Reason != "ticket 17" || !s.At.Equal(now) || s.Action != provision.ResolveAdopt || s.VPSID != "vps_1" {
			t.Errorf("resolution %+v", s)
		}
		if e := w.end("a"); e.State != "done" || !e.Adopted || len(e.Outcomes) != 1 || e.Creates != 1 {
			t.Errorf("%+v", e)
		}
		if past, _ := w.shelf.ledger().Finished(t.Context(), "web-a"); !past.Includes("vps_1") {
			t.Error("the name does not know the server")
		}
		if d := wk.once(order("a")); d.Action != provision.Done || len(w.events.outcomes("a")) != 1 {
			t.Errorf("the message got %+v", d)
		}
	})
}

// A server that was announced for another request is nobody's to give away,
// whatever its name.
func TestResolveAdoptOfAnAnnouncedServer(t *testing.T) {
	for _, name := range []string{"web-b", "WEB-A"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.inventory.plant(namesake("a", "x1"), namesake("a", "x2"))
				b := order("b")
				b.Sequence, b.Request.Name = 2, name
				wk := w.worker()
				wk.finish(b)
				w.api.script = []reply{created(), lost(0, false)}
				wk.until(order("a"), "held")
				d := decision(provision.ResolveAdopt)
				d.VPSID = w.record("b").VPSID
				if _, err := wk.Resolve(t.Context(), "a", d); err == nil || w.shelf.state("a") != "held" {
					t.Errorf("%v, the record is %s", err, w.shelf.state("a"))
				}
				if wrong := w.accounted(); wrong != nil {
					t.Errorf("%q", wrong)
				}
			})
		})
	}
}

func TestResolveNotCreated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, wk := onHold(t, lost(0, false))
		d := decision(provision.ResolveNotCreated)
		w.inventory.errs = []error{lookError(500)}
		if _, err := wk.Resolve(t.Context(), "a", d); !errors.Is(err, errLook) || w.shelf.state("a") != "held" {
			t.Errorf("after a look that failed: %v, %s", err, w.shelf.state("a"))
		}
		for _, known := range []bool{true, false} {
			s := namesake("a", "x1")
			if !known {
				s.Born = time.Time{}
			}
			w.inventory.plant(s)
			_, err := wk.Resolve(t.Context(), "a", d)
			if c, ok := errors.AsType[*provision.CandidatesError](err); !ok || len(c.Candidates) != 1 || !strings.Contains(c.Error(), "x1") || w.shelf.state("a") != "held" {
				t.Errorf("birth known %v: %v, %s", known, err, w.shelf.state("a"))
			}
			w.inventory.servers = nil
		}
		if _, err := wk.Resolve(t.Context(), "a", d); err != nil {
			t.Fatal(err)
		}
		w.decided["a"]++
		if r := w.record("a"); r.State != provision.StateAccepted || r.Resolution.By != "kim" || r.Resolution.At.IsZero() {
			t.Errorf("%+v", r)
		}
		w.worker().finish(order("a"))
		if e := w.end("a"); e.Creates != 2 || e.Servers != 1 || e.Adopted || len(e.Outcomes) != 1 {
			t.Errorf("%+v", e)
		}
		if wrong := w.safe("a", true); wrong != nil {
			t.Errorf("%q", wrong)
		}
	})
}

// A second holding after a wrong decision is announced as the second.
func TestHeldOncePerHolding(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, wk := onHold(t, lost(0, false))
		w.api.script = append(w.api.script, lost(0, false))
		if _, err := wk.Resolve(t.Context(), "a", decision(provision.ResolveNotCreated)); err != nil {
			t.Fatal(err)
		}
		wk.until(order("a"), "held")
		if ids := w.events.ids("a", provision.KindHeld); len(ids) != 2 || ids[1] != provision.HeldID("a", 2) {
			t.Errorf("held events %v", ids)
		}
	})
}

func TestResolveAbandon(t *testing.T) {
	for said, want := range map[provision.Billed]provision.Billed{"": provision.BilledUnknown, provision.BilledNo: provision.BilledNo, provision.BilledYes: provision.BilledYes} {
		t.Run("billed="+string(said), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				answer := lost(0, false)
				answer.answer.Problem = json.RawMessage(`{"status":504}`)
				w, wk := onHold(t, answer)
				// The account need not be there for it.
				w.inventory.down = func() error { return errLook }
				d := decision(provision.ResolveAbandon)
				d.Billed = said
				r, err := wk.Resolve(t.Context(), "a", d)
				synctest.Wait()
				if err != nil || r.Resolution.By != "kim" {
					t.Fatalf("%v, %+v", err, r)
				}
				outs := w.events.all()
				e := outs[len(outs)-1]
				var p provision.Problem
				if err := json.Unmarshal(e.Problem, &p); err != nil || e.Reason != provision.ReasonAbandoned || e.Billed != want || p.Status != 409 ||
					!strings.Contains(p.Detail, "kim") || !strings.Contains(p.Detail, "ticket 17") || string(p.Cause) != `{"status":504}` {
					t.Errorf("event %+v, problem %+v, %v", e, p, err)
				}
				if e := w.end("a"); e.State != "done" || len(e.Outcomes) != 1 || e.Creates != 1 {
					t.Errorf("%+v", e)
				}
			})
		})
	}
}

// Somebody changes the record while a person decides: the decision is not
// stored, and nothing is announced.
func TestResolveIsCompareAndSet(t *testing.T) {
	for _, action := range []provision.ResolveAction{provision.ResolveAdopt, provision.ResolveNotCreated, provision.ResolveAbandon} {
		t.Run(string(action), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w, wk := onHold(t, lost(0, true))
				d := decision(action)
				if action == provision.ResolveAdopt {
					pass(time.Hour)
					d.VPSID = "vps_1"
				}
				rival := true
				w.shelf.plan = func(int, string, *provision.Record) fault {
					if !rival {
						return nil
					}
					rival = false
					return func(do func() error) error {
						r := w.record("a")
						r.HeldReason = "changed"
						if err := w.shelf.ledger().Store(t.Context(), r); err != nil {
							t.Error(err)
						}
						return do()
					}
				}
				events := len(w.events.all())
				if _, err := wk.Resolve(t.Context(), "a", d); !errors.Is(err, provision.ErrConflict) {
					t.Errorf("%v", err)
				}
				synctest.Wait()
				if r := w.record("a"); r.State != provision.StateHeld || r.HeldReason != "changed" || r.Resolution != nil || len(w.events.all()) != events {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

// The events' stream is away: the decision stands and the worker announces it.
func TestResolveIsAnnouncedLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, wk := onHold(t, lost(0, false))
		w.events.failing = 1
		if _, err := wk.Resolve(t.Context(), "a", decision(provision.ResolveAbandon)); err == nil || w.shelf.state("a") != "failed" {
			t.Fatalf("%v, %s", err, w.shelf.state("a"))
		}
		w.worker().finish(order("a"))
		if wrong := w.safe("a", true); wrong != nil {
			t.Errorf("%q", wrong)
		}
	})
}

// Resume drives a record in any state without its message.
func TestResume(t *testing.T) {
	for state, bring := range states() {
		t.Run(state, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				bring(w)
				synctest.Wait()
				wk := w.worker()
				for end := time.Now().Add(48 * time.Hour); ; {
					d := wk.Resume(t.Context(), "a")
					synctest.Wait()
					if d.Key != "a" {
						t.Fatalf("got %+v", d)
					}
					if d.Action != provision.Retry {
						break
					}
					if time.Now().After(end) {
						t.Fatalf("it never ends: %+v", d)
					}
					pass(max(d.After, time.Millisecond))
				}
				if wrong := w.safe("a", true); wrong != nil {
					t.Errorf("%q", wrong)
				}
				if d := wk.Resume(t.Context(), "a"); d.Action != provision.Done || d.Result != provision.ResultDuplicate {
					t.Errorf("once more: %+v", d)
				}
			})
		})
	}
	t.Run("no record", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			if d := w.worker().Resume(t.Context(), "z"); d.Action != provision.Done {
				t.Errorf("got %+v", d)
			}
			w.down(time.Minute)
			if d := w.worker().Resume(t.Context(), "z"); d.Action != provision.Retry {
				t.Errorf("got %+v", d)
			}
		})
	})
}
