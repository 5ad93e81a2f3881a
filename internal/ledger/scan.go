package ledger

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/provision"
)

var _ provision.Archive = (*Ledger)(nil)

// Scan gives every record of the ledger, in no order. It reads headers only,
// so that millions of finished records stay cheap.
func (l *Ledger) Scan(ctx context.Context, each func(provision.Audited)) error {
	err := l.store.scan(ctx, recordPrefix, func(c change) {
		each(provision.Audited{Hash: strings.TrimPrefix(c.key, recordPrefix), State: c.label.state, Name: c.label.name, VPSID: c.label.vpsID, StoredAt: c.at})
	})
	if err != nil {
		return fmt.Errorf("scan the ledger: %w", err)
	}
	return nil
}

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

// Unfinished gives every record that is not done, in no order. Like Scan it
// reads headers only.
func (l *Ledger) Unfinished(ctx context.Context, each func(Unfinished)) error {
	err := l.store.scan(ctx, recordPrefix, func(c change) {
		if c.label.state != "" && c.label.state != provision.StateDone {
			each(Unfinished{Hash: strings.TrimPrefix(c.key, recordPrefix), StoredAt: c.at, Origin: c.label.origin})
		}
	})
	if err != nil {
		return fmt.Errorf("scan the ledger for unfinished records: %w", err)
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

// scanTimeout bounds the wait for the next header of a scan.
const scanTimeout = 10 * time.Second

func (b *bucket) scan(ctx context.Context, prefix string, each func(change)) error {
	cons, err := b.js.OrderedConsumer(ctx, "KV_"+b.cfg.Bucket, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{b.subject(prefix + "*")},
		DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
		HeadersOnly:    true,
	})
	if err != nil {
		return err
	}
	info, err := cons.Info(ctx)
	if err != nil {
		return err
	}
	if info.NumPending == 0 {
		return nil
	}
	messages, err := cons.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		next, cancel := context.WithTimeout(ctx, scanTimeout)
		m, err := messages.Next(jetstream.NextContext(next))
		cancel()
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if c := b.change(m, meta, info.TimeStamp); c.label.state != "" || c.label.row != nil {
			each(c)
		}
		if meta.NumPending == 0 {
			return nil
		}
	}
}
