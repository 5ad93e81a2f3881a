package provision_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Each write of a history meets each kind of trouble once.
func TestLedgerTroubleAtEveryWrite(t *testing.T) {
	faults := map[string]fault{"NotWritten": unwritten, "AnswerLost": lostAnswer, "Conflict": conflicting}
	for name, script := range scenarios() {
		for kind, f := range faults {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				for at := 1; at <= 10; at++ {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t)
						w.api.script = script
						w.shelf.plan = func(n int, _ string, _ *provision.Record) fault {
							if n == at {
								return f
							}
							return nil
						}
						wk := w.worker()
						stop := w.tend(wk)
						m := order("a")
						wk.finish(m)
						// A duplicate makes good for a lost "done".
						m.Sequence++
						wk.finish(m)
						stop()
						synctest.Wait()
						wrong := w.safe("a", true)
						if r := w.record("a"); r.Sent != sentOf(w.api.sent()) {
							wrong = append(wrong, fmt.Sprintf("the record counts %d calls, the API %d", r.Sent, sentOf(w.api.sent())))
						}
						if wrong != nil {
							t.Errorf("trouble at write %d: %q\n%s", at, wrong, strings.Join(w.journal.lines(), "\n"))
						}
					})
				}
			})
		}
	}
}

// sentOf counts the calls that the contract counts as attempts.
func sentOf(calls []call) int {
	n := 0
	for _, c := range calls {
		if c.Verdict != provision.VerdictNeverSent {
			n++
		}
	}
	return n
}

// down makes the ledger refuse everything for a time from now.
func (w *world) down(d time.Duration) {
	until := time.Now().Add(d)
	w.shelf.plan = func(int, string, *provision.Record) fault {
		if time.Now().Before(until) {
			return unwritten
		}
		return nil
	}
	w.shelf.loadErr = func(string) error {
		if time.Now().Before(until) {
			return errLedger
		}
		return nil
	}
}

// A ledger that is away when a server has been paid for gets the result as
// soon as it is back.
func TestPaidResultIsOfferedUntilTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		bought := created()
		bought.during = func() { w.down(25 * time.Second) }
		w.api.script = []reply{bought}
		d := w.worker().once(order("a"))
		synctest.Wait()
		want := end{State: "done", Outcomes: []string{provision.OutcomeID("a", provision.KindProvisioning)}, Creates: 1, Servers: 1}
		if diff := cmp.Diff(want, w.end("a")); diff != "" || d.Result != provision.ResultProvisioning {
			t.Errorf("%+v (-want, +got):\n%s", d, diff)
		}
	})
}

// While the ledger takes no writes and answers no reads at once, offering the
// result does not become a busy loop.
func TestOfferingPausesWhenReadsFail(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		tries := 0
		bought := created()
		bought.during = func() {
			until := time.Now().Add(10 * time.Second)
			w.shelf.plan = func(int, string, *provision.Record) fault {
				if tries++; tries > 10_000 {
					return nil
				}
				if time.Now().Before(until) {
					return conflicting
				}
				return nil
			}
			w.shelf.loadErr = func(string) error {
				if time.Now().Before(until) && tries <= 10_000 {
					return errLedger
				}
				return nil
			}
		}
		w.api.script = []reply{bought}
		w.worker().finish(order("a"))
		if tries > 1000 {
			t.Errorf("the result was offered %d times in 10 s", tries)
		}
		if wrong := w.safe("a", true); wrong != nil {
			t.Errorf("%q", wrong)
		}
	})
}

// late runs a create that ends in the given way, but cannot store its result
// until an observer has given the attempt up and held the request.
func late(t *testing.T, w *world, answer reply, until func()) (maker *worker, d provision.Disposition) {
	t.Helper()
	w.cfg.StoreTimeout = 10 * time.Hour
	w.cfg.HoldUnknown = true
	maker = w.worker()
	observer := w.worker()
	m := order("a")
	held := false
	answer.during = func() {
		// The observer's life, in the middle of the maker's call.
		for !held {
			d := observer.once(m)
			pass(d.After)
			held = w.shelf.state("a") == "held"
		}
		until()
	}
	w.api.script = append([]reply{answer}, w.api.script...)
	d = maker.once(m)
	synctest.Wait()
	return maker, d
}

