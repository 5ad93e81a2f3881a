package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

var _ provision.Archive = (*Ledger)(nil)

// Scan gives every record of the ledger, in no order. It reads headers only,
// so that millions of finished records stay cheap.
func (l *Ledger) Scan(ctx context.Context, each func(provision.Audited)) error {
	err := read(ctx, l.store, scope{prefix: recordPrefix}, func(c change) error {
		if c.label.state != "" {
			each(provision.Audited{Hash: strings.TrimPrefix(c.key, recordPrefix), State: c.label.state, Name: c.label.name, VPSID: c.label.vpsID, StoredAt: c.at})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("scan the ledger: %w", err)
	}
	return nil
}

// LoadHash implements provision.Archive.
func (l *Ledger) LoadHash(ctx context.Context, hash string) (*provision.Record, error) {
	r, err := l.load(ctx, hash)
	if err != nil {
		return nil, fmt.Errorf("load the record %s: %w", hash, err)
	}
	return r, nil
}

// errRead ends a reading that has come to its end.
var errRead = errors.New("everything was read")

// readTail bounds the wait for the next of what has changed while it was read: it
// may have expired meanwhile and never come. A leader that is lost shows earlier.
const readTail = 3 * followHeartbeat

// read gives every cell of a scope, of one cell the newest last, until each
// returns an error, which read returns.
func read(ctx context.Context, s store, of scope, each func(change) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	some := false
	var tail *time.Timer
	err := s.follow(ctx, of, func(c change) {
		if ctx.Err() != nil {
			return
		}
		some = true
		if tail != nil {
			tail.Reset(readTail)
		}
		if err := each(c); err != nil {
			stop(err)
		} else if c.left == 0 {
			stop(errRead)
		}
	}, func(time.Time) {
		if !some {
			stop(errRead)
			return
		}
		tail = time.AfterFunc(readTail, func() { stop(errRead) })
	})
	if tail != nil {
		tail.Stop()
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, errRead) {
		return nil
	}
	return err
}
