package ledger

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Origin is the message that a record came from.
type Origin struct {
	Stream   string
	Sequence uint64
	// At is when the broker stored the message.
	At time.Time
}

// Unfinished is what a scan tells of a record that is not done. Origin is the
// zero one in a record that an older version stored last.
type Unfinished struct {
	Hash     string
	StoredAt time.Time
	Origin   Origin
}

// Roll lists the records that are not done. It is kept: one reading reads the
// headers of all records, and those after it only what has changed since, so
// that finished ones cost nothing however many there are. It is for one
// goroutine at a time.
type Roll struct {
	store store
	// keep is for how long the broker keeps the place up to which all was read.
	keep time.Duration
	open map[string]Unfinished
	// at is that place, nil when it is lost or never was.
	at cursor
	// newest is when the newest change was stored that was read, by the store's
	// clock, and whole when all was read last, by ours.
	newest, whole time.Time
}

// rollEvery is how often all is read: the marker of what has expired may be gone
// before it is read, and somebody may put an old copy of the store in its place.
const rollEvery = time.Hour

// NewRoll returns a Roll that has read nothing, for somebody who reads it every so
// often.
func (l *Ledger) NewRoll(every time.Duration) *Roll {
	return &Roll{store: l.store, keep: 3 * every}
}

// Unfinished gives every record that is not done, in no order. Like Scan it
// reads headers only. What was stored in this very moment may come with the next
// reading.
func (r *Roll) Unfinished(ctx context.Context, each func(Unfinished)) error {
	if err := r.read(ctx); err != nil {
		return fmt.Errorf("read which records are not done: %w", err)
	}
	for _, u := range r.open {
		each(u)
	}
	return nil
}

// read goes on from the place where it was. If that is lost, as with the broker
// that knew it, it reads by the clock, and all where that was not done for long.
func (r *Roll) read(ctx context.Context) error {
	began := time.Now()
	whole := began.Sub(r.whole) >= rollEvery
	if r.at != nil {
		if !whole && r.at.rest(ctx, r.take) == nil {
			return nil
		}
		r.at.close()
		r.at = nil
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if whole {
		r.open, r.newest, r.whole = make(map[string]Unfinished), time.Time{}, began
	}
	at, err := r.store.open(ctx, scope{prefix: recordPrefix, since: r.newest, keep: r.keep})
	if err == nil {
		if err = at.rest(ctx, r.take); err != nil {
			at.close()
		}
	}
	if err != nil {
		r.whole = time.Time{} // some of it may be missing
		return err
	}
	r.at = at
	return nil
}

func (r *Roll) take(c change) error {
	if c.at.After(r.newest) {
		r.newest = c.at
	}
	hash := strings.TrimPrefix(c.key, recordPrefix)
	if c.label.state == "" || c.label.state == provision.StateDone {
		delete(r.open, hash)
	} else {
		r.open[hash] = Unfinished{Hash: hash, StoredAt: c.at, Origin: c.label.origin}
	}
	return nil
}
