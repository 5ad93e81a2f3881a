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
}

type finished struct {
	VPSID string    `json:"vpsId"`
	At    time.Time `json:"at"`
}

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
		w.ttl = finishedFor
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
		mine.Finished = recent(current.Finished, l.now())
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
		closed := row{Finished: recent(current.Finished, l.now())}
		if r.VPSID != "" {
			closed.Finished = append(closed.Finished, finished{VPSID: r.VPSID, At: l.now()})
		}
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

func recent(all []finished, now time.Time) []finished {
	var kept []finished
	for _, f := range all {
		if now.Sub(f.At) < finishedFor {
			kept = append(kept, f)
		}
	}
	return kept
}
