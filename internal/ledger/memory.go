package ledger

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// NewMemory returns a Ledger that forgets everything with the process. It is
// held to the same conformance suite as the real one, for tests of the core.
func NewMemory() *Ledger {
	return &Ledger{
		store: &memory{cells: make(map[string]expiring), followers: make(map[*follower]struct{})},
		now:   time.Now, keep: DefaultKeepNames, reserve: DefaultReserve,
	}
}

type memory struct {
	mu    sync.Mutex
	last  uint64
	cells map[string]expiring

	followers map[*follower]struct{}
}

// follower is one call of follow: the changes that it has not given yet.
type follower struct {
	prefix string
	queue  []change
	more   chan struct{} // holds one when the queue is not empty
}

type expiring struct {
	cell
	until time.Time
	label label
	at    time.Time
}

func (m *memory) get(ctx context.Context, key string) (cell, error) {
	if err := ctx.Err(); err != nil {
		return cell{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live(key), nil
}

func (m *memory) live(key string) cell {
	c := m.cells[key]
	if !c.until.IsZero() && !time.Now().Before(c.until) {
		return cell{revision: c.revision}
	}
	return c.cell
}

func (m *memory) start(ctx context.Context, w write) func() (uint64, error) {
	if err := ctx.Err(); err != nil {
		return func() (uint64, error) { return 0, err }
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.live(w.key)
	if c.revision != w.revision && (w.revision != 0 || !c.absent()) {
		return func() (uint64, error) { return 0, provision.ErrConflict }
	}
	m.last++
	revision := m.last
	e := expiring{label: w.label, at: time.Now(), cell: cell{data: append([]byte(nil), w.data...), revision: revision}}
	if w.ttl > 0 {
		e.until = time.Now().Add(w.ttl)
	}
	m.cells[w.key] = e
	for f := range m.followers {
		f.add(w.key, e)
	}
	return func() (uint64, error) { return revision, nil }
}

// change is what a reading that begins now tells of a cell, without its data.
func (e expiring) change(key string) change {
	return change{key: key, label: e.label, revision: e.revision, at: e.at, quiet: time.Since(e.at)}
}

func (f *follower) add(key string, e expiring) {
	if !strings.HasPrefix(key, f.prefix) {
		return
	}
	c := e.change(key)
	c.data = e.data
	f.queue = append(f.queue, c)
	select {
	case f.more <- struct{}{}:
	default:
	}
}

func (m *memory) follow(ctx context.Context, of scope, each func(change), live func(since time.Time)) error {
	f := &follower{prefix: of.prefix, more: make(chan struct{}, 1)}
	f.more <- struct{}{} // there is an initial state, if an empty one
	since := of.since
	if of.within > 0 {
		since = time.Now().Add(-of.within)
	}
	m.mu.Lock()
	for key, e := range m.cells {
		if !m.live(key).absent() && !e.at.Before(since) {
			f.add(key, e)
		}
	}
	m.followers[f] = struct{}{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.followers, f)
	}()
	for initial := true; ; initial = false {
		select {
		case <-f.more:
		case <-ctx.Done():
			return ctx.Err()
		}
		m.mu.Lock()
		queue := f.queue
		f.queue = nil
		m.mu.Unlock()
		for i, c := range queue {
			c.left = uint64(len(queue) - 1 - i)
			if !of.values {
				c.data = nil
			}
			each(c)
		}
		if initial {
			live(since)
		}
	}
}
