package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// errRead ends a reading that has come to its end.
var errRead = errors.New("everything was read")

// Records gives the records in some states, all without any, in no order, each
// once, until each returns an error, which Records returns. A record that
// changes meanwhile is given as it was or as it is. States without `done` cost
// the headers of all records and the values of those wanted only.
func (l *Ledger) Records(ctx context.Context, each func(*provision.Record) error, states ...provision.State) error {
	var err error
	if len(states) > 0 && !slices.Contains(states, provision.StateDone) {
		err = l.unfinished(ctx, each, states)
	} else {
		err = l.everything(ctx, each, states)
	}
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	return nil
}

func (l *Ledger) unfinished(ctx context.Context, each func(*provision.Record) error, states []provision.State) error {
	var hashes []string
	err := l.store.scan(ctx, recordPrefix, func(key string, v label, _ time.Time) {
		if slices.Contains(states, v.state) {
			hashes = append(hashes, strings.TrimPrefix(key, recordPrefix))
		}
	})
	if err != nil {
		return err
	}
	for _, hash := range hashes {
		r, err := l.load(ctx, hash)
		if err != nil {
			return err
		}
		// It may have gone on, or be gone, since its header was read.
		if r == nil || !slices.Contains(states, r.State) {
			continue
		}
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

func (l *Ledger) everything(ctx context.Context, each func(*provision.Record) error, states []provision.State) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	err := l.store.follow(ctx, recordPrefix, true, func(c change) {
		if ctx.Err() != nil || len(c.data) == 0 || len(states) > 0 && !slices.Contains(states, c.label.state) {
			return
		}
		r, err := decode[provision.Record](c.data)
		if err != nil {
			stop(fmt.Errorf("decode revision %d: %w", c.revision, err))
			return
		}
		r.Revision = c.revision
		if err := each(&r); err != nil {
			stop(err)
		}
	}, func() { stop(errRead) })
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, errRead) {
		return nil
	}
	return err
}
