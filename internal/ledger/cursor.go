package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Times of a consumer that follows changes. A leader that died is noticed by
// its heartbeats after two of them: of what the fleet shares within a second.
const (
	missedHeartbeats = 2

	followExpiry    = 5 * time.Second
	followHeartbeat = time.Second
	aheadHeartbeat  = 500 * time.Millisecond
	// followInactive is how long the broker keeps a consumer that nobody asks.
	followInactive = 30 * time.Second
)

// batch is how many messages are asked for at a time, and maxEmpty how often when
// none comes although there are some.
const (
	batch    = 1000
	maxEmpty = 3
)

// Why a reading breaks off. Whoever reads begins anew.
var (
	errGap       = errors.New("a message was lost on the way")
	errSilent    = errors.New("the broker is silent")
	errReconnect = errors.New("the connection was lost meanwhile")
)

// consumerCursor is a consumer of the bucket whose messages are not acked but
// counted. The library's ordered consumer begins anew by itself behind the last
// message that it saw: after a stream was made anew, or a broker lost writes, that
// place says nothing, and whoever listens does not hear that something broke. Its
// pull consumer does not look at what the heartbeats count, so that a message lost
// on the way is noticed with the next one, which may never come.
//
// The consumer has one replica, in memory, on any node of the stream. What that
// node has not heard of yet is not read either.
type consumerCursor struct {
	bucket *bucket
	of     scope
	conn   *nats.Conn
	name   string
	// next is the subject on which messages are asked for, inbox where they come.
	next  string
	inbox string
	sub   *nats.Subscription
	came  chan *nats.Msg
	// began is when it did, by the broker's clock.
	began time.Time
	// left is how many messages there were behind the last one.
	left uint64
	// given is how many messages were.
	given uint64
	// reconnects is how often the connection was lost before. What was on the way
	// is lost with it.
	reconnects uint64
}

// open begins to read.
func (b *bucket) open(ctx context.Context, of scope) (cursor, error) {
	conn := b.js.Conn()
	reconnects := conn.Stats().Reconnects
	info, err := b.consume(ctx, of)
	if err != nil {
		return nil, fmt.Errorf("read %s*: %w", of.prefix, err)
	}
	c := &consumerCursor{
		bucket: b, of: of, conn: conn, name: info.Name, inbox: conn.NewInbox(), came: make(chan *nats.Msg, 2*batch),
		next:  apiPrefix(b.js.Options()) + "CONSUMER.MSG.NEXT.KV_" + b.cfg.Bucket + "." + info.Name,
		began: info.TimeStamp, left: info.NumPending, reconnects: reconnects,
	}
	if c.sub, err = conn.ChanSubscribe(c.inbox, c.came); err != nil {
		return nil, fmt.Errorf("read %s*: %w", of.prefix, err)
	}
	return c, nil
}

// close leaves it to the broker to forget the consumer.
func (c *consumerCursor) close() { _ = c.sub.Unsubscribe() }

// consume makes the consumer.
func (b *bucket) consume(ctx context.Context, of scope) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.AnswerTimeout)
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		FilterSubject: b.subject(of.prefix + "*"), DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy: jetstream.AckNonePolicy, HeadersOnly: !of.values,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: max(of.keep, followInactive),
	}
	now, since := b.now(), of.since
	if of.within > 0 {
		since = now.Add(-of.within)
	}
	switch {
	case of.ahead:
		cfg.DeliverPolicy = jetstream.DeliverNewPolicy
	case !since.IsZero():
		// The bucket keeps one value of a cell, so these are the newest.
		since = since.Add(-b.skew)
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	cons, err := b.js.CreateConsumer(ctx, "KV_"+b.cfg.Bucket, cfg)
	if err == nil && of.within > 0 && cons.CachedInfo().TimeStamp.Before(now) {
		// Our clock is ahead of the broker's, so that did not reach far enough.
		since = cons.CachedInfo().TimeStamp.Add(-of.within - b.skew)
		cons, err = b.js.CreateConsumer(ctx, "KV_"+b.cfg.Bucket, cfg)
	}
	if err != nil {
		return nil, err
	}
	return cons.CachedInfo(), nil
}

// pull is a request for messages (NATS ADR-13).
type pull struct {
	Batch     int           `json:"batch"`
	NoWait    bool          `json:"no_wait,omitempty"`
	Expires   time.Duration `json:"expires,omitempty"`
	Heartbeat time.Duration `json:"idle_heartbeat,omitempty"`
}

func (c *consumerCursor) ask(p pull) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return c.conn.PublishRequest(c.next, c.inbox, data)
}

// answer is what comes: a change, with how many are behind it, or the end of what
// was asked for, or else a heartbeat.
type answer struct {
	change *change
	left   uint64
	end    bool
}

