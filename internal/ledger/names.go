package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// row says who may have an unannounced server of a name. The name is the only
// thing a request chooses that can be read back from the API, so two
// unfinished requests with one name could not be told apart.
type row struct {
	Open bool `json:"open"`
	// Owner is the idempotency key, Token that of the owner's attempt.
	Owner     string    `json:"owner,omitempty"`
	Token     string    `json:"token,omitempty"`
	CPUCores  int32     `json:"cpuCores,omitempty"`
	MemoryGB  int32     `json:"memoryGb,omitempty"`
	StorageGB int32     `json:"storageGb,omitempty"`
	Since     time.Time `json:"since,omitzero"`
	// Finished are the servers that were announced under this name lately;
	// none of them can be the one a later lost answer bought.
	Finished []finished `json:"finished,omitempty"`
	// Forgotten is when the newest server was finished that is not among them
	// any more; zero when all are.
	Forgotten time.Time `json:"forgotten,omitzero"`

	Newer string `json:"-"` // see encode
}

type finished struct {
	VPSID string    `json:"vpsId"`
	At    time.Time `json:"at"`
	Newer string    `json:"-"` // see encode
}

// maxFinished bounds a row. A name that is used this often in a short time can
// not be adopted for by those who waited longer than the list reaches back.
const maxFinished = 128

// maxTakes bounds how often a row may change hands while it is being taken.
const maxTakes = 16

func nameKey(name string) string { return namePrefix + provision.KeyHash(strings.ToLower(name)) }

func newRow(r *provision.Record, now time.Time) row {
	return row{
		Open: true, Owner: r.Key, Token: r.Attempts[len(r.Attempts)-1].Token, Since: now,
		CPUCores: r.Request.CPUCores, MemoryGB: r.Request.MemoryGB, StorageGB: r.Request.StorageGB,
	}
}

// startRow writes a row. The label says whose it is, or who closed it, and which
// server it was just left with.
func (l *Ledger) startRow(ctx context.Context, key string, v, of row, vpsID string, revision uint64) func() (uint64, error) {
	data, err := encode(v)
	if err != nil {
		return func() (uint64, error) { return 0, fmt.Errorf("encode the row: %w", err) }
	}
	w := write{key: key, data: data, revision: revision, label: label{row: &provision.NameRow{
		Open: v.Open, Owner: provision.KeyHash(of.Owner), Size: of.order().Resources(), Since: of.Since, VPSID: vpsID,
	}}}
	if !v.Open {
		w.ttl = l.keep
	}
	return l.store.start(ctx, w)
}

// take gets a row that exists already. The row is always written, also when
// its owner is the taker: a rival who has read it and is about to take it over
// must find it changed.
func (l *Ledger) take(ctx context.Context, name string, mine row) error {
	key := nameKey(name)
	for range maxTakes {
		current, revision, err := l.row(ctx, key)
		if err != nil {
			return fmt.Errorf("take the name %q: %w", name, err)
		}
		left := ""
		if current.Open && current.Owner != mine.Owner {
			owner, err := l.load(ctx, provision.KeyHash(current.Owner))
			if err != nil {
				return fmt.Errorf("read who owns the name %q: %w", name, err)
			}
			if owner != nil && owner.State.Owns() {
				return &provision.NameTakenError{Owner: current.Owner}
			}
			if owner != nil {
				// It had no time to release the row, and its server is no candidate.
				left = owner.VPSID
				current.finish(left, l.now())
			}
		}
		mine.Finished, mine.Forgotten = recent(current)
		mine.Newer = current.Newer
		_, err = l.startRow(ctx, key, mine, mine, left, revision)()
		if err == nil {
			return nil
		}
		if !errors.Is(err, provision.ErrConflict) {
			return fmt.Errorf("take the name %q: %w", name, err)
		}
	}
	return fmt.Errorf("take the name %q: it changed hands %d times", name, maxTakes)
}

