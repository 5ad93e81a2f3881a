package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// maxStranded bounds how many messages one look takes on.
const maxStranded = 1000

// DeliverStranded handles the messages that the broker will never deliver:
// they are in the work queue, and the consumer's ack floor has passed them.
// Acks take a message out of a work queue, so nobody has answered them; a
// consumer leader that changes hands twice in a few seconds has been seen to
// forget what was pending (make cluster, nats-server 2.15.2). A message counts
// from the second look on, because an ack is a moment ahead of its removal.
// It returns how many there were. Handling one twice is harmless. It is not
// safe for concurrent use.
func (c *Consumer) DeliverStranded(ctx context.Context) (int, error) {
	stream, err := c.ports.JetStream.Stream(ctx, c.cfg.Stream)
	if err != nil {
		return 0, fmt.Errorf("look at the stream %s: %w", c.cfg.Stream, err)
	}
	info := stream.CachedInfo()
	if info.Config.Retention != jetstream.WorkQueuePolicy {
		return 0, nil // there, what was acked stays
	}
	before := c.passedOver
	c.passedOver = make(map[uint64]time.Time)
	var handled atomic.Int64
	var broken []error
	var work errgroup.Group // without a context: nobody ends another's work
	work.SetLimit(atOnce)
	for _, l := range c.lanes {
		found, err := l.stranded(ctx, stream, info.State.FirstSeq)
		if err != nil {
			broken = append(broken, fmt.Errorf("what %s has passed over: %w", l.name, err))
		}
		for _, m := range found {
			c.passedOver[m.Sequence] = m.Time
			if at, again := before[m.Sequence]; !again || !at.Equal(m.Time) {
				continue
			}
			handled.Add(1)
			work.Go(func() error {
				c.ports.Log.WarnContext(ctx, "the broker has passed over a message that nobody answered; it is handled without it", "stream_sequence", m.Sequence, "consumer", l.name)
				l.deliver(ctx, &strandedMsg{ctx: ctx, raw: m, stream: stream, consumer: l.name})
				return nil
			})
		}
	}
	_ = work.Wait() // it has no errors of its own
	return int(handled.Load()), errors.Join(broken...)
}

// stranded lists the messages of a lane at or below its ack floor.
func (l *lane) stranded(ctx context.Context, stream jetstream.Stream, from uint64) ([]*jetstream.RawStreamMsg, error) {
	cons, err := stream.Consumer(ctx, l.name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at the consumer %s: %w", l.name, err)
	}
	info := cons.CachedInfo()
	var found []*jetstream.RawStreamMsg
	for seq := from; seq <= info.AckFloor.Stream && len(found) < maxStranded; {
		m, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(info.Config.FilterSubject))
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return found, nil
		case err != nil:
			return nil, fmt.Errorf("read the message after %d: %w", seq, err)
		case m.Sequence > info.AckFloor.Stream:
			return found, nil
		}
		found = append(found, m)
		seq = m.Sequence + 1
	}
	return found, nil
}

// strandedMsg is a stored message that is handled without a delivery. Its
// answers go to the stream: done takes it out, anything else leaves it to the
// next look.
type strandedMsg struct {
	ctx      context.Context //nolint:containedctx // jetstream.Msg's answers have none
	raw      *jetstream.RawStreamMsg
	stream   jetstream.Stream
	consumer string
}

var _ jetstream.Msg = (*strandedMsg)(nil)

// strandedDeliveries tells the core that the message may have been handled
// before.
const strandedDeliveries = 2

func (m *strandedMsg) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{
		Sequence: jetstream.SequencePair{Stream: m.raw.Sequence}, NumDelivered: strandedDeliveries,
		Timestamp: m.raw.Time, Stream: m.stream.CachedInfo().Config.Name, Consumer: m.consumer,
	}, nil
}

func (m *strandedMsg) Data() []byte                     { return m.raw.Data }
func (m *strandedMsg) Headers() nats.Header             { return m.raw.Header }
func (m *strandedMsg) Subject() string                  { return m.raw.Subject }
func (m *strandedMsg) Reply() string                    { return "" }
func (m *strandedMsg) Nak() error                       { return nil }
func (m *strandedMsg) NakWithDelay(time.Duration) error { return nil }
func (m *strandedMsg) InProgress() error                { return nil }
func (m *strandedMsg) Ack() error                       { return m.remove() }
func (m *strandedMsg) DoubleAck(context.Context) error  { return m.remove() }
func (m *strandedMsg) Term() error                      { return m.remove() }
func (m *strandedMsg) TermWithReason(string) error      { return m.remove() }

func (m *strandedMsg) remove() error {
	err := m.stream.DeleteMsg(context.WithoutCancel(m.ctx), m.raw.Sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	return err
}
