package provision_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

var _ provision.Controls = (*rows)(nil)

// rows are the rows that a fleet shares: each change takes a moment, and the
// gates hear of it a moment later.
type rows struct {
	mu    sync.Mutex
	rand  *rand.Rand
	last  uint64
	gate  admission.Gate
	brake admission.Brake
	spend admission.Spend
	gates []*provision.Gate
	heard []func(admission.Brake)
	// down makes every change fail.
	down bool
}

func newRows(seed uint64) *rows { return &rows{rand: rand.New(rand.NewPCG(seed, seed))} }

// moment is how long the broker takes.
func (c *rows) moment() {
	c.mu.Lock()
	d := time.Duration(c.rand.Int64N(int64(3 * time.Millisecond)))
	c.mu.Unlock()
	pass(d)
}

func (c *rows) UpdateGate(_ context.Context, change func(admission.Gate) (admission.Gate, bool)) (admission.Gate, error) {
	return updateRow(c, &c.gate, func(g *admission.Gate, n uint64) { g.Revision = n }, change, func(g admission.Gate) {
		for _, one := range c.gates {
			go func() { c.moment(); one.GateChanged(g) }()
		}
	})
}

func (c *rows) UpdateBrake(_ context.Context, change func(admission.Brake) (admission.Brake, bool)) (admission.Brake, error) {
	return updateRow(c, &c.brake, func(b *admission.Brake, n uint64) { b.Revision = n }, change, func(b admission.Brake) {
		for _, one := range c.heard {
			go func() { c.moment(); one(b) }()
		}
	})
}

func (c *rows) UpdateSpend(_ context.Context, change func(admission.Spend) (admission.Spend, bool)) (admission.Spend, error) {
	return updateRow(c, &c.spend, func(s *admission.Spend, n uint64) { s.Revision = n }, change, func(admission.Spend) {})
}

// stored is the gate and the brake as they stand.
func (c *rows) stored() (admission.Gate, admission.Brake) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gate, c.brake
}

func updateRow[T any](c *rows, row *T, stamp func(*T, uint64), change func(T) (T, bool), tell func(T)) (T, error) {
	c.moment()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return *row, errLedger
	}
	// Called more than once where somebody was faster, so always.
	change(*row)
	next, changed := change(*row)
	if !changed {
		return *row, nil
	}
	c.last++
	stamp(&next, c.last)
	*row = next
	tell(next)
	return next, nil
}

// crew is several replicas on one queue, with a gate between them.
type crew struct {
	*world
	rows    *rows
	workers []*worker
	stop    func()

	mu    sync.Mutex
	queue []*parked
	busy  int // messages in hand
}

type parked struct {
	due time.Time
	m   provision.Message
}

func newCrew(w *world, replicas int, seed uint64) *crew {
	f := &crew{world: w, rows: newRows(seed)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range replicas {
		g := provision.NewFleetGate(f.rows, fmt.Sprintf("replica-%d", len(f.workers)), 2*w.cfg.CreateTimeout)
		wk := w.workerAt(g, f.rows)
		f.rows.gates = append(f.rows.gates, g)
		f.rows.heard = append(f.rows.heard, func(b admission.Brake) { wk.BrakeChanged(ctx, b) })
		f.workers = append(f.workers, wk)
		running.Go(func() { g.Run(ctx) })
		g.Synced(true)
	}
	f.stop = func() { cancel(); running.Wait() }
	return f
}

func (f *crew) publish(from, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range n {
		m := order(fmt.Sprintf("k%04d", from+i))
		m.Sequence = uint64(from + i + 1)
		f.queue = append(f.queue, &parked{time.Now(), m})
	}
}

// take takes the message that is due first, as the broker does: what comes
// back before what is new.
func (f *crew) take() (provision.Message, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for i, p := range f.queue {
		if !p.due.After(now) {
			f.queue = slices.Delete(f.queue, i, i+1)
			f.busy++
			return p.m, true
		}
	}
	return provision.Message{}, false
}

func (f *crew) answered(m provision.Message, d provision.Disposition) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy--
	if d.Action != provision.Retry {
		return
	}
	m.Deliveries++
	at := 0
	for at < len(f.queue) && f.queue[at].m.Deliveries > 1 {
		at++
	}
	f.queue = slices.Insert(f.queue, at, &parked{time.Now().Add(d.After), m})
}

