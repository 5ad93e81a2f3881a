package provision_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

func readError(status int, after time.Duration) error {
	return &provision.ReadError{
		Status: status, Auth: status == 401, Throttled: status == 429, RetryAfter: after, Err: fmt.Errorf("HTTP %d", status),
	}
}

// One 429, from a create or from a read, stops the creates of all.
func TestGateStopsOthers(t *testing.T) {
	tests := map[string]func(*world){
		"Create": func(w *world) { w.api.script = []reply{throttled(time.Minute)} },
		"Read":   func(w *world) { w.account.errs = []error{readError(429, time.Minute)} },
	}
	for name, set := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				set(w)
				wk, began := w.worker(), time.Now()
				wk.once(order("a"))
				sent := len(w.api.sent())
				other := order("b")
				other.Sequence = 2
				d := wk.once(other)
				if d.Reason != provision.WaitGate || d.After < time.Minute || len(w.api.sent()) != sent {
					t.Errorf("the other got %+v after %d creates", d, len(w.api.sent()))
				}
				if r := w.record("b"); r.NotBefore.Before(began.Add(time.Minute)) {
					t.Errorf("the other may go on at +%s", r.NotBefore.Sub(began))
				}
				wk.finish(other)
				if at := w.api.sent()[sent].At; at.Before(began.Add(time.Minute)) {
					t.Errorf("a create at +%s", at.Sub(began))
				}
			})
		})
	}
}

// After a look that was refused the fleet waits for as long as HostUp asks, however
// often the message has been delivered before.
func TestGateAfterARefusedLook(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for range 10 {
			w := newWorld(t)
			w.cfg.InlineWait = 0
			w.inventory.errs = []error{readError(429, 2*time.Second)}
			m := order("a")
			m.Deliveries = 20
			wk := w.worker()
			wk.once(m)
			if c, closed := wk.gate.Closed(); !closed || time.Until(c.Until) > 2*time.Second {
				t.Errorf("closed %v for %s", closed, time.Until(c.Until))
			}
		}
	})
}

// A gate that closes while the account is being read is obeyed.
func TestGateClosesDuringARead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.account.takes = 3 * time.Second
		wk, began := w.worker(), time.Now()
		go func() { pass(time.Second); wk.gate.Raise(time.Until(began.Add(time.Minute)), admission.Rate{}) }()
		wk.finish(order("a"))
		if at := w.api.sent()[0].At; at.Before(began.Add(time.Minute)) {
			t.Errorf("a create at +%s went through a gate closed until +1m", at.Sub(began))
		}
	})
}

func TestGate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g, began := provision.NewGate(), time.Now()
		if _, closed := g.Closed(); closed {
			t.Error("a new gate is closed")
		}
		g.Raise(time.Until(began.Add(10*time.Second)), admission.Rate{})
		g.Raise(time.Until(began.Add(5*time.Second)), admission.Rate{})
		g.Raise(-time.Hour, admission.Rate{})
		if c, _ := g.Closed(); !c.Until.Equal(began.Add(10 * time.Second)) {
			t.Errorf("closed until +%s, want the latest, +10s", c.Until.Sub(began))
		}
		// Raised again while somebody waits.
		go func() { pass(5 * time.Second); g.Raise(time.Until(began.Add(30*time.Second)), admission.Rate{}) }()
		if err := g.Wait(t.Context()); err != nil || time.Since(began) != 30*time.Second {
			t.Errorf("waited %s, %v", time.Since(began), err)
		}
		// A hold outlasts every raise, and a raise outlasts the hold.
		g.Hold(provision.WaitAuth)
		g.Raise(time.Minute, admission.Rate{})
		again := time.Now()
		go func() { pass(20 * time.Second); g.Release(); g.Release() }()
		if err := g.Wait(t.Context()); err != nil || time.Since(again) != time.Minute {
			t.Errorf("waited %s, %v", time.Since(again), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		g.Hold(provision.WaitAuth)
		if err := g.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// Under hold a refused key fails no order; the queue goes on by itself, with
// probes at most 30 s apart.
func TestAuthHold(t *testing.T) {
	tests := map[string]func(*world){
		"Create": func(w *world) { w.api.script = []reply{refused(401, provision.RefusalAuth)} },
		"Read":   func(*world) {},
	}
	for name, set := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.BackoffMax = 5 * time.Minute
				set(w)
				began := time.Now()
				mended := began.Add(20 * time.Minute)
				w.account.ask = func(n int) (admission.Facts, error) {
					if n == 1 && name == "Create" || !time.Now().Before(mended) {
						return roomy(), nil
					}
					return admission.Facts{}, readError(401, 0)
				}
				wk := w.worker()
				stop := w.tend(wk)
				wk.finish(order("a"))
				other := order("b")
				other.Sequence = 2
				wk.finish(other)
				stop()
				for _, key := range []string{"a", "b"} {
					if wrong := w.safe(key, true); wrong != nil || w.api.made(key) != 1 {
						t.Errorf("%d servers, %q", w.api.made(key), wrong)
					}
				}
				reads := w.account.asked()
				for i := 1; i < len(reads) && reads[i-1].Before(mended); i++ {
					if gap := reads[i].Sub(reads[i-1]); gap > 30*time.Second {
						t.Errorf("probes %d and %d are %s apart", i, i+1, gap)
					}
				}
				// Some creates may have found the key refused; none came between.
				for _, c := range w.api.sent() {
					if c.At.After(began) && c.At.Before(mended) {
						t.Errorf("a create at +%s, while the key was refused", c.At.Sub(began))
					}
				}
			})
		})
	}
}

