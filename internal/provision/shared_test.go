package provision_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// A storm of looks where reads and creates share one limit: neither keeps the other
// from being sent. Where every answer tells of it, none is refused.
func TestStormOfLooksUnderASharedLimit(t *testing.T) {
	const n, more, limit, span = 1000, 200, 100, 5 * time.Second
	for _, headers := range []string{"all", "429"} {
		t.Run(headers, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.account.apart = true
				w.reads = &limiter{limit: limit, window: span, headers: headers}
				accepted := 0
				w.api.answers = func(i int, q provision.Request) reply {
					r := w.reads.answer(i, q)
					if r.buys {
						accepted++
					}
					if r.buys && accepted <= n {
						r = lost(0, accepted%2 == 0)
					}
					r.takes = 50 * time.Millisecond
					return r
				}
				f := storm(w, n, n+more)
				if gate, _ := f.rows.stored(); !gate.Shared {
					t.Errorf("the gate of the creates: %+v", gate)
				}
				calls, refused := w.reads.count(t)
				if headers == "all" && refused > 0 || refused > calls/5 {
					t.Errorf("of %d calls %d were refused", calls, refused)
				}
				creates := w.api.sent()
				for i := 1; i < len(creates)*3/4; i++ {
					if d := creates[i].At.Sub(creates[i-1].At); d > 4*span {
						t.Errorf("no create for %s before the %dth of %d", d, i+1, len(creates))
					}
				}
				windows := w.reads.windows
				took := windows[len(windows)-1].opened.Sub(windows[0].opened)
				if least := time.Duration(calls/limit) * span; took > 2*least {
					t.Errorf("it took %s, and %s had been enough", took, least)
				}
			})
		})
	}
}

// A window that holds two calls is enough, also for requests that each have to look
// first: nobody keeps one while waiting for the other.
func TestSmallSharedLimits(t *testing.T) {
	for _, limit := range []int{2, 3, 5} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.account.apart = true
				w.reads = &limiter{limit: limit, window: 2 * time.Second, headers: "all"}
				w.api.answers = w.reads.answer
				f := newCrew(w, 2, 7)
				f.meterReads(8)
				f.publish(0, 30)
				for i := range f.queue {
					f.queue[i].m.Deliveries = 2 // each looks first
				}
				began := time.Now()
				f.run(8, func() bool { return f.servers() >= 30 || time.Since(began) > 10*time.Minute })
				if n := f.servers(); n != 30 {
					t.Errorf("%d servers after %s", n, time.Since(began))
				}
				w.reads.oneRefused(t)
				w.reads.count(t)
			})
		})
	}
}

// Reads that draw on the budget of the creates are in the shared row before they
// are sent: another replica would hand out their places otherwise. Where nobody
// can say whether there is a place they are not sent, and nobody waits for long.
func TestReadsTakePermitsOfTheCreates(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newCrew(newWorld(t), 2, 3)
		f.meterReads(4)
		one, other := f.workers[0].turns, f.workers[1].turns
		read(t, one)(provision.ReadAnswer{Status: 200, Rate: admission.Rate{Limit: 40, Remaining: 38, Reset: time.Minute}})
		pass(time.Second)
		for n, turns := range []*provision.ReadGate{one, other, one} {
			read(t, turns)
			if row, _ := f.rows.stored(); row.Used != n+3 {
				t.Errorf("after %d reads %d of the budget are used: %+v", n+1, row.Used, row)
			}
		}
		f.rows.mu.Lock()
		f.rows.down = true
		f.rows.mu.Unlock()
		began := time.Now()
		_, err := one.Enter(t.Context())
		if _, ok := errors.AsType[*provision.ReadsUsedUpError](err); !ok || time.Since(began) > 2*time.Second {
			t.Errorf("without a ledger it waited %s: %v", time.Since(began), err)
		}
		f.rows.mu.Lock()
		f.rows.down = false
		f.rows.mu.Unlock()
		pass(500 * time.Millisecond)
		if row, _ := f.rows.stored(); row.Used != 5 {
			t.Errorf("a read that was given up has its place: %+v", row)
		}
		f.stop()
	})
}

// What stops creates stops no reads: the brake, the ramp, a key that is refused.
func TestWhatStopsNoReads(t *testing.T) {
	for name, stop := range map[string]func(*testing.T, *crew){
		"Ramp": func(t *testing.T, f *crew) { enter(t, f.workers[0].gate, "one") },
		"Brake": func(_ *testing.T, f *crew) {
			f.workers[0].BrakeChanged(f.t.Context(), admission.Brake{On: true, Revision: 9})
		},
		"Key": func(_ *testing.T, f *crew) { f.workers[0].gate.Hold(provision.WaitAuth) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newCrew(newWorld(t), 1, 3)
				f.meterReads(4)
				f.rows.store(t, admission.Gate{Phase: admission.Metered, Limit: 40, Budget: 40, Shared: true, Until: time.Now().Add(time.Minute), Wait: time.Minute})
				stop(t, f)
				began := time.Now()
				if p := f.workers[0].gate.Enter("another"); p != nil {
					t.Error("a create is not stopped")
				}
				read(t, f.workers[0].turns)
				if waited := time.Since(began); waited > 100*time.Millisecond {
					t.Errorf("it waited %s", waited)
				}
				f.stop()
			})
		})
	}
}

