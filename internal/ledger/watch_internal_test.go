package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// scripted is a store that gives as old rows what it is told to, when changes of
// some of them have been followed: a session of a watch for each script.
type scripted struct {
	store

	since        time.Time
	scripts      []script
	passed, over chan struct{}
}

// Before the old rows are given, reading them fails so often.
type script struct {
	followed, old []change
	fails         int
}

var errEnd = errors.New("the script is over")

func (s *scripted) follow(ctx context.Context, of scope, each func(change), live func(time.Time)) error {
	if of.prefix == namePrefix && of.within == 0 {
		if s.scripts[0].fails > 0 {
			s.scripts[0].fails--
			return errEnd
		}
		<-s.passed
		old := s.scripts[0].old
		s.scripts = s.scripts[1:]
		for i, c := range old {
			c.left = uint64(len(old) - 1 - i)
			each(c)
		}
		live(time.Time{})
		s.over <- struct{}{}
		return nil
	}
	live(s.since)
	if of.prefix == namePrefix {
		for _, c := range s.scripts[0].followed {
			each(c)
		}
		s.passed <- struct{}{}
		<-s.over
		return errEnd
	}
	<-ctx.Done()
	return ctx.Err()
}

// The reading of old rows is no part of the order of the changes: what it says of
// one that was followed already is outdated, and what is new will be followed.
func TestOldRowsTellNothingThatIsFollowed(t *testing.T) {
	t.Parallel()
	now := time.Now()
	row := func(name string, open bool, revision uint64, at time.Time) change {
		return change{key: namePrefix + name, revision: revision, at: at, label: label{row: &provision.NameRow{Open: open, Owner: "o"}}}
	}
	// What another leader dates a little later may have been stored before.
	old, skewed, soon := now.Add(-time.Hour), now.Add(time.Second), now.Add(time.Hour)
	s := &scripted{since: now, passed: make(chan struct{}, 1), over: make(chan struct{}), scripts: []script{{
		followed: []change{row("closed", false, 5, now)},
		old: []change{
			row("closed", true, 1, old), row("forgotten", true, 2, old), row("lost", true, 4, old),
			row("soon", true, 6, soon), row("done", false, 3, old), row("skewed", true, 2, skewed),
		},
	}, {
		fails: 2,
		// One that is known and has changed is not gone before that is followed.
		old: []change{row("forgotten", false, 7, soon)},
	}}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told []string
	l := &Ledger{store: s, reserve: time.Minute, skew: time.Minute}
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
	want := []string{"closed false 5", "forgotten true 2", "lost true 4", "skewed true 2", "lost false 0", "skewed false 0"}
	slices.Sort(want[4:])
	slices.Sort(told[min(4, len(told)):])
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("the watch tells (-want +got):\n%s", diff)
	}
	// That they could not be read is told, and nothing else waits for it.
	if broken != 2 || late != 2 {
		t.Errorf("the watch broke %d times, and was late %d times", broken, late)
	}
}
