package ledger

import (
	"context"
	"encoding/json"
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
}

type finished struct {
	VPSID string    `json:"vpsId"`
	At    time.Time `json:"at"`
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

func (l *Ledger) startRow(ctx context.Context, name string, v row, revision uint64) func() (uint64, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return func() (uint64, error) { return 0, fmt.Errorf("encode the row of name %q: %w", name, err) }
	}
	w := write{key: nameKey(name), data: data, revision: revision}
	if !v.Open {
		w.ttl = l.keep
	}
	return l.store.start(ctx, w)
}

// take gets a row that exists already. The row is always written, also when
// its owner is the taker: a rival who has read it and is about to take it over
// must find it changed.
func (l *Ledger) take(ctx context.Context, name string, mine row) error {
	for range maxTakes {
		current, revision, err := l.row(ctx, name)
		if err != nil {
			return err
		}
		if current.Open && current.Owner != mine.Owner {
			owner, err := l.load(ctx, provision.KeyHash(current.Owner))
			if err != nil {
				return fmt.Errorf("read who owns the name %q: %w", name, err)
			}
			if owner != nil && owner.State.Owns() {
				return &provision.NameTakenError{Owner: current.Owner}
			}
			if owner != nil && owner.VPSID != "" {
				// It had no time to release the row, and its server is no candidate.
				current.Finished = append(current.Finished, finished{VPSID: owner.VPSID, At: l.now()})
			}
		}
		mine.Finished, mine.Forgotten = recent(current)
		_, err = l.startRow(ctx, name, mine, revision)()
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
// closes it: the same request may be at its next attempt already.
func (l *Ledger) Release(ctx context.Context, r *provision.Record) error {
	name := r.Request.Name
	for range maxTakes {
		current, revision, err := l.row(ctx, name)
		if err != nil {
			return err
		}
		if !current.Open || current.Owner != r.Key || current.Token != r.Attempts[len(r.Attempts)-1].Token {
			return nil
		}
		if r.VPSID != "" {
			current.Finished = append(current.Finished, finished{VPSID: r.VPSID, At: l.now()})
		}
		var closed row
		closed.Finished, closed.Forgotten = recent(current)
		_, err = l.startRow(ctx, name, closed, revision)()
		if err == nil {
			return nil
		}
		if !errors.Is(err, provision.ErrConflict) {
			return fmt.Errorf("release the name %q: %w", name, err)
		}
	}
	return fmt.Errorf("release the name %q: it changed %d times", name, maxTakes)
}

func (l *Ledger) row(ctx context.Context, name string) (row, uint64, error) {
	c, err := l.store.get(ctx, nameKey(name))
	if err != nil {
		return row{}, 0, fmt.Errorf("read the row of name %q: %w", name, err)
	}
	var v row
	if !c.absent() {
		if err := json.Unmarshal(c.data, &v); err != nil {
			return row{}, 0, fmt.Errorf("decode the row of name %q: %w", name, err)
		}
	}
	return v, c.revision, nil
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
	v, _, err := l.row(ctx, name)
	if err != nil {
		return provision.Past{}, err
	}
	var past provision.Past
	kept, forgotten := recent(v)
	for _, f := range kept {
		past.IDs = append(past.IDs, f.VPSID)
	}
	past.Forgotten = forgotten
	return past, nil
}