// rest does not believe a broker that says that there is no more: nats-server
// says so to whoever waits when it looks whether a consumer is still used, and
// when it could not read. How many are left it said with the message before, and
// says when it is asked.
func (c *consumerCursor) rest(ctx context.Context, each func(change) error) error {
	for empty := 0; empty < maxEmpty; {
		got, ended, err := c.some(ctx, each)
		if err == nil && ended && c.left > 0 {
			err = c.count(ctx)
		}
		switch {
		case err != nil, ended && c.left == 0:
			return err
		case got > 0:
			empty = 0
		default:
			empty++
		}
	}
	return c.broken(errSilent)
}

// count asks how many are left, by now.
func (c *consumerCursor) count(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.bucket.cfg.AnswerTimeout)
	defer cancel()
	cons, err := c.bucket.js.Consumer(ctx, "KV_"+c.bucket.cfg.Bucket, c.name)
	if err != nil {
		return c.broken(err)
	}
	info := cons.CachedInfo()
	if c.left = info.NumPending; info.Delivered.Consumer != c.given {
		return c.broken(errGap)
	}
	return nil
}

// some gives a batch, or what there is of it, and says whether the broker said that
// this is all.
func (c *consumerCursor) some(ctx context.Context, each func(change) error) (got int, ended bool, err error) {
	if err := c.ask(pull{Batch: batch, NoWait: true}); err != nil {
		return 0, false, c.broken(err)
	}
	for got < batch {
		a, err := c.wait(ctx, c.bucket.cfg.AnswerTimeout)
		switch {
		case err != nil:
			return got, false, c.broken(err)
		case a.end:
			return got, true, nil
		case a.change != nil:
			got++
			c.left = a.left
			a.change.quiet = max(0, c.began.Sub(a.change.at)-c.bucket.skew)
			if err := each(*a.change); err != nil {
				return got, false, err
			}
		}
	}
	return got, false, nil
}

func (c *consumerCursor) follow(ctx context.Context, each func(change), live func(bool)) error {
	p := pull{Batch: batch, Expires: followExpiry, Heartbeat: followHeartbeat}
	if c.of.ahead {
		p.Heartbeat = aheadHeartbeat
	}
	asked, silent, beats := 0, false, 0
	for {
		if asked == 0 {
			if err := c.ask(p); err != nil {
				return c.broken(err)
			}
			asked = p.Batch
		}
		silence := time.Duration(c.bucket.missed) * p.Heartbeat
		if silent {
			silence = c.bucket.cfg.AnswerTimeout
		}
		a, err := c.wait(ctx, silence)
		switch {
		case errors.Is(err, errSilent) && !c.of.ahead && !silent:
			silent, beats = true, 0
			live(false)
			continue
		case err != nil:
			return c.broken(err)
		case a.change != nil:
			asked--
			each(*a.change)
		case a.end:
			asked = 0
		}
		// The first heartbeat may be one from before, ahead of what is still to come.
		if silent && a.change == nil && !a.end {
			if beats++; beats > 1 {
				silent = false
				live(true)
			}
		}
	}
}

func (c *consumerCursor) broken(err error) error {
	return fmt.Errorf("read %s*: %w", c.of.prefix, err)
}

// wait waits for what comes next, but not for longer than a silence may be.
func (c *consumerCursor) wait(ctx context.Context, silence time.Duration) (answer, error) {
	t := time.NewTimer(silence)
	defer t.Stop()
	select {
	case m := <-c.came:
		if c.conn.Stats().Reconnects != c.reconnects {
			return answer{}, errReconnect
		}
		if m.Reply == "" {
			return c.status(m.Header)
		}
		return c.message(m)
	case <-t.C:
		return answer{}, errSilent
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// What a broker says in place of a message.
const (
	statusHeartbeat = "100"
	statusNoMore    = "404"
	statusExpired   = "408"
	statusNobody    = "503"
)

func (c *consumerCursor) status(h nats.Header) (answer, error) {
	switch status := h.Get("Status"); status {
	case statusHeartbeat:
		sent, err := strconv.ParseUint(h.Get("Nats-Last-Consumer"), 10, 64)
		if err == nil && sent != c.given {
			err = errGap
		}
		return answer{}, err
	case statusNoMore, statusExpired:
		return answer{end: true}, nil
	case statusNobody:
		return answer{}, nats.ErrNoResponders
	default:
		return answer{}, fmt.Errorf("the broker says %s %s", status, h.Get("Description"))
	}
}

func (c *consumerCursor) message(m *nats.Msg) (answer, error) {
	meta, err := m.Metadata()
	if err != nil {
		return answer{}, err
	}
	if meta.Sequence.Consumer != c.given+1 {
		return answer{}, errGap
	}
	c.given++
	ch := &change{key: strings.TrimPrefix(m.Subject, c.bucket.subject("")), revision: meta.Sequence.Stream, at: meta.Timestamp}
	if !gone(m.Header) {
		ch.label = labelOf(m.Header)
		if c.of.values {
			ch.data = m.Data
		}
	}
	return answer{change: ch, left: meta.NumPending}, nil
}

// gone says that a message is the marker of a cell that was deleted, or has
// expired.
func gone(h nats.Header) bool {
	return h.Get("KV-Operation") != "" || h.Get(jetstream.MarkerReasonHeader) != ""
}
