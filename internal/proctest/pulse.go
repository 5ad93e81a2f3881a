package proctest

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Pulse notes when this process was kept from running. A suite of which this
// process is the simulated API has times with room for a busy machine, but not
// without end: a request that lies unread for longer than that is a server that
// shows up later than the settle time, which no worker can know. It is safe for
// concurrent use.
type Pulse struct {
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
)

// Run beats until ctx ends.
func (p *Pulse) Run(ctx context.Context) {
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

func (p *Pulse) beat(last, now time.Time) {
	if late := now.Sub(last) - pulseEvery; late >= pulseKept {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stops = append(p.stops, stop{now, late})
	}
}

// Worst is the longest stop that ended since a time.
func (p *Pulse) Worst(since time.Time) time.Duration {
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
