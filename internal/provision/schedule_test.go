package provision_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// The first look is at once, the pauses grow, the last look is at the settle
// time of the verdict, and only then is the call made again.
func TestScheduleOfLooks(t *testing.T) {
	tests := map[string]struct {
		answer reply
		reads  int
		over   time.Duration
		looks  int
	}{
		"Unanswered":      {lost(0, false), 4, 10 * time.Minute, 4},
		"AnsweredBare502": {lost(502, false), 4, 10 * time.Minute, 4},
		"Answered":        {answered(500, false), 4, 2 * time.Minute, 4},
		"OneRead":         {lost(0, false), 1, 10 * time.Minute, 2},
		"TwoReads":        {lost(0, false), 2, 10 * time.Minute, 2},
		"ManyReads":       {lost(0, false), 40, 10 * time.Minute, 40},
	}
	for name, tc := range tests {
		for _, sole := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					w.cfg.SettleReads = tc.reads
					w.api.script = []reply{tc.answer}
					wk := w.worker()
					if sole {
						wk.finish(order("a"))
					} else {
						relay(w, order("a"))
					}
					calls, looks := w.api.sent(), w.inventory.looked()
					if n := len(looks); n > 0 && len(calls) == 2 {
						// One more stands right before the second call.
						if d := calls[1].At.Sub(looks[n-1].At); d != 0 {
							t.Errorf("the look before the second call was %s old", d)
						}
						looks = looks[:n-1]
					}
					if len(calls) != 2 || len(looks) != tc.looks {
						t.Fatalf("%d creates, %d looks; want 2, %d", len(calls), len(looks), tc.looks)
					}
					ended := calls[0].Ended
					if d := looks[0].At.Sub(ended); d != 0 {
						t.Errorf("the first look came after %s", d)
					}
					if d := looks[len(looks)-1].At.Sub(ended); d < tc.over || sole && d > tc.over+tc.over/10 {
						t.Errorf("the last look came after %s, not at the settle time %s", d, tc.over)
					}
					for n := 2; n < len(looks) && sole; n++ {
						if before, after := looks[n-1].At.Sub(looks[n-2].At), looks[n].At.Sub(looks[n-1].At); after < before {
							t.Errorf("pause %d was %s, the one before %s", n, after, before)
						}
					}
					if wrong := w.safe("a", true); wrong != nil {
						t.Errorf("%q", wrong)
					}
				})
			})
		}
	}
}

// relay hands every delivery to a new process, each of which knows nothing of
// what the others measured.
func relay(w *world, m provision.Message) {
	for end := time.Now().Add(48 * time.Hour); time.Now().Before(end); m.Deliveries++ {
		wk := w.worker()
		// It stays for a while, as one that is being rolled out would.
		for range 3 {
			d := wk.once(m)
			if d.Action != provision.Retry {
				synctest.Wait()
				return
			}
			pass(max(d.After, time.Millisecond))
		}
	}
	w.t.Fatal("the message never came to an end")
}

// However often the record changes hands, whatever the clocks of those who
// wrote it say, and however often it is delivered early: the settle time is
// measured by somebody, on one clock, in full.
func TestSettleTimeIsNeverShortened(t *testing.T) {
	spoils := map[string]func(w *world, r *provision.Record){
		"TrueClocks": func(*world, *provision.Record) {},
		// The record was written by machines an hour behind: to this one all is long past.
		"HourAhead": func(_ *world, r *provision.Record) { shift(r, -time.Hour) },
		"DayAhead":  func(_ *world, r *provision.Record) { shift(r, -24*time.Hour) },
		"Behind":    func(_ *world, r *provision.Record) { shift(r, time.Hour) },
	}
	for name, spoil := range spoils {
		for _, every := range []time.Duration{20 * time.Second, 7 * time.Minute, 11 * time.Minute} {
			t.Run(name+"/"+every.String(), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					w.cfg.Deadline = 100 * time.Hour
					w.api.script = []reply{lost(0, false)}
					m := order("a")
					deadline := w.worker()
					deadline.once(m)
					for n := 0; len(w.api.sent()) == 1; n++ {
						if n > 5000 {
							t.Fatal("it never goes on")
						}
						r := w.record("a")
						if r.State != provision.StateUnknown {
							t.Fatalf("the record is %s", r.State)
						}
						// What was measured so far is never more than the truth.
						if truth := time.Since(w.api.sent()[0].Ended); r.Search != nil && r.Search.Elapsed > truth {
							t.Fatalf("the record claims %s, it were %s", r.Search.Elapsed, truth)
						}
						spoil(w, r)
						if err := w.shelf.ledger().Store(t.Context(), r); err != nil {
							t.Fatal(err)
						}
						wk := deadline
						if n%3 > 0 {
							wk = w.worker()
							wk.once(m)
							pass(every)
						}
						m.Deliveries++
						wk.once(m)
						pass(every)
					}
					synctest.Wait()
					if wrong := w.safe("a", true); wrong != nil {
						t.Errorf("%q", wrong)
					}
				})
			})
		}
	}
}

