package ledger

import (
	"context"
	"fmt"
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
	// reserve nothing. Open ones that have not changed for Config.Reserve belong to
	// no initial state and are told soon after it. The zero NameRow is a row that
	// is gone, or that an older version wrote, which says nothing and so reserves
	// nothing.
	Name func(hash string, row provision.NameRow)
	// Control tells the value of ctl.<name>; data is nil when it is gone.
	Control func(name string, data []byte, revision uint64)
	// Synced tells true once the initial state was told and changes follow as
	// they happen, and false when that ends.
	Synced func(live bool)
	// Broken tells why the watch has to begin anew, Late why rows that have been
	// open for long could not be read yet: that is tried again meanwhile.
	Broken, Late func(err error)
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
	v := &watcher{w: w, reserve: l.reserve, skew: l.skew, names: newSide(), controls: newSide()}
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
		if !sleep(ctx, pause/2+rand.N(pause/2)) {
			return
		}
	}
}

// sleep waits, and returns false when ctx has ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// watcher is what one Watch knows.
type watcher struct {
	w             Watch
	reserve, skew time.Duration

	mu              sync.Mutex
	names, controls side
	// newest is the highest revision of a name, before that of the sessions
	// before this one: a row that was closed later was closed unseen, if one of
	// them was live.
	newest, before uint64
	lived          bool
	// behind counts the prefixes whose initial state was not told yet.
	behind int
}

// side is what a Watch knows of one prefix.
type side struct {
	// known is the revision of what has to be told when it is gone: of the names
	// the open ones.
	known map[string]uint64
	// met is what this session has told something about; nil once it has told
	// everything.
	met map[string]struct{}
}

func newSide() side { return side{known: make(map[string]uint64)} }

// session watches until something breaks.
func (v *watcher) session(ctx context.Context, s store) error {
	v.behind, v.before = 2, v.newest
	v.names.met, v.controls.met = make(map[string]struct{}), make(map[string]struct{})
	live := make(chan struct{})
	var since time.Time
	told := func() {
		if v.behind--; v.behind > 0 {
			return
		}
		close(live)
		v.lived = true
		if v.w.Synced != nil {
			v.w.Synced(true)
		}
	}
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		return v.followNames(ctx, s, func(t time.Time) {
			since = t
			told()
		})
	})
	work.Go(func() error { return v.followControls(ctx, s, told) })
	work.Go(func() error {
		select {
		case <-live:
			v.tellOlder(ctx, s, since)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return work.Wait()
}

// followNames tells the rows that may reserve room, and what changes. Creates
// wait for it, so it must not take the longer the more names the ledger knows.
func (v *watcher) followNames(ctx context.Context, s store, told func(since time.Time)) error {
	initial := true
	return s.follow(ctx, scope{prefix: namePrefix, within: v.reserve}, func(c change) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.newest = max(v.newest, c.revision)
		unseen := !initial || v.lived && c.revision > v.before
		open := v.name(c, unseen)
		// Of the initial state there may be very many closed ones.
		if v.names.met != nil && (open || !initial) {
			v.names.met[c.key] = struct{}{}
		}
	}, func(since time.Time) {
		v.mu.Lock()
		defer v.mu.Unlock()
		initial = false
		told(since)
	})
}

// tellOlder tells the rows that are open and were stored before a time, as soon
// as they can be read. They reserve nothing, but somebody has to look after them.
func (v *watcher) tellOlder(ctx context.Context, s store, than time.Time) {
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		err := v.older(ctx, s, than)
		if err == nil || ctx.Err() != nil {
			return
		}
		if v.w.Late != nil {
			v.w.Late(err)
		}
		if !sleep(ctx, pause/2+rand.N(pause/2)) {
			return
		}
	}
}

// older is one reading of them. Who leads has a clock of its own, so that what was
// stored first need not be what is dated first.
func (v *watcher) older(ctx context.Context, s store, than time.Time) error {
	err := read(ctx, s, scope{prefix: namePrefix}, func(c change) error {
		v.mu.Lock()
		defer v.mu.Unlock()
		if _, met := v.names.met[c.key]; met {
			return nil
		}
		if c.at.Before(than.Add(v.skew)) {
			v.name(c, false)
		}
		if _, known := v.names.known[c.key]; known {
			v.names.met[c.key] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the names that have been open for long: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.gone(&v.names, func(key string) { v.name(change{key: key}, false) })
	return nil
}

// name tells what a row has become, if that is anything new, and whether it is
// open. unseen is whether a closed one may have been open meanwhile.
func (v *watcher) name(c change, unseen bool) (open bool) {
	told, was := v.names.known[c.key]
	var row provision.NameRow
	if c.label.row != nil {
		row = *c.label.row
		row.Revision, row.Quiet = c.revision, c.quiet
	}
	news := was || unseen && row.Owner != ""
	if row.Open {
		news = told != c.revision
	}
	if v.w.Name != nil && news {
		v.w.Name(strings.TrimPrefix(c.key, namePrefix), row)
	}
	if row.Open {
		v.names.known[c.key] = c.revision
	} else {
		delete(v.names.known, c.key)
	}
	return row.Open
}

func (v *watcher) followControls(ctx context.Context, s store, told func()) error {
	return s.follow(ctx, scope{prefix: controlPrefix, values: true}, func(c change) {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.controls.met != nil {
			v.controls.met[c.key] = struct{}{}
		}
		v.control(c)
	}, func(time.Time) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.gone(&v.controls, func(key string) { v.control(change{key: key}) })
		told()
	})
}

func (v *watcher) control(c change) {
	_, was := v.controls.known[c.key]
	there := len(c.data) > 0
	if v.w.Control != nil && (there || was) {
		v.w.Control(strings.TrimPrefix(c.key, controlPrefix), c.data, c.revision)
	}
	if there {
		v.controls.known[c.key] = c.revision
	} else {
		delete(v.controls.known, c.key)
	}
}

// gone tells that what the session has told everything of without meeting it is
// gone.
func (v *watcher) gone(of *side, tell func(key string)) {
	for key := range of.known {
		if _, met := of.met[key]; !met {
			tell(key)
		}
	}
	of.met = nil
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
