package crash

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pulse notes when this process, which is the simulated API too, was kept from
// running. The rounds' times have room for a busy machine, but not without end:
// a request that lies unread for longer than that is a server that shows up
// later than the settle time, which no worker can know.
type pulse struct {
	mu    sync.Mutex
	stops []stop
}

// stop is for how long the process did not run, and until when.
type stop struct {
	until time.Time
	long  time.Duration
}

const (
	pulseEvery = 10 * time.Millisecond
	// pulseKept is the shortest stop that is kept.
	pulseKept = 50 * time.Millisecond
	// breathless is a stop after which no further round is begun for a while, as
	// long as some are in work.
	breathless    = 150 * time.Millisecond
	breathingTime = 2 * time.Second
	fewRounds     = 2
)

// run beats until ctx ends.
func (p *pulse) run(ctx context.Context) {
	beat := time.NewTicker(pulseEvery)
	defer beat.Stop()
	for last := time.Now(); ; {
		select {
		case <-beat.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		p.beat(last, now)
		last = now
	}
}

func (p *pulse) beat(last, now time.Time) {
	if late := now.Sub(last) - pulseEvery; late >= pulseKept {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stops = append(p.stops, stop{now, late})
	}
}

// worst is the longest stop that ended since a time.
func (p *pulse) worst(since time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var worst time.Duration
	for _, s := range slices.Backward(p.stops) {
		if s.until.Before(since) {
			break
		}
		worst = max(worst, s.long)
	}
	return worst
}

// breathe waits until the machine has room for one round more.
func (p *pulse) breathe(ctx context.Context, inWork *atomic.Int64) {
	again := time.NewTicker(5 * pulseEvery)
	defer again.Stop()
	for inWork.Load() >= fewRounds && p.worst(time.Now().Add(-breathingTime)) >= breathless {
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

func TestPulse(t *testing.T) {
	t.Parallel()
	var p pulse
	at := func(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }
	p.beat(at(0), at(pulseEvery+pulseKept-1))
	p.beat(at(0), at(pulseEvery+time.Second))
	p.beat(at(2*time.Second), at(2*time.Second+pulseEvery+100*time.Millisecond))
	if len(p.stops) != 2 {
		t.Fatalf("stops %v", p.stops)
	}
	for since, want := range map[time.Duration]time.Duration{0: time.Second, 2 * time.Second: 100 * time.Millisecond, time.Minute: 0} {
		if got := p.worst(at(since)); got != want {
			t.Errorf("worst since %s is %s, want %s", since, got, want)
		}
	}
	p.stops = append(p.stops, stop{time.Now().Add(time.Hour), breathless})
	var inWork atomic.Int64
	p.breathe(t.Context(), &inWork) // the first rounds wait for nothing
	inWork.Store(fewRounds)
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		p.breathe(ctx, &inWork)
	}()
	select {
	case <-waited:
		t.Error("a further round begins on a machine that stands still")
	default:
	}
	cancel()
	<-waited
}