// A changed key is tried at once.
func TestAuthHoldEndsWithANewKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.BackoffInitial, w.cfg.BackoffMax = 10*time.Minute, 10*time.Minute
		w.api.script = []reply{refused(401, provision.RefusalAuth)}
		wk := w.worker()
		changed := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); wk.WatchAuth(ctx, changed) }()
		wk.once(order("a"))
		synctest.Wait()
		changed <- struct{}{}
		synctest.Wait()
		if c, closed := wk.gate.Closed(); closed {
			t.Errorf("still closed: %+v", c)
		}
		cancel()
		<-done
	})
}

// A probe that is throttled closes the gate for the others.
func TestThrottledProbe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		wk := w.worker()
		stop := w.tend(wk)
		defer stop()
		w.account.errs = []error{readError(429, time.Hour)}
		began := time.Now()
		wk.gate.Hold(provision.WaitAuth)
		pass(30 * time.Minute)
		wk.gate.Release()
		if c, _ := wk.gate.Closed(); c.Until.Before(began.Add(time.Hour)) {
			t.Errorf("closed until +%s", c.Until.Sub(began))
		}
	})
}

// Under fail each request fails with refused, whichever call met the refusal.
func TestAuthFail(t *testing.T) {
	tests := map[string]func(*world){
		"Create": func(w *world) { w.api.script = []reply{refused(401, provision.RefusalAuth)} },
		"Read": func(w *world) {
			w.account.ask = func(int) (admission.Facts, error) { return admission.Facts{}, readError(401, 0) }
		},
	}
	for name, set := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.AuthHold = false
				set(w)
				wk := w.worker()
				wk.finish(order("a"))
				r := w.record("a")
				if o := r.Outcome; o.Reason != provision.ReasonRefused || o.Billed != provision.BilledNo || o.Retryable || len(o.Problem) == 0 {
					t.Errorf("outcome %+v", o)
				}
				if c, closed := wk.gate.Closed(); closed {
					t.Errorf("the gate is closed: %+v", c)
				}
			})
		})
	}
}

// An account that cannot be read is no refusal: the request waits and goes on.
func TestUnreadableAccountIsNoRefusal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		for range 30 {
			w.account.errs = append(w.account.errs, readError(503, 0))
		}
		wk := w.worker()
		d := wk.once(order("a"))
		if d.Action != provision.Retry || d.Reason != provision.WaitAccount || d.Err == nil {
			t.Errorf("got %+v", d)
		}
		if d := wk.finish(order("a")); d.Result != provision.ResultProvisioning {
			t.Errorf("got %+v", d)
		}
	})
}
