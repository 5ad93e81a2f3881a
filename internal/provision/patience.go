package provision

import (
	"sync"
	"time"
)

// patience is the memory of one thing that keeps failing for this whole
// process: how often in a row, and until when nobody tries it again. The zero
// value is ready; it is safe for concurrent use.
type patience struct {
	mu       sync.Mutex
	failures int
	last     time.Time
	until    time.Time
}

// left is how long nobody should try.
func (p *patience) left() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.until)
}

// failed counts a failure of something that began at a time. Failures that
// were under way together count once.
func (p *patience) failed(began time.Time, delay func(n int) time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if began.Before(p.last) {
		return
	}
	p.failures++
	p.last = time.Now()
	p.until = p.last.Add(delay(p.failures))
}

// worked forgets the failures.
func (p *patience) worked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures, p.until = 0, time.Time{}
}

// count is how many failures there were in a row.
func (p *patience) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failures
}