// run lets the replicas work with so many slots each until end says so.
func (f *crew) run(slots int, end func() bool) {
	var work sync.WaitGroup
	for _, wk := range f.workers {
		for range slots {
			work.Go(func() {
				for !end() {
					// As the consumer does: slowly behind a closed gate.
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					_ = wk.gate.Wait(ctx)
					cancel()
					m, ok := f.take()
					if !ok {
						pass(20 * time.Millisecond)
						continue
					}
					f.answered(m, wk.once(m))
				}
			})
		}
	}
	work.Wait()
	f.stop()
	pass(time.Second) // what the rows still tell
	synctest.Wait()
}

// limiter is HostUp's: so many requests in each fixed window, which opens with
// the first one.
type limiter struct {
	limit   int
	window  time.Duration
	headers string // "all", "429", "retry-after"

	mu      sync.Mutex
	windows []window
}

type window struct {
	opened            time.Time
	accepted, refused int
}

func (l *limiter) answer(int, provision.Request) reply {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if n := len(l.windows); n == 0 || !now.Before(l.windows[n-1].opened.Add(l.window)) {
		l.windows = append(l.windows, window{opened: now})
	}
	w := &l.windows[len(l.windows)-1]
	left := w.opened.Add(l.window).Sub(now)
	r := created()
	if w.accepted >= l.limit {
		w.refused++
		// Whole seconds, rounded up.
		r = throttled((left + time.Second - 1).Truncate(time.Second))
	} else {
		w.accepted++
	}
	if l.headers == "all" || l.headers == "429" && r.answer.Verdict == provision.VerdictThrottled {
		r.answer.Rate = admission.Rate{Limit: l.limit, Remaining: l.limit - w.accepted, Reset: left + 500*time.Millisecond}
	}
	return r
}

// The goal of the fleet under a real limiter: at least 95 % of what a window
// allows is used, and at most one create of the whole fleet is refused in it.
// The first window teaches what the limit is, and where no answer ever says it,
// the second one.
func TestFleetUnderALimiter(t *testing.T) {
	for _, headers := range []string{"all", "429", "retry-after"} {
		for _, limit := range []int{4, 30, 80} {
			for _, span := range []time.Duration{3 * time.Second, time.Minute} {
				for _, latency := range []time.Duration{5 * time.Millisecond, 100 * time.Millisecond} {
					t.Run(fmt.Sprintf("%s/%d/%s/%s", headers, limit, span, latency), func(t *testing.T) {
						bubble(t, func(t *testing.T) {
							w := newWorld(t)
							w.cfg.BackoffInitial = 100 * time.Millisecond
							l := &limiter{limit: limit, window: span, headers: headers}
							w.api.answers = func(n int, r provision.Request) reply {
								a := l.answer(n, r)
								a.takes = latency
								return a
							}
							f := newCrew(w, 3, uint64(limit))
							f.publish(0, 12*limit)
							late := time.Now().Add(20 * span)
							f.run(16, func() bool {
								l.mu.Lock()
								defer l.mu.Unlock()
								return len(l.windows) > 8 || time.Now().After(late)
							})
							if len(l.windows) < 9 {
								gate, _ := f.rows.stored()
								t.Fatalf("%d windows in the time of 20; the gate: %+v", len(l.windows), gate)
							}
							for n, w := range l.windows[:8] {
								t.Logf("window %d: %d of %d, %d refused", n, w.accepted, limit, w.refused)
								switch {
								case n == 0 && headers == "all" && limit > 3*4:
									// Known after the first answer, when 3 replicas have one in flight each.
									if w.refused > 1 {
										t.Errorf("window 0: %d creates were refused", w.refused)
									}
									continue
								case n == 0:
									continue // nobody can know yet
								case n == 1 && headers == "retry-after":
									// Counted, and refused as often as it takes to know.
									continue
								}
								if w.refused > 1 {
									t.Errorf("window %d: %d creates were refused", n, w.refused)
								}
								if float64(w.accepted) < 0.95*float64(limit) {
									t.Errorf("window %d: %d of %d creates", n, w.accepted, limit)
								}
							}
						})
					})
				}
			}
		}
	}
}

