package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Times of a consumer that follows changes. A leader that died is noticed by
// its heartbeats after two of them: of what the fleet shares within a second,
// which is as fast as the client allows.
const (
	followExpiry     = 5 * time.Second
	followHeartbeat  = time.Second
	controlHeartbeat = 500 * time.Millisecond
	followInactive   = 30 * time.Second
)

// errGap says that a message was lost on the way: all is read anew.
var errGap = errors.New("a message was lost on the way")

// follow is an ordered consumer that begins anew, with the newest of every
// cell, where the library's would go on behind the last it saw: after a stream
// was made anew, or a broker lost writes, that place says nothing. And whoever
// listens hears that something broke.
func (b *bucket) follow(ctx context.Context, prefix string, values bool, each func(change), live func()) error {
	messages, left, err := b.consume(ctx, prefix, values)
	if err != nil {
		return err
	}
	defer messages.Stop()
	initial := left > 0
	if !initial {
		live()
	}
	for n := uint64(1); ; n++ {
		m, err := next(ctx, messages, initial)
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Consumer != n {
			return errGap
		}
		c := change{key: strings.TrimPrefix(m.Subject(), b.subject("")), revision: meta.Sequence.Stream}
		if h := m.Headers(); h.Get("KV-Operation") == "" && h.Get(jetstream.MarkerReasonHeader) == "" {
			c.label = labelOf(h)
			if values {
				c.data = m.Data()
			}
		}
		each(c)
		// Both: a busy bucket always has something pending, and what expires
		// meanwhile is never delivered.
		if initial && (n >= left || meta.NumPending == 0) {
			initial = false
			live()
		}
	}
}

// consume begins to read, and says how many cells there are.
func (b *bucket) consume(ctx context.Context, prefix string, values bool) (jetstream.MessagesContext, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.AnswerTimeout)
	defer cancel()
	cons, err := b.js.CreateConsumer(ctx, "KV_"+b.cfg.Bucket, jetstream.ConsumerConfig{
		FilterSubject: b.subject(prefix + "*"), DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy: jetstream.AckNonePolicy, HeadersOnly: !values,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: followInactive,
	})
	if err != nil {
		return nil, 0, fmt.Errorf("follow %s*: %w", prefix, err)
	}
	heartbeat := followHeartbeat
	if prefix == controlPrefix {
		heartbeat = controlHeartbeat
	}
	messages, err := cons.Messages(jetstream.PullExpiry(followExpiry), jetstream.PullHeartbeat(heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return nil, 0, fmt.Errorf("follow %s*: %w", prefix, err)
	}
	return messages, cons.CachedInfo().NumPending, nil
}

// next waits for a message: for as long as it takes, but that the initial
// state comes without long pauses.
func next(ctx context.Context, messages jetstream.MessagesContext, initial bool) (jetstream.Msg, error) {
	if initial {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, scanTimeout)
		defer cancel()
	}
	return messages.Next(jetstream.NextContext(ctx))
}
