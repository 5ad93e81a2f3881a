package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// scripted is a store that gives as old rows what it is told to, when changes of
// some of them have been followed: a session of a watch for each script.
type scripted struct {
	store

	scripts      []script
	passed, over chan struct{}
}

// Before the old rows are given, reading them fails so often.
type script struct {
	initial, followed, old []change
	fails                  int
}

var errEnd = errors.New("the script is over")

func (s *scripted) get(context.Context, string) (cell, error) { return cell{}, nil }

func (s *scripted) open(_ context.Context, of scope) (cursor, error) {
	switch {
	case of.prefix == controlPrefix:
		return still{}, nil
	case of.within > 0:
		return &newRows{s: s}, nil
	case s.scripts[0].fails > 0:
		s.scripts[0].fails--
		return nil, errEnd
	}
	return &oldRows{s: s}, nil
}

// still is a cursor of what never changes.
type still struct{}

func (still) rest(context.Context, func(change) error) error { return nil }

func (still) follow(ctx context.Context, _ func(change), _ func(bool)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (still) close() {}

func give(rows []change, each func(change) error) error {
	for _, c := range rows {
		if err := each(c); err != nil {
			return err
		}
	}
	return nil
}

type newRows struct {
	still

	s *scripted
}

func (c *newRows) rest(_ context.Context, each func(change) error) error {
	return give(c.s.scripts[0].initial, each)
}

func (c *newRows) follow(_ context.Context, each func(change), _ func(bool)) error {
	for _, ch := range c.s.scripts[0].followed {
		each(ch)
	}
	c.s.passed <- struct{}{}
	<-c.s.over
	return errEnd
}

type oldRows struct {
	still

	s *scripted
}

func (c *oldRows) rest(_ context.Context, each func(change) error) error {
	<-c.s.passed
	old := c.s.scripts[0].old
	c.s.scripts = c.s.scripts[1:]
	return give(old, each)
}

func (c *oldRows) close() { c.s.over <- struct{}{} }

// The reading of old rows is no part of the order of the changes: what it says of
// one that was followed already is outdated. It ends where the other began.
func TestOldRowsTellNothingThatIsFollowed(t *testing.T) {
	t.Parallel()
	row := func(name string, open bool, revision uint64) change {
		return change{key: namePrefix + name, revision: revision, label: label{row: &provision.NameRow{Open: open, Owner: "o"}}}
	}
	s := &scripted{passed: make(chan struct{}, 1), over: make(chan struct{}), scripts: []script{{
		initial:  []change{row("recent", true, 6)},
		followed: []change{row("closed", false, 7)},
		old: []change{
			row("closed", true, 1), row("forgotten", true, 2), row("done", false, 3), row("lost", true, 4),
			row("recent", true, 6), row("beyond", true, 8),
		},
	}, {
		fails:   2,
		initial: []change{row("forgotten", false, 9)},
	}}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told []string
	l := &Ledger{store: s, reserve: time.Minute}
	broken, late := 0, 0
	l.Watch(ctx, Watch{
		Name: func(hash string, r provision.NameRow) {
			told = append(told, fmt.Sprint(hash, " ", r.Open, " ", r.Revision))
		},
		Broken: func(error) {
			broken++
			if len(s.scripts) == 0 {
				cancel()
			}
		},
		Late: func(error) { late++ },
	})
	want := []string{"recent true 6", "closed false 7", "forgotten true 2", "lost true 4", "forgotten false 9", "lost false 0", "recent false 0"}
	slices.Sort(want[5:])
	slices.Sort(told[min(5, len(told)):])
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("the watch tells (-want +got):\n%s", diff)
	}
	// That they could not be read is told, and nothing else waits for it.
	if broken != 2 || late != 2 {
		t.Errorf("the watch broke %d times, and was late %d times", broken, late)
	}
}

// halves is a store whose controls are what they are told to be, and whose names
// never change.
type halves struct {
	store

	rows     map[string]cell
	changes  []change
	controls int
	names    atomic.Int32
	// silence is when the names fall silent, and voice when they no longer are.
	silence, voice chan struct{}
}

func (h *halves) get(_ context.Context, key string) (cell, error) { return h.rows[key], nil }

func (h *halves) open(_ context.Context, of scope) (cursor, error) {
	if of.prefix == controlPrefix {
		h.controls++
		return &half{h: h}, nil
	}
	if of.within > 0 {
		h.names.Add(1)
		return &sleepy{h: h}, nil
	}
	return still{}, nil
}

// sleepy falls silent once.
type sleepy struct {
	still

	h *halves
}

func (c *sleepy) follow(ctx context.Context, each func(change), live func(bool)) error {
	select {
	case <-c.h.silence:
		live(false)
		<-c.h.voice
		live(true)
	case <-ctx.Done():
	}
	return c.still.follow(ctx, each, live)
}

type half struct {
	still

	h *halves
}

func (c *half) follow(ctx context.Context, each func(change), _ func(bool)) error {
	if c.h.controls == 1 && c.h.silence == nil {
		return errEnd
	}
	for _, ch := range c.h.changes {
		each(ch)
	}
	return c.still.follow(ctx, each, nil)
}

// Controls that break are read again, in the order of their revisions, and the
// names, of which there may be a million, are not.
func TestWatchReadsTheControlsAlone(t *testing.T) {
	t.Parallel()
	put := func(key string, revision uint64) change {
		return change{key: key, data: []byte("x"), revision: revision}
	}
	h := &halves{
		rows: map[string]cell{gateKey: {data: []byte("x"), revision: 7}, brakeKey: {revision: 3}},
		// What is followed begins before what was read.
		changes: []change{put(gateKey, 6), put(auditKey, 8), put(gateKey, 7), put(gateKey, 9)},
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told []string
	(&Ledger{store: h, reserve: time.Minute}).Watch(ctx, Watch{
		Control: func(name string, data []byte, revision uint64) {
			if told = append(told, fmt.Sprint(name, " ", string(data), " ", revision)); revision == 9 {
				cancel()
			}
		},
		Synced: func(live bool) { told = append(told, fmt.Sprint("synced ", live)) },
	})
	told = slices.DeleteFunc(told, func(line string) bool { return line == "synced true" || line == "synced false" })
	if diff := cmp.Diff([]string{"gate x 7", "gate x 7", "gate x 9"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if n := h.names.Load(); n != 1 || h.controls != 2 {
		t.Errorf("names were read %d times, controls %d times", n, h.controls)
	}
}

// When the names fell silent, whoever heard of it may have forgotten the controls:
// what is told before it is synced again is all of them.
func TestControlsAreReadAgainAfterASilenceOfTheNames(t *testing.T) {
	t.Parallel()
	h := &halves{rows: map[string]cell{gateKey: {data: []byte("x"), revision: 7}}, silence: make(chan struct{}), voice: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told []string
	synced := 0
	(&Ledger{store: h, reserve: time.Minute}).Watch(ctx, Watch{
		Control: func(name string, data []byte, revision uint64) {
			told = append(told, fmt.Sprint(name, " ", string(data), " ", revision))
			if len(told) == 4 { // told again
				close(h.voice)
			}
		},
		Synced: func(live bool) {
			if told = append(told, fmt.Sprint("synced ", live)); !live {
				return
			}
			if synced++; synced == 1 {
				close(h.silence)
			} else {
				cancel()
			}
		},
		Broken: func(err error) {
			if !errors.Is(err, errSilent) {
				t.Errorf("broken by %v", err)
			}
		},
	})
	want := []string{"gate x 7", "synced true", "synced false", "gate x 7", "synced true", "synced false"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if n := h.names.Load(); n != 1 {
		t.Errorf("the names were read %d times", n)
	}
}
