package ledger

import (
	"context"
	"fmt"
	"strings"

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

// read gives every cell of a scope, of one cell the newest last, until each
// returns an error, which read returns.
func read(ctx context.Context, s store, of scope, each func(change) error) error {
	at, err := s.open(ctx, of)
	if err != nil {
		return err
	}
	defer at.close()
	return at.rest(ctx, each)
}
