package ledger

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// scripted is a store whose scan gives what it is told to, when a change that is
// newer than some of it has been followed.
type scripted struct {
	store

	since    time.Time
	followed []change
	scanned  []change
	passed   chan struct{}
}

func (s *scripted) follow(ctx context.Context, of scope, each func(change), live func(time.Time)) error {
	live(s.since)
	if of.prefix == namePrefix {
		for _, c := range s.followed {
			each(c)
		}
		close(s.passed)
	}
	<-ctx.Done()
	return ctx.Err()
}

var errEnd = errors.New("the script is over")

func (s *scripted) scan(_ context.Context, _ string, each func(change)) error {
	<-s.passed
	for _, c := range s.scanned {
		each(c)
	}
	return errEnd
}

// A scan is no part of the order of the changes: what it says of a row that was
// followed already is old, and what is new enough to be followed will be.
func TestScanTellsNothingThatIsFollowed(t *testing.T) {
	t.Parallel()
	now := time.Now()
	row := func(name string, open bool, revision uint64, at time.Time) change {
		return change{key: namePrefix + name, revision: revision, at: at, label: label{row: &provision.NameRow{Open: open, Owner: "o"}}}
	}
	old := now.Add(-time.Hour)
	s := &scripted{
		since: now, passed: make(chan struct{}),
		followed: []change{row("closed", false, 5, now)},
		scanned:  []change{row("closed", true, 1, old), row("forgotten", true, 2, old), row("soon", true, 6, now.Add(time.Second)), row("done", false, 3, old)},
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told []string
	l := &Ledger{store: s, reserve: time.Minute}
	l.Watch(ctx, Watch{
		Name:   func(hash string, r provision.NameRow) { told = append(told, fmt.Sprint(hash, " ", r.Open, " ", r.Revision)) },
		Broken: func(error) { cancel() },
	})
	if diff := cmp.Diff([]string{"closed false 5", "forgotten true 2"}, told); diff != "" {
		t.Errorf("the watch tells (-want +got):\n%s", diff)
	}
}
