package ledger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
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
	// Control tells the value of ctl.<name>, of those that Control.Changed knows;
	// data is nil when it is gone.
	Control func(name string, data []byte, revision uint64)
	// Synced tells true once the initial state was told and changes follow as
	// they happen, and false when that ends.
	Synced func(live bool)
	// Broken tells why changes cannot be followed for now, Late why rows that have been
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
// of everything, and of what is gone, that it is. Names and controls begin anew
// each for itself.
func (l *Ledger) Watch(ctx context.Context, w Watch) {
	v := &watcher{
		w: w, store: l.store, reserve: l.reserve,
		names:    names{known: make(map[string]uint64)},
		controls: controls{known: make(map[string]struct{})},
	}
	var both sync.WaitGroup
	both.Go(func() { v.keep(ctx, &v.names.side, v.followNames) })
	both.Go(func() { v.keep(ctx, &v.controls.side, v.followControls) })
	both.Wait()
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
	w       Watch
	store   store
	reserve time.Duration

	mu       sync.Mutex
	names    names
	controls controls
	// synced is what was told last.
	synced bool
}

// side is how far the session of one prefix has come: live is whether it is,
// reached whether it was.
type side struct{ live, reached bool }

type names struct {
	side
	// known is the revision of the open ones, of which has to be told when they are
	// gone.
	known map[string]uint64
	// met is what this session has told something about; nil once it has told
	// everything.
	met map[string]struct{}
	// newest is the highest revision, before that of the sessions before this one:
	// a row that was closed later was closed unseen, if one of them was live.
	newest, before uint64
	lived          bool
}

type controls struct {
	side
	// known are those that have to be told when they are gone.
	known map[string]struct{}
	// met is the revision that this session has told last.
	met map[string]uint64
	// again ends the session.
	again context.CancelFunc
}

// keep follows one side, and begins anew when a session ends.
func (v *watcher) keep(ctx context.Context, of *side, session func(ctx context.Context) error) {
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		err := session(ctx)
		if v.ended(ctx, of, err) {
			pause = shortestPause
		}
		if !sleep(ctx, pause/2+rand.N(pause/2)) {
			return
		}
	}
}

// ended ends a session and reports whether it had come so far as to be live.
func (v *watcher) ended(ctx context.Context, of *side, err error) (reached bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	reached, of.reached = of.reached, false
	if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		v.broken(err)
	}
	return reached
}

// down tells that a side is not live any more, before anything else is done: a
// connection that is dialled anew holds up whoever uses it.
func (v *watcher) down(of *side) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sync(of, false)
}

// broken tells why changes cannot be followed, with the lock held.
func (v *watcher) broken(err error) {
	if v.w.Broken != nil {
		v.w.Broken(err)
	}
}

// sync notes whether a side is live and tells whether both are, with the lock
// held. Whoever hears that they are not may forget what the controls are, so these
// are read again.
func (v *watcher) sync(of *side, live bool) {
	if of == &v.names.side && of.live && !live && v.controls.live {
		v.controls.live = false
		v.controls.again()
	}
	of.live, of.reached = live, of.reached || live
	both := v.names.live && v.controls.live
	if both == v.synced {
		return
	}
	v.synced = both
	if v.w.Synced != nil {
		v.w.Synced(both)
	}
}

// followNames tells the rows that may reserve room, and what changes. Creates
// wait for it, so it must not take the longer the more names the ledger knows.
func (v *watcher) followNames(ctx context.Context) error {
	v.mu.Lock()
	v.names.met, v.names.before = make(map[string]struct{}), v.names.newest
	v.mu.Unlock()
	at, err := v.store.open(ctx, scope{prefix: namePrefix, within: v.reserve})
	if err != nil {
		return err
	}
	defer at.close()
	first := uint64(math.MaxUint64)
	err = at.rest(ctx, func(c change) error {
		first = min(first, c.revision)
		v.nameChanged(c, true)
		return nil
	})
	if err != nil {
		return err
	}
	v.namesLive(true)
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		defer v.down(&v.names.side)
		return at.follow(ctx, func(c change) { v.nameChanged(c, false) }, v.namesLive)
	})
	work.Go(func() error {
		v.tellOlder(ctx, first)
		return nil
	})
	return work.Wait()
}

