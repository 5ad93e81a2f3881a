package provision

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

func (p *Provisioner) backoff(n int) time.Duration {
	return Backoff(p.cfg.BackoffInitial, p.cfg.BackoffMax, n)
}

// Backoff returns the delay before try n+1 after n fruitless ones, n from 1:
// exponential with full jitter, between 0 and the smaller of longest and
// initial·2^(n-1).
func Backoff(initial, longest time.Duration, n int) time.Duration {
	// The library spreads a delay over interval·(1±factor). Half of the
	// interval with factor 1 is full jitter.
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(initial/2),
		backoff.WithMaxInterval(longest/2),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(1),
		backoff.WithMaxElapsedTime(0),
	)
	var d time.Duration
	for range min(max(n, 1), 64) {
		d = b.NextBackOff()
	}
	return d
}

// ceiling is the longest delay that backoff(n) may give.
func (p *Provisioner) ceiling(n int) time.Duration {
	d := p.cfg.BackoffInitial
	for range n - 1 {
		if d >= p.cfg.BackoffMax/2 {
			return p.cfg.BackoffMax
		}
		d *= 2
	}
	return d
}

// later spreads a delay upwards by at most a tenth and at most a second, so
// that a fleet does not come back in one moment. It never undercuts d.
func later(d time.Duration) time.Duration {
	spread := min(d/10, time.Second)
	if spread <= 0 {
		return d
	}
	return d + rand.N(spread)
}

// sleep waits in hand. It ends early, with true, when what it waits for changes:
// the gate, for who was denied by it, or, for who waits for others' creates, when
// one of them has settled. It ends with false when ctx does.
func (p *Provisioner) sleep(ctx context.Context, d Disposition) bool {
	p.meter.waits.enter(d.Reason)
	defer p.meter.waits.leave(d.Reason)
	t := time.NewTimer(d.After)
	defer t.Stop()
	var freed <-chan struct{}
	if d.Reason == WaitCrowded {
		freed = p.book.Freed()
	}
	select {
	case <-t.C:
	case <-freed:
	case <-d.changed:
	case <-ctx.Done():
		return false
	}
	return ctx.Err() == nil
}

// pause waits without listening to anybody: only for what must not be lost.
func (p *Provisioner) pause(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
}
