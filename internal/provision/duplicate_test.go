package provision_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// states are ways to bring a record into each state and leave it there.
func states() map[string]func(w *world) {
	script := func(r reply) func(*world) {
		return func(w *world) { w.api.script = []reply{r}; w.worker().once(order("a")) }
	}
	dies := func(r reply, at int, after bool) func(*world) {
		return func(w *world) {
			w.api.script = []reply{r}
			w.mortal(at, after).deliver(context.Background(), order("a"))
		}
	}
	return map[string]func(*world){
		"accepted": script(throttled(time.Hour)),
		"creating": dies(created(), 3, true),
		"unknown":  dies(lost(500, false), 5, true),
		"held": func(w *world) {
			script(lost(500, false))(w)
			w.inventory.plant(namesake("a", "x1"), namesake("a", "x2"))
			w.worker().until(order("a"), "held")
		},
		"created": dies(created(), 5, true),
		"failed":  dies(refused(400, provision.RefusalFinal), 5, true),
		"done":    script(created()),
	}
}

// The same request under another sequence is a duplicate in every state: it is
// acked, nothing is sent, and only an unannounced outcome is announced.
func TestDuplicateInEveryState(t *testing.T) {
	announced := map[string]string{"created": "provisioning", "failed": "failed"}
	for state, bring := range states() {
		t.Run(state, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				bring(w)
				synctest.Wait()
				if got := w.shelf.state("a"); got != state {
					t.Fatalf("the record is %s", got)
				}
				before, creates, published := w.record("a"), len(w.api.sent()), len(w.events.all())
				m := order("a")
				m.Sequence = 2
				// Neither counts.
				m.Request.Metadata = map[string]string{"other": "x"}
				m.Request.Deadline = time.Now().Add(time.Minute)
				if d := w.worker().once(m); d.Action != provision.Done || d.Result != provision.ResultDuplicate {
					t.Errorf("got %+v", d)
				}
				synctest.Wait()
				if n := len(w.api.sent()); n != creates {
					t.Errorf("%d creates more", n-creates)
				}
				var kinds []string
				for _, e := range w.events.all()[published:] {
					kinds = append(kinds, string(e.Kind))
				}
				if kind := announced[state]; kind != "" {
					if len(kinds) != 1 || kinds[0] != kind || w.shelf.state("a") != "done" {
						t.Errorf("published %v and left %s; want %s and done", kinds, w.shelf.state("a"), kind)
					}
					return
				}
				if len(kinds) > 0 {
					t.Errorf("published %v", kinds)
				}
				if diff := cmp.Diff(before, w.record("a")); diff != "" {
					t.Errorf("the record changed (-before, +after):\n%s", diff)
				}
			})
		})
	}
}

// A duplicate that cannot announce a waiting outcome is not acked.
func TestDuplicateIsKeptWhileTheEventWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		states()["created"](w)
		w.events.failing = 3
		m := order("a")
		m.Sequence = 2
		if d := w.worker().once(m); d.Action != provision.Retry || d.Reason != provision.WaitPublish {
			t.Errorf("got %+v", d)
		}
		w.worker().finish(m)
		if wrong := w.safe("a", true); wrong != nil {
			t.Errorf("%q", wrong)
		}
	})
}

// A different request under a used key is answered by one rejected event and
// does not disturb the first, in whatever state that is.
func TestConflictInEveryState(t *testing.T) {
	differ := map[string]func(*provision.Request){
		"name": func(r *provision.Request) { r.Name = "other" }, "cores": func(r *provision.Request) { r.CPUCores++ },
		"memory": func(r *provision.Request) { r.MemoryGB++ }, "storage": func(r *provision.Request) { r.StorageGB++ },
		"region": func(r *provision.Request) { r.Region = "gothenburg" },
	}
	for state, bring := range states() {
		for what, change := range differ {
			t.Run(state+"/"+what, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					bring(w)
					synctest.Wait()
					before, _ := json.Marshal(w.record("a"))
					creates, published := len(w.api.sent()), len(w.events.all())
					m := order("a")
					m.Sequence, m.BodyHash = 2, "feedfeedfeedfeed"
					change(&m.Request)
					d := w.worker().once(m)
					synctest.Wait()
					after, _ := json.Marshal(w.record("a"))
					if d.Action != provision.Done || d.Result != provision.ResultRejected || d.Reason != string(provision.ReasonIdempotencyConflict) {
						t.Errorf("got %+v", d)
					}
					if diff := cmp.Diff(string(before), string(after)); diff != "" || len(w.api.sent()) != creates {
						t.Errorf("the first request was disturbed: %s", diff)
					}
					all := w.events.all()[published:]
					if len(all) != 1 {
						t.Fatalf("%d events", len(all))
					}
					if e := all[0]; !e.Rejected || e.ID != provision.RejectedID("a", "feedfeedfeedfeed") || e.Reason != provision.ReasonIdempotencyConflict ||
						!e.Request.Same(m.Request) || e.Billed != provision.BilledNo {
						t.Errorf("event %+v", e)
					}
				})
			})
		}
	}
}

