package top

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// heard is what a feed told, and what its sources were asked.
type heard struct {
	mu    sync.Mutex
	asked map[source]int
	told  []reading
}

func (h *heard) ask(s source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked[s]++
}

func (h *heard) count(s source) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked[s]
}

// last is what was told last of a source.
func (h *heard) last(s source) reading {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range slices.Backward(h.told) {
		if r.from == s {
			return r
		}
	}
	return reading{}
}

// feeding runs a feed in a synctest bubble. Sources that are not set answer at
// once with nothing.
func feeding(t *testing.T, change func(*heard, *feed), then func(*heard)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &heard{asked: make(map[source]int)}
		f := &feed{now: time.Now, broke: func(err error) { t.Error(err) }, tell: func(m tea.Msg) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.told = append(h.told, m.(reading))
		}}
		f.sources = Sources{
			Queue:    func(context.Context) ([]Lane, error) { h.ask(ofQueue); return nil, nil },
			Shared:   func(context.Context) (Shared, error) { h.ask(ofShared); return Shared{}, nil },
			Requests: func(context.Context) (Requests, error) { h.ask(ofRequests); return Requests{}, nil },
			Limits:   func(context.Context) (Limits, error) { h.ask(ofLimits); return Limits{}, nil },
			Outcomes: func(ctx context.Context, ready func(), _ func(Outcome)) error {
				h.ask(ofOutcomes)
				ready()
				<-ctx.Done()
				return ctx.Err()
			},
		}
		change(h, f)
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { f.run(ctx); close(done) }()
		then(h)
		stop()
		<-done
	})
}

// after lets time pass in a synctest bubble.
func after(d time.Duration) {
	time.Sleep(d) // in a synctest bubble
	synctest.Wait()
}

func TestFeedPaces(t *testing.T) {
	t.Parallel()

	feeding(t, func(_ *heard, f *feed) { f.limitsEvery = 5 * time.Second }, func(h *heard) {
		after(20*time.Second + 500*time.Millisecond)
		for s, want := range map[source]int{ofQueue: 21, ofShared: 21, ofRequests: 11, ofLimits: 4, ofOutcomes: 1} {
			if got := h.count(s); got < want-1 || got > want+1 {
				t.Errorf("%s was asked %d times in 20 s, want about %d", s, got, want)
			}
		}
	})
}

func TestALargeLedgerIsLeftAlone(t *testing.T) {
	t.Parallel()

	feeding(t, func(h *heard, f *feed) {
		f.sources.Requests = func(context.Context) (Requests, error) {
			h.ask(ofRequests)
			time.Sleep(6 * time.Second) // in a synctest bubble
			return Requests{}, nil
		}
	}, func(h *heard) {
		after(65 * time.Second)
		if got := h.count(ofRequests); got != 1 {
			t.Errorf("asked %d times in 65 s although one look takes 6", got)
		}
		after(2 * time.Second)
		if got := h.count(ofRequests); got != 2 {
			t.Errorf("asked %d times in 67 s, want 2", got)
		}
		if took := h.last(ofRequests).took; took != 6*time.Second {
			t.Errorf("told that it took %s", took)
		}
	})
}

func TestAFailureIsToldAndTriedAgain(t *testing.T) {
	t.Parallel()

	broken := errors.New("broken")
	feeding(t, func(h *heard, f *feed) {
		f.sources.Requests = func(context.Context) (Requests, error) {
			h.ask(ofRequests)
			time.Sleep(10 * time.Second) // in a synctest bubble
			return Requests{}, broken
		}
		f.sources.Outcomes = func(context.Context, func(), func(Outcome)) error { h.ask(ofOutcomes); return broken }
	}, func(h *heard) {
		after(30 * time.Second)
		// How long a failure took does not say how large the ledger is.
		if got := h.count(ofRequests); got != 3 {
			t.Errorf("the ledger was asked %d times in 30 s, want 3", got)
		}
		if got := h.count(ofOutcomes); got != 16 {
			t.Errorf("the events were asked %d times in 30 s, want 16", got)
		}
		for _, s := range []source{ofRequests, ofOutcomes} {
			if err := h.last(s).err; !errors.Is(err, broken) {
				t.Errorf("told of %s: %v", s, err)
			}
		}
	})
}

