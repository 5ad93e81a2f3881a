package provision

import (
	"context"
	"sync"
	"time"
)

// Gate stops every create at once: for a time after a 429, or until the key
// works again. While it is closed nobody sends a create and nobody pulls. It
// is safe for concurrent use.
type Gate struct {
	mu      sync.Mutex
	until   time.Time
	held    string
	changed chan struct{}
}

// NewGate returns an open gate.
func NewGate() *Gate { return &Gate{changed: make(chan struct{})} }

// Closure is why the gate is closed. Until is zero when only Release opens it.
type Closure struct {
	Until  time.Time
	Reason string
}

// Closed returns the closure, false when the gate is open.
func (g *Gate) Closed() (Closure, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed()
}

func (g *Gate) closed() (Closure, bool) {
	if g.held != "" {
		return Closure{Reason: g.held}, true
	}
	if time.Now().Before(g.until) {
		return Closure{Until: g.until, Reason: WaitGate}, true
	}
	return Closure{}, false
}

// Raise closes the gate until a time. It only ever moves later.
func (g *Gate) Raise(until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until.After(g.until) {
		g.until = until
		g.wake()
	}
}

// Hold closes the gate until Release, for a reason that /readyz shows.
func (g *Gate) Hold(reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != reason {
		g.held = reason
		g.wake()
	}
}

// Release ends a Hold.
func (g *Gate) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != "" {
		g.held = ""
		g.wake()
	}
}

// Changed returns a channel that is closed at the next change.
func (g *Gate) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

func (g *Gate) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// Wait returns when the gate is open, or with the error of ctx.
func (g *Gate) Wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		c, closed := g.closed()
		changed := g.changed
		g.mu.Unlock()
		if !closed {
			return ctx.Err()
		}
		var opens <-chan time.Time
		var timer *time.Timer
		if !c.Until.IsZero() {
			timer = time.NewTimer(time.Until(c.Until))
			opens = timer.C
		}
		select {
		case <-ctx.Done():
		case <-opens:
		case <-changed:
		}
		if timer != nil {
			timer.Stop()
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
