package ledger

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostup/deploy-worker/internal/provision"
)

// controlPrefix begins the keys of what the fleet shares besides records and
// names.
const controlPrefix = "ctl."

// Watch is who is told of the ledger's changes. Any field may be nil. No two of
// them are called at once; none of them may wait for the watch.
type Watch struct {
	// Name tells what the row of a name, given by its hash, has become. Closed
	// rows of the initial state are not told: there may be very many, and they
	// reserve nothing. The zero NameRow is a row that is gone, or that an older
	// version wrote, which says nothing and so reserves nothing.
	Name func(hash string, row provision.NameRow)
	// Control tells the value of ctl.<name>; data is nil when it is gone.
	Control func(name string, data []byte, revision uint64)
	// Synced tells true once the initial state was told and changes follow as
	// they happen, and false when that ends.
	Synced func(live bool)
	// Broken tells why the watch has to begin anew.
	Broken func(err error)
}

// Pauses between two tries to watch.
const (
	shortestPause = 100 * time.Millisecond
	longestPause  = 5 * time.Second
)

// Watch tells w what changes, until ctx ends. When the broker goes away it
// begins anew, as often as it takes, and tells what it missed: the newest state
// of everything, and of what is gone, that it is.
func (l *Ledger) Watch(ctx context.Context, w Watch) {
	v := &watcher{w: w, open: make(map[string]struct{}), controls: make(map[string]struct{})}
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		err := v.session(ctx, l.store)
		if v.ended() {
			pause = shortestPause
		}
		if ctx.Err() != nil {
			return
		}
		if w.Broken != nil {
			w.Broken(err)
		}
		t := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// watcher is what one Watch knows: of the names the open ones only.
type watcher struct {
	w Watch

	mu       sync.Mutex
	open     map[string]struct{}
	controls map[string]struct{}
	// newest is the highest revision of a name, before that of the sessions
	// before this one: a row that was closed later was closed unseen.
	newest, before uint64
	// behind counts the prefixes whose initial state was not told yet.
	behind int
}

// session watches until something breaks.
func (v *watcher) session(ctx context.Context, s store) error {
	v.behind, v.before = 2, v.newest
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return v.follow(ctx, s, namePrefix, v.open, v.name) })
	work.Go(func() error { return v.follow(ctx, s, controlPrefix, v.controls, v.control) })
	return work.Wait()
}

// follow follows one prefix. tell tells a change, and whether there is
// something under the key that has to be told when it is gone.
func (v *watcher) follow(ctx context.Context, s store, prefix string, known map[string]struct{}, tell func(name string, c change, was, initial bool) bool) error {
	initial := true
	found := make(map[string]struct{})
	each := func(c change) {
		v.mu.Lock()
		defer v.mu.Unlock()
		name := strings.TrimPrefix(c.key, prefix)
		_, was := known[name]
		if tell(name, c, was, initial) {
			known[name] = struct{}{}
			if initial {
				found[name] = struct{}{}
			}
		} else {
			delete(known, name)
		}
	}
	live := func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		for name := range known {
			if _, ok := found[name]; !ok {
				delete(known, name)
				tell(name, change{}, true, false)
			}
		}
		initial, found = false, nil
		if v.behind--; v.behind == 0 && v.w.Synced != nil {
			v.w.Synced(true)
		}
	}
	return s.follow(ctx, prefix, prefix == controlPrefix, each, live)
}

// ended ends a session and reports whether it had come so far as to be live.
func (v *watcher) ended() bool {
	if v.behind > 0 {
		return false
	}
	if v.w.Synced != nil {
		v.w.Synced(false)
	}
	return true
}

func (v *watcher) name(hash string, c change, was, initial bool) bool {
	v.newest = max(v.newest, c.revision)
	var row provision.NameRow
	if c.label.row != nil {
		row = *c.label.row
		row.Revision = c.revision
	}
	unseen := row.Owner != "" && (!initial || v.before > 0 && c.revision > v.before)
	if v.w.Name != nil && (row.Open || was || unseen) {
		v.w.Name(hash, row)
	}
	return row.Open
}

func (v *watcher) control(name string, c change, was, _ bool) bool {
	there := len(c.data) > 0
	if v.w.Control != nil && (there || was) {
		v.w.Control(name, c.data, c.revision)
	}
	return there
}
