package consumer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Origin is the message that a record came from.
type Origin struct {
	Stream   string
	Sequence uint64
	// At is when the broker stored it. A stream that was made anew counts from 1
	// again, so the number alone may be somebody else's.
	At time.Time
}

// queue is a stream of requests as the broker described it once.
type queue struct {
	stream jetstream.Stream // nil when there is none
	info   *jetstream.StreamInfo
	// passed is the newest message up to which no consumer has anything to
	// deliver any more.
	passed uint64
}

// queues asks for each stream once, however many records name it.
type queues struct {
	js        jetstream.JetStream
	consumers []string

	mu    sync.Mutex
	known map[string]func() (*queue, error)
}

// known reports whether there is anything to go by.
func (o Origin) known() bool { return o.Stream != "" }

// hint is what the description of a queue says of one message.
type hint int

const (
	// hintGone: nobody will deliver it.
	hintGone hint = iota
	// hintDoubt: it may be gone, and has to be looked for.
	hintDoubt
	// hintWaits: nothing says that it is gone.
	hintWaits
)

// hint needs no request. In a work queue what is not there is gone, for an ack
// takes it out, and what the consumers have passed is gone or was passed over.
// Elsewhere acked messages stay, and what the consumers have passed is gone. One
// that was answered while an older one waits cannot be told from one that waits.
func (at *queue) hint(o Origin) hint {
	if at.stream == nil {
		return hintGone
	}
	first, last := at.info.State.FirstSeq, at.info.State.LastSeq
	passed := o.Sequence <= at.passed
	keeps := at.info.Config.Retention != jetstream.WorkQueuePolicy
	switch {
	case o.Sequence < first, o.Sequence > last, passed && keeps:
		return hintGone
	case passed, o.At.Before(at.info.Created):
		return hintDoubt
	default:
		return hintWaits
	}
}

// gone reports whether nobody will deliver a message any more, and looks for it
// if need be.
func (q *queues) gone(ctx context.Context, o Origin) (bool, error) {
	at, err := q.look(ctx, o.Stream)
	if err != nil {
		return false, err
	}
	if at.hint(o) == hintGone {
		return true, nil
	}
	m, err := at.stream.GetMsg(ctx, o.Sequence)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look for message %d of %s: %w", o.Sequence, o.Stream, err)
	}
	return !m.Time.Equal(o.At), nil
}

func (q *queues) look(ctx context.Context, stream string) (*queue, error) {
	q.mu.Lock()
	ask, known := q.known[stream]
	if !known {
		ask = sync.OnceValues(func() (*queue, error) { return q.ask(ctx, stream) })
		if q.known == nil {
			q.known = make(map[string]func() (*queue, error))
		}
		q.known[stream] = ask
	}
	q.mu.Unlock()
	return ask()
}

func (q *queues) ask(ctx context.Context, name string) (*queue, error) {
	stream, err := q.js.Stream(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrInvalidStreamName), errors.Is(err, jetstream.ErrStreamNameRequired):
		return &queue{}, nil
	case err != nil:
		return nil, fmt.Errorf("look at the stream %s: %w", name, err)
	}
	at := &queue{stream: stream, info: stream.CachedInfo(), passed: math.MaxUint64}
	for _, name := range q.consumers {
		cons, err := stream.Consumer(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound):
			continue
		case err != nil:
			return nil, fmt.Errorf("look at the consumer %s: %w", name, err)
		}
		at.passed = min(at.passed, passed(cons.CachedInfo(), at.info.State.LastSeq))
	}
	return at, nil
}

// passed is the newest message up to which a consumer has nothing to deliver.
// The ack floor of one that has nothing to do stands still while others go on;
// then it is the last message that was there before the consumer was asked.
func passed(c *jetstream.ConsumerInfo, last uint64) uint64 {
	if c.NumAckPending == 0 && c.NumPending == 0 {
		return max(c.AckFloor.Stream, last)
	}
	return c.AckFloor.Stream
}