func (v *watcher) namesLive(live bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.names.lived = true
	v.sync(&v.names.side, live)
	if !live {
		v.broken(fmt.Errorf("follow %s*: %w", namePrefix, errSilent))
	}
}

func (v *watcher) nameChanged(c change, initial bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := &v.names
	n.newest = max(n.newest, c.revision)
	unseen := !initial || n.lived && c.revision > n.before
	open := v.name(c, unseen)
	// Of the initial state there may be very many closed ones.
	if n.met != nil && (open || !initial) {
		n.met[c.key] = struct{}{}
	}
}

// tellOlder tells the rows that are open and were stored before a revision, as soon
// as they can be read. They reserve nothing, but somebody has to look after them.
func (v *watcher) tellOlder(ctx context.Context, than uint64) {
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		err := v.older(ctx, than)
		if err == nil || ctx.Err() != nil {
			return
		}
		v.late(err)
		if !sleep(ctx, pause/2+rand.N(pause/2)) {
			return
		}
	}
}

// errTold ends a reading of what is not told yet.
var errTold = errors.New("the rest has been told")

// older is one reading of them.
func (v *watcher) older(ctx context.Context, than uint64) error {
	err := read(ctx, v.store, scope{prefix: namePrefix}, func(c change) error {
		if c.revision >= than {
			return errTold
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if _, met := v.names.met[c.key]; met {
			return nil
		}
		v.name(c, false)
		if _, known := v.names.known[c.key]; known {
			v.names.met[c.key] = struct{}{}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errTold) {
		return fmt.Errorf("read the names that have been open for long: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for key := range v.names.known {
		if _, met := v.names.met[key]; !met {
			v.name(change{key: key}, false)
		}
	}
	v.names.met = nil
	return nil
}

func (v *watcher) late(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.w.Late != nil {
		v.w.Late(err)
	}
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

// followControls tells the rows that the fleet shares. They are few, so they are
// read one by one, from the leader, and what is followed is what changes. That
// begins anew in no time, so it ends with the first silence.
func (v *watcher) followControls(ctx context.Context) error {
	ctx, again := context.WithCancel(ctx)
	defer again()
	v.mu.Lock()
	v.controls.met, v.controls.again = make(map[string]uint64), again
	v.mu.Unlock()
	at, err := v.store.open(ctx, scope{prefix: controlPrefix, values: true, ahead: true})
	if err != nil {
		return err
	}
	defer at.close()
	if err := v.readControls(ctx); err != nil {
		return err
	}
	v.mu.Lock()
	v.sync(&v.controls.side, true)
	v.mu.Unlock()
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		defer v.down(&v.controls.side)
		return at.follow(ctx, v.control, func(bool) {})
	})
	work.Go(func() error {
		for sleep(ctx, readEvery) {
			if err := v.readControls(ctx); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	return work.Wait()
}

// readEvery is how often the controls are read from the leader beside what is
// followed: the node that tells of changes may be behind, and not know it.
const readEvery = 5 * time.Second

func (v *watcher) readControls(ctx context.Context) error {
	for _, key := range controlKeys {
		c, err := v.store.get(ctx, key)
		if err != nil {
			return err
		}
		v.control(change{key: key, data: c.data, revision: c.revision})
	}
	return nil
}

func (v *watcher) control(c change) {
	if !slices.Contains(controlKeys, c.key) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	// What was read may be newer than what is followed.
	if met, told := v.controls.met[c.key]; told && c.revision <= met {
		return
	}
	v.controls.met[c.key] = c.revision
	_, was := v.controls.known[c.key]
	there := len(c.data) > 0
	if v.w.Control != nil && (there || was) {
		v.w.Control(strings.TrimPrefix(c.key, controlPrefix), c.data, c.revision)
	}
	if there {
		v.controls.known[c.key] = struct{}{}
	} else {
		delete(v.controls.known, c.key)
	}
}