// shift moves every time in a record but the deadline and what identifies it.
func shift(r *provision.Record, by time.Duration) {
	for i := range r.Attempts {
		r.Attempts[i].EndedAt = r.Attempts[i].EndedAt.Add(by)
	}
	r.UpdatedAt, r.CreatedAt = r.UpdatedAt.Add(by), r.CreatedAt.Add(by)
	if !r.NotBefore.IsZero() {
		r.NotBefore = r.NotBefore.Add(by)
	}
}

// A look that failed, was throttled, refused or not readable proves nothing.
func TestFailedLooksDoNotCount(t *testing.T) {
	throttle := &provision.ReadError{Status: 429, Throttled: true, RetryAfter: 25 * time.Minute, Err: errLook}
	auth := &provision.ReadError{Status: 401, Auth: true, Err: errLook}
	tests := map[string]struct {
		errs []error
		set  func(*world)
		gate time.Duration
	}{
		"Failed":     {errs: []error{lookError(500), lookError(502), lookError(0)}},
		"Unreadable": {errs: []error{lookError(200), lookError(200)}},
		"Throttled":  {errs: []error{throttle}, gate: 25 * time.Minute},
		"Auth":       {errs: []error{auth}},
		"AuthFail":   {errs: []error{auth, auth}, set: func(w *world) { w.cfg.AuthHold = false }},
		"NotAReadError": {errs: []error{
			context.DeadlineExceeded, errLook,
		}},
		"DownForAnHour": {set: func(w *world) {
			began := time.Now()
			w.inventory.down = func() error {
				if time.Since(began) < time.Hour {
					return lookError(503)
				}
				return nil
			}
		}},
		"BirthUnreadable": {set: func(w *world) {
			w.inventory.plant(namesake("a", "x1"))
			w.inventory.broken = map[string]error{"x1": lookError(404)}
			go func() {
				pass(time.Hour)
				w.inventory.mu.Lock()
				defer w.inventory.mu.Unlock()
				w.inventory.servers[0].Live = false
			}()
		}},
		"LedgerUnreadable": {set: func(w *world) {
			began := time.Now()
			w.shelf.loadErr = func(of string) error {
				if of == "web-a" && time.Since(began) < time.Hour {
					return errLedger
				}
				return nil
			}
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				if tc.set != nil {
					tc.set(w)
				}
				w.api.script = []reply{lost(0, false)}
				w.inventory.errs = tc.errs
				wk := w.worker()
				stop := w.tend(wk)
				began := time.Now()
				wk.finish(order("a"))
				stop()
				synctest.Wait()
				good := 0
				for i, l := range w.inventory.looked() {
					if l.Err == nil {
						good++
					}
					if i > 0 && tc.gate > 0 && l.At.Sub(began) < tc.gate {
						t.Errorf("a look %s after a 429 that asked for %s", l.At.Sub(began), tc.gate)
					}
				}
				if n := len(w.inventory.looked()); n > 500 {
					t.Errorf("%d looks: that is a storm", n)
				}
				if good < w.cfg.SettleReads || len(w.api.sent()) != 2 {
					t.Errorf("%d good looks, %d creates", good, len(w.api.sent()))
				}
				if wrong := w.safe("a", true); wrong != nil {
					t.Errorf("%q", wrong)
				}
			})
		})
	}
}

// Nobody looks while the gate is closed, unless the deadline leaves no other
// time.
func TestNoLookBehindTheGate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.api.script = []reply{lost(0, true)}
		w.inventory.lag = time.Minute
		wk := w.worker()
		m := order("a")
		m.Request.Deadline = time.Now().Add(30 * time.Minute)
		wk.once(m)
		wk.gate.Raise(time.Hour, admission.Rate{})
		pass(29 * time.Minute)
		d := wk.once(m)
		if n := len(w.inventory.looked()); n != 1 || d.Reason != provision.WaitGate || d.After > time.Minute {
			t.Errorf("%d looks, %+v", n, d)
		}
		pass(d.After)
		wk.finish(m)
		if r := w.record("a"); r.Outcome.Kind != provision.KindProvisioning || !r.Outcome.Adopted {
			t.Errorf("the look that was due at the deadline did not adopt: %+v", r.Outcome)
		}
	})
}

// A look is as old as its beginning: one that took longer than the settle time
// has not seen what turned up meanwhile.
func TestSlowLookProvesNothingNew(t *testing.T) {
	t.Parallel()
	for _, reads := range []int{1, 2, 4} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.SettleReads = reads
			w.api.script = []reply{lost(0, true)}
			w.inventory.lag = w.cfg.SettleUnanswered - time.Second
			w.inventory.takes = 11 * time.Minute
			w.worker().finish(order("a"))
			if e := w.end("a"); e.Servers != 1 || e.Creates != 1 || !e.Adopted {
				t.Errorf("with %d reads: %+v", reads, e)
			}
		})
	}
}
