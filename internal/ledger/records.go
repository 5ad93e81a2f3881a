package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hostup/deploy-worker/internal/provision"
)

// UnreadableError tells of records that could not be decoded.
type UnreadableError struct {
	// Hashes of their keys, in the order read; each stands at rec.<hash>.
	Hashes []string
	// First is why the first of them could not.
	First error
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("%d of them cannot be read, the first at %s%s: %v", len(e.Hashes), recordPrefix, e.Hashes[0], e.First)
}

func (e *UnreadableError) Unwrap() error { return e.First }

// reading is one reading of records.
type reading struct {
	states  []provision.State
	each    func(*provision.Record) error
	skipped UnreadableError
}

// take gives a record on if it is wanted. One that cannot be decoded does not
// keep the others from being read.
func (r *reading) take(hash string, rec *provision.Record, err error) error {
	switch {
	case errors.Is(err, errUnreadable):
		if r.skipped.First == nil {
			r.skipped.First = err
		}
		r.skipped.Hashes = append(r.skipped.Hashes, hash)
		return nil
	case err != nil:
		return err
	// It may have gone on, or be gone, since its header was read.
	case rec == nil || len(r.states) > 0 && !slices.Contains(r.states, rec.State):
		return nil
	}
	return r.each(rec)
}

// Records gives the records in some states, all without any, in no order, each
// once, until each returns an error, which Records returns. A record that
// changes meanwhile is given as it was or as it is. States without `done` cost
// the headers of all records and the values of those wanted only. It ends with
// an *UnreadableError, all others read, when some cannot be decoded.
func (l *Ledger) Records(ctx context.Context, each func(*provision.Record) error, states ...provision.State) error {
	r := &reading{states: states, each: each}
	read := l.everything
	if len(states) > 0 && !slices.Contains(states, provision.StateDone) {
		read = l.unfinished
	}
	err := read(ctx, r)
	if err == nil && r.skipped.First != nil {
		err = &r.skipped
	}
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	return nil
}

func (l *Ledger) unfinished(ctx context.Context, r *reading) error {
	var hashes []string
	err := read(ctx, l.store, scope{prefix: recordPrefix}, func(c change) error {
		if slices.Contains(r.states, c.label.state) {
			hashes = append(hashes, strings.TrimPrefix(c.key, recordPrefix))
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(hashes) // one that has changed meanwhile came twice
	for _, hash := range slices.Compact(hashes) {
		rec, err := l.load(ctx, hash)
		if err := r.take(hash, rec, err); err != nil {
			return err
		}
	}
	return nil
}

func (l *Ledger) everything(ctx context.Context, r *reading) error {
	given := make(map[string]struct{})
	return read(ctx, l.store, scope{prefix: recordPrefix, values: true}, func(c change) error {
		if _, twice := given[c.key]; twice {
			return nil // it has changed meanwhile
		}
		given[c.key] = struct{}{}
		if len(c.data) == 0 || len(r.states) > 0 && !slices.Contains(r.states, c.label.state) {
			return nil
		}
		rec, err := record(c.data, c.revision)
		return r.take(strings.TrimPrefix(c.key, recordPrefix), rec, err)
	})
}
