package provision

import (
	"context"
	"errors"
	"time"
)

// authProbeMax is the longest time between two looks at a key that was
// refused (contract: WORKER_AUTH_POLICY).
const authProbeMax = 30 * time.Second

// holdForAuth stops all creates because the key is refused.
func (p *Provisioner) holdForAuth(ctx context.Context, cause error) {
	if c, closed := p.gate.Closed(); closed && c.Reason == WaitAuth {
		return
	}
	p.gate.Hold(WaitAuth)
	p.log.ErrorContext(ctx, "HostUp refuses the API key: no order fails, the queue is held until the key works; replace the key (HOSTUP_API_TOKEN or its file)", "error", cause)
}

// WatchAuth opens the gate again after the key was refused: it reads the
// account with growing pauses, and at once when keyChanged says so, until
// that succeeds. It returns when ctx ends.
func (p *Provisioner) WatchAuth(ctx context.Context, keyChanged <-chan struct{}) {
	for ctx.Err() == nil {
		changed := p.gate.Changed()
		c, closed := p.gate.Closed()
		if !closed || c.Reason != WaitAuth {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		p.probeKey(ctx, keyChanged)
	}
}

func (p *Provisioner) probeKey(ctx context.Context, keyChanged <-chan struct{}) {
	// Creates that were refused since the last one that was not count: the key
	// may be allowed to read and not to create.
	for n := max(p.keys.count(), 1); ; n++ {
		// At least half of the delay: a probe is a request that HostUp counts.
		t := time.NewTimer(min(max(p.backoff(n), p.ceiling(n)/2), authProbeMax))
		select {
		case <-t.C:
		case <-keyChanged:
			n = 1
			p.keys.worked()
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
		facts, err := p.ports.Account.Facts(ctx, time.Now())
		re, ok := errors.AsType[*ReadError](err)
		if ok && re.Auth {
			p.meter.keyRefused(ctx)
		}
		switch {
		case err == nil:
			p.meter.know(facts)
			p.gate.Release()
			p.log.InfoContext(ctx, "HostUp takes the API key again: the queue goes on")
			return
		case ok && re.Throttled:
			p.raise(ctx, re, n)
		}
	}
}