// One 429 stops every replica; then one probe goes out before all others.
func TestOne429StopsTheFleet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		w.api.answers = func(n int, _ provision.Request) reply {
			r := created()
			if n == 20 {
				r = throttled(30 * time.Second)
			}
			r.takes = 50 * time.Millisecond
			return r
		}
		f := newCrew(w, 4, 7)
		f.publish(0, 200)
		f.run(8, func() bool { return len(w.api.sent()) >= 100 || time.Since(began) > time.Hour })
		calls := w.api.sent()
		shut := calls[19].Ended
		var after []call
		for _, c := range calls {
			// What was on its way when the answer came, and what a few
			// milliseconds of telling each other let through.
			if c.At.After(shut.Add(10 * time.Millisecond)) {
				after = append(after, c)
			}
		}
		if len(after) < 2 {
			t.Fatalf("%d creates after the gate opened", len(after))
		}
		if d := after[0].At.Sub(shut); d < 30*time.Second || d > 33*time.Second {
			t.Errorf("the first create came %s after the 429, which asked for 30s", d)
		}
		if after[1].At.Before(after[0].Ended) {
			t.Errorf("a second create at +%s, while the probe of +%s had no answer yet", after[1].At.Sub(shut), after[0].At.Sub(shut))
		}
	})
}

// An API that loses answers is not fed with orders: the fleet stops after a few
// unknown outcomes, probes with growing pauses, and goes on when it is mended.
func TestBreaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.BreakerUnknowns = 5
		w.cfg.Deadline = 12 * time.Hour
		began := time.Now()
		mended := began.Add(40 * time.Minute)
		w.api.answers = func(n int, _ provision.Request) reply {
			r := created()
			if n > 10 && time.Now().Before(mended) {
				r = lost(0, n%2 == 0)
			}
			r.takes = 50 * time.Millisecond
			return r
		}
		f := newCrew(w, 3, 9)
		f.publish(0, 60)
		f.run(8, func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.queue) == 0 && f.busy == 0 || time.Since(began) > 10*time.Hour
		})
		var unknowns, probes int
		var pauses []time.Duration
		var last time.Time
		for _, c := range w.api.sent() {
			if c.Verdict != provision.VerdictUnknown {
				continue
			}
			unknowns++
			if !last.IsZero() && c.At.Sub(last) > time.Second {
				probes++
				pauses = append(pauses, c.At.Sub(last).Round(time.Second))
			}
			last = c.Ended
		}
		t.Logf("%d unknown outcomes, pauses %v", unknowns, pauses)
		// What 3 replicas with 8 slots had in flight, what the first four of each
		// let through, and a probe after each pause.
		if unknowns > 3*8+3*4+probes {
			t.Errorf("%d unknown outcomes with %d probes", unknowns, probes)
		}
		if n := len(pauses); n < 4 || pauses[n-1] < 2*time.Minute || pauses[n-1] > 6*time.Minute || pauses[0] > 20*time.Second {
			t.Errorf("the pauses did not grow to minutes: %v", pauses)
		}
		for i := range 60 {
			if e := w.end(fmt.Sprintf("k%04d", i)); e.Servers != 1 || e.State != "done" {
				t.Errorf("k%04d: %+v", i, e)
			}
		}
	})
}

