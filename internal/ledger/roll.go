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
	open  map[string]Unfinished
	// newest is when the newest change was stored that was read, by the store's
	// clock, and whole when all was read last, by ours.
	newest, whole time.Time
	skew          time.Duration
}

// rollEvery is how often all is read: the marker of what has expired may be gone
// before it is read, and somebody may put an old copy of the store in its place.
const rollEvery = time.Hour

// NewRoll returns a Roll that has read nothing.
func (l *Ledger) NewRoll() *Roll {
	return &Roll{store: l.store, skew: l.skew}
}

// Unfinished gives every record that is not done, in no order. Like Scan it
// reads headers only.
func (r *Roll) Unfinished(ctx context.Context, each func(Unfinished)) error {
	began, since := time.Now(), r.newest.Add(-r.skew)
	whole := r.whole.IsZero() || began.Sub(r.whole) >= rollEvery
	if whole {
		r.open, r.newest, since = make(map[string]Unfinished), time.Time{}, time.Time{}
	}
	err := read(ctx, r.store, scope{prefix: recordPrefix, since: since}, func(c change) error {
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
	})
	if err != nil {
		r.whole = time.Time{} // some of it may be missing
		return fmt.Errorf("read which records are not done: %w", err)
	}
	if whole {
		r.whole = began
	}
	for _, u := range r.open {
		each(u)
	}
	return nil
}