// What fails before the ledger never claims the key.
func TestCorrectedMessageIsWelcome(t *testing.T) {
	wrong := map[string]func(*provision.Message){
		"Faults": func(m *provision.Message) { m.Faults = []provision.Fault{{Pointer: "/name"}} },
		"Region": func(m *provision.Message) { m.Request.Region = "atlantis" },
	}
	for name, spoil := range wrong {
		for _, known := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					if known {
						w.account.facts(time.Now())
					}
					wk := w.worker()
					m := order("a")
					spoil(&m)
					if d := wk.once(m); d.Action != provision.Done || d.Reason != string(provision.ReasonInvalidRequest) {
						t.Errorf("got %+v", d)
					}
					e := w.events.all()[0]
					var p provision.Problem
					json.Unmarshal(e.Problem, &p)
					pointer := map[string]string{"Faults": "/name", "Region": "/region"}[name]
					if !e.Rejected || len(p.Errors) != 1 || p.Errors[0].Pointer != pointer || p.Status != 400 {
						t.Errorf("event %+v with problem %+v", e, p)
					}
					if w.shelf.peek("a") != nil || len(w.api.sent()) != 0 {
						t.Error("the key was claimed")
					}
					better := order("a")
					better.Sequence = 2
					if d := wk.finish(better); d.Result != provision.ResultProvisioning {
						t.Errorf("the corrected message got %+v", d)
					}
				})
			})
		}
	}
}

// A request that was accepted is brought to its end, also if the account does
// not offer its region any more.
func TestRegionWithdrawnAfterAcceptance(t *testing.T) {
	for state, bring := range states() {
		t.Run(state, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				bring(w)
				w.account.mu.Lock()
				w.account.room.Regions, w.account.cache = []string{"gothenburg"}, nil
				w.account.mu.Unlock()
				w.account.facts(time.Now())
				m := order("a")
				m.Deliveries = 2
				d := w.worker().finish(m)
				if d.Result == provision.ResultRejected {
					t.Errorf("the accepted request was answered as if it had never been: %+v", d)
				}
				if wrong := w.safe("a", true); wrong != nil {
					t.Errorf("%q", wrong)
				}
			})
		})
	}
}

// Many deliveries of one key at the same moment: one create.
func TestSimultaneousDeliveries(t *testing.T) {
	t.Parallel()
	for run := range 200 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.api.answers = func(int, provision.Request) reply {
				r := created()
				r.takes = time.Duration(run%3) * time.Second
				return r
			}
			one, two := w.worker(), w.worker()
			var wg sync.WaitGroup
			for i, wk := range []*worker{one, one, two, two} {
				m := order("a")
				if run%2 == 0 {
					m.Sequence = uint64(i + 1)
				}
				wg.Go(func() { wk.drive(m, time.Now().Add(time.Hour)) })
			}
			wg.Wait()
			synctest.Wait()
			if wrong := w.safe("a", true); wrong != nil || len(w.api.sent()) != 1 {
				t.Errorf("%d creates, %q", len(w.api.sent()), wrong)
			}
		})
	}
}

// What cannot be read is dead; with a key it is also answered, and only then.
func TestDefects(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		wk := w.worker()
		defect := &provision.Defect{Reason: provision.DeadUndecodable, Detail: "not JSON"}
		if d := wk.once(provision.Message{Defect: defect}); d.Action != provision.Dead || d.Defect != defect || len(w.events.all()) != 0 {
			t.Errorf("without a key: %+v", d)
		}
		m := provision.Message{Defect: defect, Request: provision.Request{Key: "a"}, BodyHash: "aa", Deliveries: 1}
		w.events.failing = 1
		if d := wk.once(m); d.Action != provision.Retry || d.Reason != provision.WaitPublish {
			t.Errorf("before the event is stored: %+v", d)
		}
		if d := wk.once(m); d.Action != provision.Dead || d.Defect != defect || d.Key != "a" {
			t.Errorf("with a key: %+v", d)
		}
		if e := w.events.all()[0]; e.Reason != provision.ReasonUndecodable || !e.Rejected || e.ID != provision.RejectedID("a", "aa") {
			t.Errorf("event %+v", e)
		}
	})
}