// The brake stops every replica, also between the intent and the call, and
// leaves nothing behind.
func TestBrake(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.api.answers = func(int, provision.Request) reply { r := created(); r.takes = 20 * time.Millisecond; return r }
		f := newCrew(w, 3, 3)
		f.publish(0, 300)
		began := time.Now()
		var set, lifted time.Time
		go func() {
			pass(60 * time.Millisecond)
			if _, err := f.rows.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b.Set(time.Now(), "ops", "test") }); err != nil {
				t.Error(err)
			}
			set = time.Now()
			pass(10 * time.Minute)
			lifted = time.Now()
			if _, err := f.rows.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b.Lift(time.Now(), "ops", "test") }); err != nil {
				t.Error(err)
			}
		}()
		f.run(16, func() bool { return len(w.api.sent()) >= 300 || time.Since(began) > 2*time.Hour })
		before, between := 0, 0
		for _, c := range w.api.sent() {
			switch {
			case c.At.Before(set):
				before++
			case c.At.After(set.Add(5*time.Millisecond)) && c.At.Before(lifted):
				between++
			}
		}
		if before == 0 || before == 300 || between != 0 || len(w.api.sent()) != 300 {
			t.Errorf("%d creates before the brake, %d while it was on, %d in all", before, between, len(w.api.sent()))
		}
	})
}

// A brake that is set while the intent is being stored is honoured before the
// call.
func TestBrakeBetweenIntentAndCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		wk := w.worker()
		w.shelf.plan = func(_ int, op string, _ *provision.Record) fault {
			if op != "intend" {
				return nil
			}
			return func(do func() error) error {
				wk.BrakeChanged(t.Context(), admission.Brake{On: true, By: "ops", Reason: "now", Revision: 1})
				return do()
			}
		}
		d := wk.once(order("a"))
		r := w.record("a")
		if len(w.api.sent()) != 0 || d.Action != provision.Retry || r.State != provision.StateAccepted || r.Sent != 0 {
			t.Errorf("%d calls, %+v, %+v", len(w.api.sent()), d, r)
		}
		w.shelf.heal()
		wk.BrakeChanged(t.Context(), admission.Brake{Revision: 2})
		wk.finish(order("a"))
		if n := w.api.made("a"); n != 1 {
			t.Errorf("%d servers", n)
		}
	})
}

// The caps hold for the whole fleet, exactly, and only a person goes on.
func TestCaps(t *testing.T) {
	for name, caps := range map[string]admission.Caps{"Creates": {CreatesPerHour: 20}, "Cost": {HourlyCost: 20 * 0.5}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.Caps = caps
				w.cfg.Deadline = 48 * time.Hour
				room := roomy()
				room.Prices = admission.Prices{IPPerHour: 0.5, CurrencyCode: "SEK"}
				w.account.room = room
				w.api.answers = func(n int, _ provision.Request) reply {
					if n == 1 {
						return refused(400, provision.RefusalFinal) // buys nothing and does not count
					}
					r := created()
					r.takes = 20 * time.Millisecond
					return r
				}
				// While an intent is stored, others reach the cap.
				w.shelf.plan = func(_ int, op string, _ *provision.Record) fault {
					if op != "intend" {
						return nil
					}
					return func(do func() error) error { pass(3 * time.Millisecond); return do() }
				}
				f := newCrew(w, 3, 5)
				f.publish(0, 100)
				began := time.Now()
				go func() {
					pass(10 * time.Minute)
					if _, brake := f.rows.stored(); !brake.On {
						t.Error("the brake is not on")
					}
					if n := f.servers(); n != 20 {
						t.Errorf("%d servers before a person went on, want 20", n)
					}
					_, _ = f.rows.UpdateSpend(t.Context(), func(s admission.Spend) (admission.Spend, bool) { return s.Anew(time.Now()), true })
					_, _ = f.rows.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b.Lift(time.Now(), "ops", "test") })
				}()
				f.run(8, func() bool { return time.Since(began) > 20*time.Minute })
				if n := f.servers(); n != 40 {
					t.Errorf("%d servers after a person went on once, want 40", n)
				}
			})
		})
	}
}