func TestTheAccountIsNotReadThroughAClosedGate(t *testing.T) {
	t.Parallel()

	for name, test := range map[string]struct {
		shared func(at time.Duration) (admission.Gate, error) // since the start
		reads  int                                            // in two minutes, once in 10 s
		says   string                                         // after half a minute
	}{
		"open": {func(time.Duration) (admission.Gate, error) { return admission.Gate{}, nil }, 12, ""},
		"cannot be seen": {
			func(time.Duration) (admission.Gate, error) { return admission.Gate{}, errors.New("away") },
			0, "not read while the gate cannot be seen",
		},
		"closed for a minute": {func(time.Duration) (admission.Gate, error) {
			return admission.Gate{Phase: admission.Closed, Until: noon.Add(time.Hour), Wait: time.Minute}, nil
		}, 6, "not read while the gate is closed"},
		// By the clock of who closed it, it was over long ago; ours may be ahead.
		"closed in the past": {func(time.Duration) (admission.Gate, error) {
			return admission.Gate{Phase: admission.Closed, Until: noon.AddDate(-50, 0, 0), Wait: time.Hour}, nil
		}, 12, ""},
		"probed": {
			func(time.Duration) (admission.Gate, error) { return admission.Gate{Phase: admission.Probing}, nil },
			0, "not read while the gate is being probed",
		},
		"closed later": {func(at time.Duration) (admission.Gate, error) {
			if at < 95*time.Second {
				return admission.Gate{}, nil
			}
			return admission.Gate{Phase: admission.Closed, Until: noon.Add(time.Hour), Wait: time.Hour}, nil
		}, 10, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			feeding(t, func(_ *heard, f *feed) {
				start := time.Now()
				f.sources.Shared = func(context.Context) (Shared, error) {
					gate, err := test.shared(time.Since(start))
					return Shared{Gate: gate}, err
				}
			}, func(h *heard) {
				after(30 * time.Second)
				if got := h.last(ofLimits).skipped; got != test.says {
					t.Errorf("says %q, want %q", got, test.says)
				}
				after(90 * time.Second)
				if got := h.count(ofLimits); got < test.reads-1 || got > test.reads+1 || test.reads == 0 && got > 0 {
					t.Errorf("the account was read %d times, want about %d", got, test.reads)
				}
			})
		})
	}
}

func TestTheAccountIsSpared(t *testing.T) {
	t.Parallel()

	for name, test := range map[string]struct {
		answer Limits
		err    error
		reads  int // in five minutes
	}{
		"nothing said":    {Limits{}, nil, 30},
		"reads count":     {Limits{Counted: true}, nil, 5},
		"it fails":        {Limits{}, errors.New("503"), 6}, // after 0, 10, 30, 70, 150, 270 s
		"it is throttled": {Limits{}, &provision.ReadError{Throttled: true, RetryAfter: 4 * time.Minute, Err: errors.New("429")}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			feeding(t, func(h *heard, f *feed) {
				f.sources.Limits = func(context.Context) (Limits, error) { h.ask(ofLimits); return test.answer, test.err }
			}, func(h *heard) {
				after(299 * time.Second)
				if got := h.count(ofLimits); got < test.reads-1 || got > test.reads+1 {
					t.Errorf("the account was read %d times, want about %d", got, test.reads)
				}
			})
		})
	}
}

func TestWithoutAKeyTheAccountIsNotRead(t *testing.T) {
	t.Parallel()

	feeding(t, func(_ *heard, f *feed) { f.sources.Limits = nil }, func(h *heard) {
		after(time.Minute)
		if got := h.last(ofLimits); got != (reading{}) {
			t.Errorf("told %+v", got)
		}
	})
}

func TestManyEventsAreOneDrawing(t *testing.T) {
	t.Parallel()

	feeding(t, func(_ *heard, f *feed) {
		f.sources.Outcomes = func(ctx context.Context, ready func(), each func(Outcome)) error {
			ready()
			for i := range 5000 {
				each(Outcome{Sequence: uint64(i + 1)})
			}
			<-ctx.Done()
			return ctx.Err()
		}
	}, func(h *heard) {
		after(time.Second)
		var batches, events int
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, r := range h.told {
			if told, ok := r.value.([]Outcome); ok && told != nil {
				batches++
				events += len(told)
			}
		}
		if events != 5000 || batches > 5 {
			t.Errorf("%d events in %d batches, want 5000 in a few", events, batches)
		}
	})
}

func TestABrokenSourceIsToldNotThrown(t *testing.T) {
	t.Parallel()

	broke := make(chan error, 1)
	feeding(t, func(_ *heard, f *feed) {
		f.broke = func(err error) { broke <- err }
		f.sources.Queue = func(context.Context) ([]Lane, error) { panic("no queue") }
	}, func(*heard) {
		after(time.Second)
		select {
		case err := <-broke:
			if want := "reading for the screen broke: no queue"; err.Error() != want {
				t.Errorf("told %q, want %q", err, want)
			}
		default:
			t.Error("nothing was told")
		}
	})
}