// Release implements provision.Names. Only the attempt that took the row
// closes it: the same request may be at its next attempt already. A row that
// this attempt made, and nobody has changed since, is closed without reading it.
func (l *Ledger) Release(ctx context.Context, r *provision.Record) error {
	name, attempt := r.Request.Name, r.Attempts[len(r.Attempts)-1]
	err := provision.ErrConflict
	if r.NameRevision > 0 {
		err = l.storeClosed(ctx, nameKey(name), newRow(r, attempt.StartedAt), r.VPSID, r.NameRevision)
	}
	if errors.Is(err, provision.ErrConflict) {
		_, err = l.closeRow(ctx, nameKey(name), func(current row) (string, bool, error) {
			return r.VPSID, current.Owner == r.Key && current.Token == attempt.Token, nil
		})
	}
	if err != nil {
		return fmt.Errorf("release the name %q: %w", name, err)
	}
	return nil
}

// Mend closes the row of a name, given by its KeyHash, whose owner is not
// between intent and result and did not release it: the worker died between its
// result and the release, or the release was lost. It reports whether it did.
// As in take, the owner is read after the row: an intent that is stored
// meanwhile takes the row again, and one of the two finds it changed.
func (l *Ledger) Mend(ctx context.Context, hash string) (bool, error) {
	key := namePrefix + hash
	closed, err := l.closeRow(ctx, key, func(current row) (string, bool, error) {
		owner, err := l.load(ctx, provision.KeyHash(current.Owner))
		if owner == nil || err != nil {
			return "", err == nil, err
		}
		return owner.VPSID, !owner.State.Owns() || nameKey(owner.Request.Name) != key, nil
	})
	if err != nil {
		return false, fmt.Errorf("mend the row %s: %w", hash, err)
	}
	return closed, nil
}

// closeRow closes an open row if the caller wants that, by compare-and-set with
// the row that it decided about. decide says with which server it was left.
func (l *Ledger) closeRow(ctx context.Context, key string, decide func(row) (vpsID string, ok bool, err error)) (bool, error) {
	for range maxTakes {
		current, revision, err := l.row(ctx, key)
		if err != nil || !current.Open {
			return false, err
		}
		vpsID, ok, err := decide(current)
		if err != nil || !ok {
			return false, err
		}
		err = l.storeClosed(ctx, key, current, vpsID, revision)
		if !errors.Is(err, provision.ErrConflict) {
			return err == nil, err
		}
	}
	return false, fmt.Errorf("it changed %d times", maxTakes)
}

// storeClosed closes the row that is stored at a revision.
func (l *Ledger) storeClosed(ctx context.Context, key string, current row, vpsID string, revision uint64) error {
	current.finish(vpsID, l.now())
	closed := row{Newer: current.Newer}
	closed.Finished, closed.Forgotten = recent(current)
	_, err := l.startRow(ctx, key, closed, current, vpsID, revision)()
	return err
}

// row reads the row of a key of the bucket.
func (l *Ledger) row(ctx context.Context, key string) (row, uint64, error) {
	c, err := l.store.get(ctx, key)
	if err != nil {
		return row{}, 0, err
	}
	if c.absent() {
		return row{}, c.revision, nil
	}
	v, err := decode[row](c.data)
	if err != nil {
		return row{}, 0, fmt.Errorf("decode revision %d: %w", c.revision, err)
	}
	return v, c.revision, nil
}

// order is what the owner ordered, as far as it takes room.
func (v *row) order() provision.Request {
	return provision.Request{CPUCores: v.CPUCores, MemoryGB: v.MemoryGB, StorageGB: v.StorageGB}
}

// finish remembers that a server was announced under the name; none is "".
func (v *row) finish(vpsID string, at time.Time) {
	if vpsID != "" {
		v.Finished = append(v.Finished, finished{VPSID: vpsID, At: at})
	}
}

// recent returns what a row goes on remembering: the newest, by number and not
// by age, because their times are those of several machines' clocks. The broker
// drops the row itself when it has been closed for long enough.
func recent(v row) ([]finished, time.Time) {
	n := len(v.Finished) - maxFinished
	if n <= 0 {
		return v.Finished, v.Forgotten
	}
	return v.Finished[n:], v.Finished[n-1].At
}

// Finished implements provision.Names.
func (l *Ledger) Finished(ctx context.Context, name string) (provision.Past, error) {
	v, _, err := l.row(ctx, nameKey(name))
	if err != nil {
		return provision.Past{}, fmt.Errorf("read the row of name %q: %w", name, err)
	}
	var past provision.Past
	kept, forgotten := recent(v)
	for _, f := range kept {
		past.IDs = append(past.IDs, f.VPSID)
	}
	past.Forgotten = forgotten
	return past, nil
}