// A fleet whose rows cannot be changed obeys what it knows and sends no more
// than that allows.
func TestRowsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		w.api.answers = func(n int, _ provision.Request) reply {
			r := created()
			if n == 5 {
				r = throttled(time.Minute)
			}
			r.takes = 10 * time.Millisecond
			return r
		}
		f := newCrew(w, 1, 5)
		f.rows.down = true
		f.publish(0, 50)
		f.run(4, func() bool { return time.Since(began) > 10*time.Minute })
		if n := len(w.api.sent()); n > 3*4 {
			t.Errorf("%d creates, although nobody could hand out the probe", n)
		}
	})
}

func (f *crew) servers() int {
	f.api.mu.Lock()
	defer f.api.mu.Unlock()
	n := 0
	for _, s := range f.api.servers {
		n += len(s)
	}
	return n
}

// A ledger that has lost what it confirmed tells old rows, or none: that wedges
// nothing, opens nothing, and lifts no brake.
func TestLedgerForgetsTheSharedRows(t *testing.T) {
	for name, gone := range map[string]bool{"Older": false, "Gone": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.answers = func(n int, _ provision.Request) reply {
					r := created()
					if n == 5 {
						r = throttled(time.Minute)
					}
					r.takes = 10 * time.Millisecond
					return r
				}
				f := newCrew(w, 2, 5)
				f.publish(0, 100)
				began := time.Now()
				forget := func() {
					f.rows.mu.Lock()
					f.rows.last = 1
					old := uint64(1)
					if gone {
						old = 0
					}
					f.rows.gate, f.rows.brake = admission.Gate{Revision: old}, admission.Brake{Revision: old}
					gate, brake := f.rows.gate, f.rows.brake
					f.rows.mu.Unlock()
					for i, g := range f.rows.gates {
						g.Synced(false)
						g.GateChanged(gate)
						f.rows.heard[i](brake)
						g.Synced(true)
					}
				}
				go func() {
					pass(20 * time.Second)
					forget() // while closed
					pass(2 * time.Minute)
					if _, err := f.rows.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b.Set(time.Now(), "ops", "x") }); err != nil {
						t.Error(err)
					}
					pass(time.Second)
					forget() // while paused
					pass(time.Minute)
					if _, brake := f.rows.stored(); !brake.On {
						t.Error("the brake was forgotten")
					}
					before := len(w.api.sent())
					f.publish(100, 100)
					pass(time.Minute)
					if n := len(w.api.sent()); n != before {
						t.Errorf("%d creates while the brake was on", n-before)
					}
					_, _ = f.rows.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b.Lift(time.Now(), "ops", "y") })
				}()
				f.run(4, func() bool { return len(w.api.sent()) >= 201 || time.Since(began) > time.Hour })
				calls := w.api.sent()
				if len(calls) != 201 {
					gate, _ := f.rows.stored()
					t.Errorf("%d creates in an hour, want 200 and the refused one; the gate: %+v", len(calls), gate)
				}
				for _, c := range calls {
					if d := c.At.Sub(calls[4].Ended); d > 50*time.Millisecond && d < time.Minute {
						t.Errorf("a create %s after the 429, which asked for a minute", d)
					}
				}
			})
		})
	}
}

// A suspicion that comes while another one is being stored is stored as well,
// and one for which a person has lifted the brake before sets it no more.
func TestSuspicionsAreStored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		f := newCrew(w, 1, 5)
		defer f.stop()
		suspect := func(id string) {
			f.workers[0].Suspect(t.Context(), []provision.Finding{{Finding: provision.FindingSuspectedDouble, VPSID: id}})
		}
		suspect("vps_1")
		synctest.Wait() // on its way
		suspect("vps_2")
		pass(time.Second)
		if _, b := f.rows.stored(); !b.On || len(b.Doubles) != 2 {
			t.Errorf("stored is %+v", b)
		}
		_, _ = f.rows.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b.Lift(time.Now(), "ops", "looked") })
		pass(time.Second)
		suspect("vps_1")
		pass(time.Second)
		_, brake := f.rows.stored()
		if _, on := f.workers[0].gate.Braked(); on || brake.On {
			t.Errorf("set again, here %v, stored %+v", on, brake)
		}
	})
}
