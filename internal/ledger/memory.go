package ledger

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// NewMemory returns a Ledger that forgets everything with the process. It is
// held to the same conformance suite as the real one, for tests of the core.
func NewMemory() *Ledger {
	return &Ledger{
		store: &memory{cells: make(map[string]expiring), cursors: make(map[*memoryCursor]struct{})},
		now:   time.Now, keep: DefaultKeepNames, reserve: DefaultReserve,
	}
}

type memory struct {
	mu    sync.Mutex
	last  uint64
	cells map[string]expiring

	cursors map[*memoryCursor]struct{}
}

// memoryCursor holds the changes that it has not given yet.
type memoryCursor struct {
	of    scope
	store *memory
	queue []change
	more  chan struct{} // holds one when the queue is not empty
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
	for c := range m.cursors {
		c.add(w.key, e)
	}
	return func() (uint64, error) { return revision, nil }
}

func (m *memory) open(ctx context.Context, of scope) (cursor, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &memoryCursor{of: of, store: m, more: make(chan struct{}, 1)}
	since := of.since
	if of.within > 0 {
		since = time.Now().Add(-of.within)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, e := range m.cells {
		if !of.ahead && !m.live(key).absent() && !e.at.Before(since) {
			c.add(key, e)
		}
	}
	slices.SortFunc(c.queue, func(a, b change) int { return cmp.Compare(a.revision, b.revision) })
	m.cursors[c] = struct{}{}
	return c, nil
}

func (c *memoryCursor) close() {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	delete(c.store.cursors, c)
}

func (c *memoryCursor) add(key string, e expiring) {
	if !strings.HasPrefix(key, c.of.prefix) {
		return
	}
	ch := change{key: key, label: e.label, revision: e.revision, at: e.at}
	if c.of.values {
		ch.data = e.data
	}
	c.queue = append(c.queue, ch)
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (c *memoryCursor) take() []change {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	queue := c.queue
	c.queue = nil
	return queue
}

func (c *memoryCursor) rest(ctx context.Context, each func(change) error) error {
	for _, ch := range c.take() {
		ch.quiet = time.Since(ch.at)
		if err := each(ch); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (c *memoryCursor) follow(ctx context.Context, each func(change), _ func(bool)) error {
	for {
		select {
		case <-c.more:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, ch := range c.take() {
			each(ch)
		}
	}
}
