package top

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// How often is read, and how long one reading may take.
const (
	queueEvery   = time.Second
	queueTimeout = 4 * time.Second

	// Looking through a ledger of millions takes its time: it is read so rarely
	// that nine tenths of the time it is left alone.
	requestsEvery   = 2 * time.Second
	requestsShare   = 10
	requestsTimeout = 2 * time.Minute

	limitsDefault = 10 * time.Second
	limitsTimeout = 30 * time.Second
	// limitsCounted is how often at most where reads are counted against a rate
	// limit: it may be that of the creates.
	limitsCounted = time.Minute
	// limitsWorst is the longest pause after failures.
	limitsWorst = 2 * time.Minute

	// Events are told together, so that a thousand of them are one drawing.
	outcomesEvery = 200 * time.Millisecond
	outcomesPause = 2 * time.Second

	// clockSlack is how far the clock of who closed the gate may be ahead.
	clockSlack = 2 * time.Minute
)

// feed reads the sources, each at its own pace, and tells what they say.
type feed struct {
	sources     Sources
	limitsEvery time.Duration
	now         func() time.Time
	tell        func(tea.Msg)
	// broke is told that something here panicked. The end of the program as a
	// whole would leave the terminal raw.
	broke func(error)

	mu sync.Mutex
	// seen is whether the gate could be read the last time; noticed is when it
	// was first seen as it is.
	seen    bool
	gate    admission.Gate
	noticed time.Time
}

// run feeds until ctx ends.
func (f *feed) run(ctx context.Context) {
	var work sync.WaitGroup
	for _, loop := range []func(context.Context){
		func(ctx context.Context) {
			poll(ctx, f, ofQueue, queueTimeout, f.sources.Queue, func(time.Duration) time.Duration { return queueEvery })
		},
		func(ctx context.Context) {
			poll(ctx, f, ofShared, queueTimeout, f.shared, func(time.Duration) time.Duration { return queueEvery })
		},
		func(ctx context.Context) {
			poll(ctx, f, ofRequests, requestsTimeout, f.sources.Requests, func(took time.Duration) time.Duration {
				return max(requestsEvery, requestsShare*took)
			})
		},
		f.limits,
		f.outcomes,
	} {
		work.Go(func() {
			defer func() {
				if broken := recover(); broken != nil {
					f.broke(fmt.Errorf("reading for the screen broke: %v", broken))
				}
			}()
			loop(ctx)
		})
	}
	work.Wait()
}

// poll reads a source again and again; pace gives the pause after a reading that
// took so long. One that failed says nothing about that.
func poll[T any](ctx context.Context, f *feed, from source, timeout time.Duration, read func(context.Context) (T, error), pace func(took time.Duration) time.Duration) {
	for {
		_, took, err := once(ctx, f, from, timeout, read)
		if err != nil {
			took = 0
		}
		if !pause(ctx, pace(took)) {
			return
		}
	}
}

func once[T any](ctx context.Context, f *feed, from source, timeout time.Duration, read func(context.Context) (T, error)) (T, time.Duration, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := f.now()
	value, err := read(bounded)
	now := f.now()
	r := reading{from: from, at: now, took: now.Sub(began), value: value, err: err}
	if ctx.Err() == nil {
		f.tell(r)
	}
	return value, r.took, err
}

// shared reads the shared rows and remembers the gate.
func (f *feed) shared(ctx context.Context) (Shared, error) {
	s, err := f.sources.Shared(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen = err == nil; f.seen && (f.noticed.IsZero() || s.Gate != f.gate) {
		f.gate, f.noticed = s.Gate, f.now()
	}
	return s, err
}

// unwelcome says why the account must not be read now, "" when it may be.
func (f *feed) unwelcome() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.seen:
		return "not read while the gate cannot be seen"
	case f.gate.Phase == admission.Probing:
		return "not read while the gate is being probed"
	case f.gate.Phase == admission.Closed && f.now().Before(f.opens()):
		return "not read while the gate is closed"
	}
	return ""
}

// opens is when a closed gate is surely over: by the clock of who closed it,
// which may go ahead, and by the span since it was seen to be closed.
func (f *feed) opens() time.Time {
	byClock, bySpan := f.gate.Until.Add(clockSlack), f.noticed.Add(f.gate.Wait)
	if byClock.Before(bySpan) {
		return byClock
	}
	return bySpan
}

// limits reads the account as often as a worker does, and not at all while the
// fleet may not: reads can draw on the budget of the creates.
func (f *feed) limits(ctx context.Context) {
	if f.sources.Limits == nil {
		return
	}
	every := f.limitsEvery
	if every <= 0 {
		every = limitsDefault
	}
	every = max(every, queueEvery)
	for failures := 0; ; {
		if why := f.unwelcome(); why != "" {
			f.tell(reading{from: ofLimits, at: f.now(), skipped: why})
			if !pause(ctx, queueEvery) {
				return
			}
			continue
		}
		limits, _, err := once(ctx, f, ofLimits, limitsTimeout, f.sources.Limits)
		next := every
		if limits.Counted {
			next = max(next, limitsCounted)
		}
		if err == nil {
			failures = 0
		} else {
			next = max(next, min(every<<min(failures, 10), limitsWorst))
			failures++
			if e, ok := errors.AsType[*provision.ReadError](err); ok {
				next = max(next, e.RetryAfter)
			}
		}
		if !pause(ctx, next) {
			return
		}
	}
}

// outcomes follows the events and tells them in batches.
func (f *feed) outcomes(ctx context.Context) {
	var mu sync.Mutex
	var batch []Outcome
	flush := func() {
		mu.Lock()
		told := batch
		batch = nil
		mu.Unlock()
		if told != nil {
			f.tell(reading{from: ofOutcomes, at: f.now(), value: told})
		}
	}
	var flushing sync.WaitGroup
	defer flushing.Wait()
	flushing.Go(func() {
		for pause(ctx, outcomesEvery) {
			flush()
		}
	})
	for {
		err := f.sources.Outcomes(ctx,
			func() { f.tell(reading{from: ofOutcomes, at: f.now(), value: []Outcome(nil)}) },
			func(o Outcome) {
				mu.Lock()
				defer mu.Unlock()
				batch = append(batch, o)
			})
		if ctx.Err() != nil {
			return
		}
		f.tell(reading{from: ofOutcomes, at: f.now(), err: err})
		if !pause(ctx, outcomesPause) {
			return
		}
	}
}

// pause waits, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
