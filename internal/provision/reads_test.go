package provision_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// read is one read of the account: at its turn, and refused by HostUp's limit.
func (wk *worker) read(ctx context.Context) error {
	leave := func(provision.ReadAnswer) {}
	if wk.turns != nil {
		l, err := wk.turns.Enter(ctx)
		if err != nil {
			return &provision.ReadError{Err: err}
		}
		leave = l
	}
	if wk.w.reads == nil {
		leave(provision.ReadAnswer{Status: 200})
		return nil
	}
	a := wk.w.reads.answer(0, provision.Request{}).answer
	pass(50 * time.Millisecond)
	leave(provision.ReadAnswer{Status: a.Status, RetryAfter: a.RetryAfter, Rate: a.Rate})
	if a.Verdict == provision.VerdictThrottled {
		return &provision.ReadError{Status: 429, Throttled: true, RetryAfter: a.RetryAfter, Rate: a.Rate, Err: errLook}
	}
	return nil
}

// readRows are the row of the reads, with gates of its own.
type readRows struct{ *rows }

func (r readRows) UpdateReads(ctx context.Context, change func(admission.Gate) (admission.Gate, bool)) (admission.Gate, error) {
	return r.UpdateGate(ctx, change)
}

// meterReads gives every replica a gate for its reads.
func (f *crew) meterReads(seed uint64) {
	shared := readRows{newRows(seed)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	stop := f.stop
	f.stop = func() { cancel(); running.Wait(); stop(); pass(time.Second) }
	for _, wk := range f.workers {
		wk.turns = provision.NewReadGate(shared, wk.gate, time.Minute, func(n int) time.Duration {
			return provision.Backoff(100*time.Millisecond, time.Minute, n)
		}, slog.New(slog.DiscardHandler))
		shared.gates = append(shared.gates, wk.turns.Gate)
		running.Go(func() { wk.turns.Run(ctx) })
		wk.turns.Synced(true)
	}
}

// A thousand calls whose answers are lost at once are looked up without
// overrunning HostUp's limit on reads, whatever its answers say of it; the limit
// on creates is another one, which they do not use up.
func TestStormOfLooks(t *testing.T) {
	const n, limit, span = 1000, 100, 5 * time.Second
	for _, headers := range []string{"all", "429", "retry-after"} {
		t.Run(headers, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.reads = &limiter{limit: limit, window: span, headers: headers}
				w.api.answers = func(i int, _ provision.Request) reply {
					r := created()
					if i > 3 && i <= n {
						r = lost(0, i%2 == 0)
					}
					if headers != "retry-after" {
						r.answer.Rate = admission.Rate{Limit: 5000, Remaining: 4000, Reset: time.Minute}
					}
					return r
				}
				f := storm(w, n, n)
				w.reads.oneRefused(t)
				w.reads.count(t)
				if gate, _ := f.rows.stored(); gate.Phase == admission.Closed || gate.Shared {
					t.Errorf("the gate of the creates: %+v", gate)
				}
			})
		})
	}
}

// storm lets three replicas work off n requests, and then as many as there are
// in all; each ends with one event.
func storm(w *world, n, all int) *crew {
	w.t.Helper()
	w.cfg.Deadline = 20 * time.Hour
	w.cfg.SettleReads, w.cfg.SettleUnanswered = 3, time.Minute
	f := newCrew(w, 3, 7)
	f.meterReads(8)
	f.publish(0, n)
	for i := n; i < all; i++ {
		time.AfterFunc(time.Minute+time.Duration(i-n)*200*time.Millisecond, func() { f.publish(i, 1) })
	}
	began := time.Now()
	f.run(8, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.queue)+f.busy == 0 && time.Since(began) > 2*time.Minute || time.Since(began) > 10*time.Hour
	})
	if left := len(f.queue); left > 0 {
		w.t.Errorf("%d are not answered after ten hours", left)
	}
	for i := range all {
		if key := fmt.Sprintf("k%04d", i); len(w.events.ids(key, provision.KindProvisioning)) != 1 {
			w.t.Errorf("%s: %v", key, w.events.ids(key))
		}
	}
	return f
}

// oneRefused checks that no window has more than one refused call, but for the
// first two, which teach the limit.
func (l *limiter) oneRefused(t *testing.T) {
	t.Helper()
	for i, one := range l.windows {
		if i > 1 && one.refused > 1 {
			t.Errorf("window %d: %d calls were refused", i, one.refused)
		}
	}
}

// count adds the windows up.
func (l *limiter) count(t *testing.T) (accepted, refused int) {
	t.Helper()
	for _, one := range l.windows {
		accepted += one.accepted
		refused += one.refused
	}
	t.Logf("%d calls in %d windows, %d refused, %v", accepted, len(l.windows), refused, l.windows[:min(6, len(l.windows))])
	return accepted, refused
}

func TestReadTurns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newCrew(newWorld(t), 1, 3)
		f.meterReads(4)
		turns := f.workers[0].turns
		leave, err := turns.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		leave(provision.ReadAnswer{Status: 429, RetryAfter: 30 * time.Second})
		_, err = turns.Enter(t.Context())
		used, ok := errors.AsType[*provision.ReadsUsedUpError](err)
		if !ok || used.After < 29*time.Second || used.After > 31*time.Second {
			t.Errorf("after a 429: %v", err)
		}
		turns.Synced(false)
		if _, err = turns.Enter(t.Context()); err == nil {
			t.Error("a closed gate does not open because nobody can see it")
		}
		f.stop()
	})
}

// Two requests that wait in one process for reads do not wake each other with
// the turns to create that they take and give back.
func TestNobodyWakesAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newCrew(newWorld(t), 1, 3)
		f.meterReads(4)
		wk := f.workers[0]
		wk.once(order("first")) // opens the ramp and reads the account
		leave, err := wk.turns.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		leave(provision.ReadAnswer{Status: 429, RetryAfter: 3 * time.Second})
		synctest.Wait() // for the writes that no ack waited for
		wk.life.dieAt = 200
		var waiting sync.WaitGroup
		for _, key := range []string{"a", "b"} {
			waiting.Go(func() {
				m := order(key)
				m.Deliveries = 2
				if d, alive := wk.deliver(t.Context(), m); !alive || d.Action != provision.Done {
					t.Errorf("%s: alive %v, %+v", key, alive, d)
				}
			})
		}
		waiting.Wait()
		f.stop()
	})
}