// A result that arrives after an observer gave the attempt up.
func TestLateResult(t *testing.T) {
	salvaged := lost(201, true)
	salvaged.answer.VPSID = "vps_1"
	tests := map[string]struct {
		reason string
		answer reply
		want   string
		sent   int
		held   int
	}{
		"Created":   {"the one who made the call knows better", created(), "done", 1, 1},
		"Refused":   {"nothing was bought after all", refused(400, provision.RefusalFinal), "done", 1, 1},
		"Unknown":   {"no news: it stays held and is not announced again", lost(0, true), "held", 1, 1},
		"Unknown5":  {"no news, and the call counts once", lost(503, false), "held", 1, 1},
		"Salvaged":  {"an id is news: it is looked up once more and found", salvaged, "done", 1, 1},
		"NeverSent": {"nothing was sent: it goes on and does not count", neverSent(), "done", 1, 1},
		"Throttled": {"nothing was bought: it goes on", throttled(0), "done", 2, 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				wk, d := late(t, w, tc.answer, func() {})
				if d.Action == provision.Retry && tc.want == "done" {
					wk.finish(order("a"))
				}
				r := w.record("a")
				held := w.events.ids("a", provision.KindHeld)
				if string(r.State) != tc.want || r.Sent != tc.sent || len(held) != tc.held {
					t.Errorf("%s: state %s, %d sent, held %v; want %s, %d, %d of them\n%s", tc.reason, r.State, r.Sent, held, tc.want, tc.sent, tc.held,
						strings.Join(w.journal.lines(), "\n"))
				}
				if n := w.api.made("a"); n > 1 {
					t.Errorf("%d servers", n)
				}
			})
		})
	}
}

// A server that was bought for a request which has failed meanwhile is at
// least said aloud.
func TestResultTooLateIsLogged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		maker, _ := late(t, w, created(), func() {
			pass(3 * time.Hour)
			w.worker().finish(order("a"))
		})
		if r := w.record("a"); r.State != provision.StateDone || r.Outcome.Reason != provision.ReasonOutcomeUnknown {
			t.Fatalf("got %+v", r)
		}
		if log := maker.logs.String(); !strings.Contains(log, "too late") || !strings.Contains(log, "vps_1") {
			t.Errorf("nobody learns of the server; the log is\n%s", log)
		}
		if wrong := w.safe("a", true); wrong != nil {
			t.Errorf("%q", wrong)
		}
	})
}

// A result may only be written into its own attempt: after a person said that
// nothing was created, a newer attempt is not overwritten, and it is said aloud.
func TestLateResultOfAnOlderAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.api.script = []reply{lost(500, false)} // of the second attempt
		maker, _ := late(t, w, created(), func() {
			r := w.record("a")
			r.State = provision.StateAccepted
			if err := w.shelf.ledger().Store(t.Context(), r); err != nil {
				t.Error(err)
			}
			w.worker().once(order("a"))
		})
		r := w.record("a")
		if r.State != provision.StateUnknown || len(r.Attempts) != 2 || r.Attempts[1].Status != 500 || r.VPSID != "" {
			t.Errorf("got %+v", r)
		}
		if log := maker.logs.String(); !strings.Contains(log, "too late") || !strings.Contains(log, "vps_1") {
			t.Errorf("nobody learns of the server; the log is\n%s", log)
		}
	})
}

// A write of our own whose answer was lost is not reported as somebody else's.
func TestOwnLostWriteIsNoAlarm(t *testing.T) {
	for name, answer := range map[string]reply{"created": created(), "throttled": throttled(time.Second), "refused": refused(400, provision.RefusalFinal)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.script = []reply{answer}
				w.shelf.plan = func(n int, _ string, _ *provision.Record) fault {
					if n == 2 {
						return lostAnswer
					}
					return nil
				}
				wk := w.worker()
				wk.finish(order("a"))
				if log := wk.logs.String(); strings.Contains(log, "too late") {
					t.Errorf("false alarm:\n%s", log)
				}
			})
		})
	}
}