// Reads that were on their way when another replica began to count, and had
// handed out much of the window before they were answered, take up room, too.
func TestReadsOnTheirWayAreCountedWhenTheyAreAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newCrew(newWorld(t), 2, 3)
		f.meterReads(4)
		one, other := f.workers[0].turns, f.workers[1].turns
		other.Ramped(4)
		early := []func(provision.ReadAnswer){read(t, other), read(t, other)}
		read(t, one)(provision.ReadAnswer{Status: 200, Rate: admission.Rate{Limit: 40, Remaining: 39, Reset: time.Minute}})
		pass(time.Second)
		if _, err := f.rows.UpdateGate(t.Context(), func(row admission.Gate) (admission.Gate, bool) {
			next, n := row.Take(time.Now(), time.Minute, 20)
			return next, n == 20
		}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		// The third was counted when it was sent.
		for n, leave := range append(early, read(t, other)) {
			leave(provision.ReadAnswer{Status: 200, Rate: admission.Rate{Limit: 40, Remaining: 38 - n, Reset: time.Minute}})
			pass(time.Second)
			if row, _ := f.rows.stored(); row.Used != min(n+23, 24) {
				t.Errorf("after %d answers %d of the budget are used", n+1, row.Used)
			}
		}
		f.stop()
	})
}

// read enters, or fails the test.
func read(t *testing.T, turns *provision.ReadGate) func(provision.ReadAnswer) {
	t.Helper()
	leave, err := turns.Enter(t.Context())
	if err != nil {
		t.Fatalf("%v; the gate of the creates: %+v", err, turns.Creates())
	}
	return leave
}

// After a 429 a read may be the probe, unless it turns out to have a limit of its
// own; after unknown outcomes it proves nothing, and is none.
func TestAReadProbes(t *testing.T) {
	rate := admission.Rate{Limit: 40, Remaining: 39, Reset: time.Minute}
	for name, tc := range map[string]struct {
		reason admission.GateReason
		answer provision.ReadAnswer
		want   admission.Gate
	}{
		"Usable":   {admission.ReasonThrottled, provision.ReadAnswer{Status: 200, Rate: rate}, admission.Gate{Phase: admission.Metered, Used: 1, Unknowns: 2, Shared: true}},
		"Silent":   {admission.ReasonThrottled, provision.ReadAnswer{Status: 503}, admission.Gate{Phase: admission.Metered, Used: 1, Unknowns: 2, Shared: true}},
		"Refused":  {admission.ReasonThrottled, provision.ReadAnswer{Status: 429, Rate: rate}, admission.Gate{Phase: admission.Probing, Used: 1, Unknowns: 2, Shared: true}},
		"NoAnswer": {admission.ReasonThrottled, provision.ReadAnswer{}, admission.Gate{Phase: admission.Closed, Used: 1, Unknowns: 2, Shared: true}},
		"OtherLimit": {
			admission.ReasonThrottled,
			provision.ReadAnswer{Status: 200, Rate: admission.Rate{Limit: 600, Remaining: 599}},
			admission.Gate{Phase: admission.Closed, Used: 1, Unknowns: 2},
		},
		"Unknowns": {admission.ReasonUnknowns, provision.ReadAnswer{Status: 200, Rate: rate}, admission.Gate{Phase: admission.Closed, Used: 7, Unknowns: 2, Shared: true}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newCrew(newWorld(t), 2, 3)
				f.meterReads(4)
				f.rows.store(t, admission.Gate{
					Phase: admission.Closed, Reason: tc.reason, Limit: 40, Budget: 40, Used: 7, Unknowns: 2, Window: 1, Shared: true,
					Until: time.Now().Add(time.Second), Wait: time.Second,
				})
				pass(time.Second)
				read(t, f.workers[0].turns)(tc.answer)
				told()
				row := f.rows.row()
				if got := (admission.Gate{Phase: row.Phase, Used: row.Used, Unknowns: row.Unknowns, Shared: row.Shared}); got != tc.want {
					t.Errorf("it became %+v, want %+v", row, tc.want)
				}
				for _, wk := range f.workers {
					if n := wk.gate.Held(); n != 0 {
						t.Errorf("%d permits are left", n)
					}
				}
				f.stop()
			})
		})
	}
}

// After a 429 the only request there is has to look before its create: the look is
// the probe, for one that waited for the create to be answered would wait for ever.
func TestTheLookIsTheProbe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.reads = &limiter{limit: 40, window: time.Minute, headers: "429"}
		f := newCrew(w, 1, 3)
		f.meterReads(4)
		w.account.facts(time.Now()) // read before
		f.rows.store(t, admission.Gate{
			Phase: admission.Closed, Reason: admission.ReasonThrottled, Limit: 40, Budget: 40, Window: 1, Shared: true,
			Until: time.Now().Add(time.Second), Wait: time.Second,
		})
		f.publish(0, 1)
		f.queue[0].m.Deliveries = 2
		began := time.Now()
		f.run(1, func() bool { return f.servers() == 1 || time.Since(began) > time.Minute })
		// Its look, which opened the gate, another one with a permit, and the create.
		if row := f.rows.row(); f.servers() != 1 || row.Phase != admission.Metered || row.Used != 3 {
			t.Errorf("%d servers after %s; the gate: %+v", f.servers(), time.Since(began), row)
		}
	})
}
