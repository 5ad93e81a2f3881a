package provision_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// The order of effects of design section 2, as one merged log.
func TestOrderOfEffects(t *testing.T) {
	tests := map[string]struct {
		script []reply
		want   []string
	}{
		"a server is bought": {
			script: []reply{created()},
			want: []string{
				"load", "facts", "intend creating", "create", "store created", "publish provisioning", "store done", "release",
			},
		},
		"HostUp refuses": {
			script: []reply{refused(422, provision.RefusalFinal)},
			want: []string{
				"load", "facts", "intend creating", "create", "store failed", "publish failed", "store done", "release",
			},
		},
		"the outcome is unknown": {
			script: []reply{lost(500, false)},
			want:   []string{"load", "facts", "intend creating", "create", "store unknown", "look web-a", "finished web-a", "store unknown", "store unknown"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.script = tc.script
				w.worker().once(order("a"))
				synctest.Wait()
				if diff := cmp.Diff(tc.want, w.journal.lines()); diff != "" {
					t.Errorf("effects (-want, +got):\n%s", diff)
				}
			})
		})
	}
}

// What the outside world could see at the moment of each effect.
func TestWhatIsStoredBeforeEachEffect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.api.script = []reply{throttled(time.Second), neverSent(), created()}
		rival := order("rival")
		rival.Request.Name = "WEB-A"
		var rowTaken []bool
		w.api.answers = nil
		for i := range w.api.script {
			w.api.script[i].during = func() {
				// The row of the name is ours while the call is out: a rival's
				// intent for it must fail.
				r := *w.record("a")
				r.Key, r.Request, r.Revision = "rival", rival.Request, 0
				if old := w.shelf.peek("rival"); old != nil {
					r.Revision = old.Revision
				}
				err := w.shelf.ledger().Intend(t.Context(), &r)
				_, taken := errors.AsType[*provision.NameTakenError](err)
				rowTaken = append(rowTaken, taken)
				r.State = provision.StateAccepted
				w.shelf.ledger().Store(t.Context(), &r)
			}
		}
		if d := w.worker().finish(order("a")); d.Action != provision.Done || d.Result != provision.ResultProvisioning {
			t.Fatalf("got %+v", d)
		}
		if diff := cmp.Diff([]bool{true, true, true}, rowTaken); diff != "" {
			t.Errorf("whether the name row was held during each create (-want, +got):\n%s", diff)
		}
		for i, c := range w.api.sent() {
			if c.State != "creating" {
				t.Errorf("create %d: the ledger held %q, not the intent", i+1, c.State)
			}
		}
		if diff := cmp.Diff([]string{"created"}, w.events.states); diff != "" {
			t.Errorf("the ledger when the event was published (-want, +got):\n%s", diff)
		}
		if got := w.record("a"); got.State != provision.StateDone || len(got.Attempts) != 3 || got.Sent != 2 {
			t.Errorf("state %s, %d attempts, %d sent; want done, 3, 2 (a call that was not sent does not count)", got.State, len(got.Attempts), got.Sent)
		}
	})
}

// Nothing waits between intent and POST, each intent has one POST, and the
// call ends when the intent says it does.
func TestOneCreatePerIntentAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.account.takes = 3 * time.Second
		w.api.script = []reply{throttled(2 * time.Second), neverSent(), throttled(time.Hour), created()}
		w.worker().finish(order("a"))
		creates, intents := 0, 0
		all := w.journal.all()
		for i, e := range all {
			switch e.Op {
			case "intend":
				intents++
				if i+1 == len(all) || all[i+1].Op != "create" || !all[i+1].At.Equal(e.At) {
					t.Errorf("after intent %d came %s at +%s, not its create at once", intents, all[i+1], all[i+1].At.Sub(e.At))
				}
			case "create":
				creates++
			}
		}
		if creates != 4 || intents != 4 {
			t.Errorf("%d creates for %d intents; want 4 and 4", creates, intents)
		}
		for i, c := range w.api.sent() {
			if want := c.At.Add(w.cfg.CreateTimeout); !c.Deadline.Equal(want) {
				t.Errorf("create %d may run until %s; the intent allows until %s", i+1, c.Deadline, want)
			}
		}
	})
}

// An intent that took most of the call's time to store is given up, because an
// observer counts from when it saw the intent.
func TestSlowIntentIsNotSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.shelf.plan = func(n int, _ string, _ *provision.Record) fault {
			if n != 1 {
				return nil
			}
			return func(do func() error) error { err := do(); pass(50 * time.Second); return err }
		}
		if d := w.worker().finish(order("a")); d.Result != provision.ResultProvisioning {
			t.Fatalf("got %+v", d)
		}
		r := w.record("a")
		if len(r.Attempts) != 2 || r.Attempts[0].Verdict != provision.VerdictNeverSent || r.Sent != 1 {
			t.Errorf("attempts %+v, sent %d; want never-sent, created and 1", r.Attempts, r.Sent)
		}
	})
}

// The event that a redelivery publishes from the ledger is the one that was
// published from memory.
func TestSameEventFromMemoryAndLedger(t *testing.T) {
	tests := map[string]struct{ answer reply }{
		"created": {created()},
		"refused": {refused(409, provision.RefusalFinal)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.script = []reply{tc.answer}
				w.events.ambiguous = 1
				wk := w.mortal(6, true) // right after the first publish
				wk.deliver(t.Context(), order("a"))
				w.worker().finish(order("a"))
				all := w.events.all()
				if len(all) != 2 {
					t.Fatalf("%d events published, want the same one twice", len(all))
				}
				if diff := cmp.Diff(all[0], all[1]); diff != "" {
					t.Errorf("first and repeated event (-first, +repeated):\n%s", diff)
				}
			})
		})
	}
}
