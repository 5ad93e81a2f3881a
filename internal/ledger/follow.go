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
func (b *bucket) follow(ctx context.Context, of scope, each func(change), live func(since time.Time)) error {
	cons, since, err := b.consume(ctx, of)
	if err != nil {
		return fmt.Errorf("follow %s*: %w", of.prefix, err)
	}
	heartbeat := followHeartbeat
	if of.prefix == controlPrefix {
		heartbeat = controlHeartbeat
	}
	messages, err := cons.Messages(jetstream.PullExpiry(followExpiry), jetstream.PullHeartbeat(heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("follow %s*: %w", of.prefix, err)
	}
	defer messages.Stop()
	began, left := cons.CachedInfo().TimeStamp, cons.CachedInfo().NumPending
	initial := left > 0
	if !initial {
		live(since)
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
		c := b.change(m, meta, began)
		if !initial {
			c.quiet = 0
		}
		if of.values && !gone(m) {
			c.data = m.Data()
		}
		each(c)
		// Both: a busy bucket always has something pending, and what expires
		// meanwhile is never delivered.
		if initial && (n >= left || meta.NumPending == 0) {
			initial = false
			live(since)
		}
	}
}

// consume begins to read, and says from which time on.
func (b *bucket) consume(ctx context.Context, of scope) (cons jetstream.Consumer, since time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.AnswerTimeout)
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		FilterSubject: b.subject(of.prefix + "*"), DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy: jetstream.AckNonePolicy, HeadersOnly: !of.values,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: followInactive,
	}
	now := b.now()
	if since = of.since; of.within > 0 {
		since = now.Add(-of.within - b.skew)
	}
	if !since.IsZero() {
		// The bucket keeps one value of a cell, so these are the newest.
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	cons, err = b.js.CreateConsumer(ctx, "KV_"+b.cfg.Bucket, cfg)
	if err == nil && of.within > 0 && cons.CachedInfo().TimeStamp.Before(now) {
		// Our clock is ahead of the broker's, so that did not reach far enough.
		since = cons.CachedInfo().TimeStamp.Add(-of.within - b.skew)
		cons, err = b.js.CreateConsumer(ctx, "KV_"+b.cfg.Bucket, cfg)
	}
	return cons, since, err
}

// change is what a message tells of its cell, without its data, to a reading
// that began at a time by the broker's clock.
func (b *bucket) change(m jetstream.Msg, meta *jetstream.MsgMetadata, began time.Time) change {
	c := change{key: strings.TrimPrefix(m.Subject(), b.subject("")), revision: meta.Sequence.Stream, at: meta.Timestamp, left: meta.NumPending}
	c.quiet = max(0, began.Sub(c.at)-b.skew)
	if !gone(m) {
		c.label = labelOf(m.Headers())
	}
	return c
}

// gone says that a message is the marker of a cell that was deleted, or has
// expired.
func gone(m jetstream.Msg) bool {
	h := m.Headers()
	return h.Get("KV-Operation") != "" || h.Get(jetstream.MarkerReasonHeader) != ""
}

// initialTimeout bounds the wait for the next cell of an initial state.
const initialTimeout = 10 * time.Second

// next waits for a message: for as long as it takes, but that the initial
// state comes without long pauses.
func next(ctx context.Context, messages jetstream.MessagesContext, initial bool) (jetstream.Msg, error) {
	if initial {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, initialTimeout)
		defer cancel()
	}
	return messages.Next(jetstream.NextContext(ctx))
}