// The ledger lost the record while the call was out.
func TestLedgerLosesTheIntent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		bought := created()
		bought.during = w.shelf.lose
		w.api.script = []reply{bought}
		w.worker().finish(order("a"))
		want := end{State: "done", Outcomes: []string{provision.OutcomeID("a", provision.KindProvisioning)}, Creates: 1, Servers: 1}
		if diff := cmp.Diff(want, w.end("a")); diff != "" {
			t.Errorf("(-want, +got):\n%s", diff)
		}
	})
}

// The ledger is away before anything was begun: nothing is sent, the message
// is kept, and it goes on later.
func TestLedgerDownBeforeTheIntent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.down(5 * time.Minute)
		wk := w.worker()
		d := wk.once(order("a"))
		if d.Action != provision.Retry || d.Reason != provision.WaitLedger || !errors.Is(d.Err, errLedger) {
			t.Fatalf("got %+v", d)
		}
		wk.finish(order("a"))
		if wrong := w.safe("a", true); wrong != nil || len(w.api.sent()) != 1 {
			t.Errorf("%d creates, %q", len(w.api.sent()), wrong)
		}
	})
}

// An unfinished request has the name: the intent is withdrawn, nothing is
// sent, and it goes on when the name is free.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	for range 30 { // the jitter decides where the waiting ends
		synctest.Test(t, nameTaken)
	}
}

func nameTaken(t *testing.T) {
	w := newWorld(t)
	slow := created()
	slow.takes = 40 * time.Second
	w.api.script = []reply{slow}
	first, second := order("a"), order("b")
	second.Sequence, second.Request.Name = 2, "WEB-A"
	wk := w.worker()
	done := make(chan struct{})
	go func() { defer close(done); wk.once(first) }()
	synctest.Wait()
	d := wk.once(second)
	if d.Action != provision.Retry || d.Reason != provision.WaitName {
		t.Fatalf("the second got %+v", d)
	}
	if got := w.record("b"); got.State != provision.StateAccepted || got.WaitReason != provision.WaitName || got.Sent != 0 {
		t.Errorf("the second is %s, waits for %q, %d sent", got.State, got.WaitReason, got.Sent)
	}
	wk.finish(second)
	<-done
	calls := w.api.sent()
	if len(calls) != 2 || calls[1].At.Before(calls[0].Ended) {
		t.Errorf("calls %+v: want one after the other", calls)
	}
	for _, key := range []string{"a", "b"} {
		if n := w.api.made(key); n != 1 {
			t.Errorf("%d servers for %q", n, key)
		}
	}
}

// A release that is slow must not give away the name of the next attempt, not
// even when the record keeps no more attempts.
func TestSlowReleaseGivesAwayNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.InlineWait = time.Hour
		w.cfg.BackoffMax = 2 * time.Second
		for range 40 {
			w.api.script = append(w.api.script, neverSent())
		}
		wk := w.worker()
		names := &slowNames{ledgerPort: ledgerPort{wk}, w: w}
		ports := provision.Ports{Ledger: ledgerPort{wk}, Names: names, API: apiPort{wk}, Account: accountPort{wk}, Inventory: inventoryPort{wk}, Events: eventsPort{wk}}
		p := newProvisioner(t, w, ports)
		if d := p.Handle(t.Context(), order("a")); d.Action != provision.Done {
			t.Fatalf("got %+v", d)
		}
		synctest.Wait()
		pass(time.Minute)
		for _, c := range names.changed {
			t.Errorf("while a name was being released: %s", c)
		}
	})
}

type slowNames struct {
	ledgerPort
	w       *world
	changed []string
}

// Release looks at the record twice, with attempts of the same request in
// between.
func (n *slowNames) Release(_ context.Context, r *provision.Record) error {
	count := len(r.Attempts)
	last := r.Attempts[count-1]
	pass(10 * time.Second)
	if now := r.Attempts[count-1]; now.Token != last.Token {
		n.changed = append(n.changed, fmt.Sprintf("attempt %d became attempt %d", last.Number, now.Number))
	}
	return nil
}
