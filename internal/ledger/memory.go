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
	return &Ledger{store: &memory{cells: make(map[string]expiring)}, now: time.Now, keep: DefaultKeepNames}
}

type memory struct {
	mu    sync.Mutex
	last  uint64
	cells map[string]expiring
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
	return func() (uint64, error) { return revision, nil }
}

func (m *memory) scan(ctx context.Context, prefix string, each func(string, label, time.Time)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, c := range m.cells {
		if strings.HasPrefix(key, prefix) && !m.live(key).absent() {
			each(key, c.label, c.at)
		}
	}
	return nil
}
