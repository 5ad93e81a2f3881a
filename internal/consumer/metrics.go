package consumer

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"

	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/series"
)

type instruments struct {
	messaging

	working      metric.Int64UpDownCounter
	letters      metric.Int64Counter
	crashes      metric.Int64Counter
	redeliveries metric.Int64Counter
	delay        metric.Float64Histogram
	queues       queueGauges

	byConsumer *series.By[string]
	byReason   *series.By[provision.DeadReason]
}

// queueGauges are what the broker says of one durable consumer.
type queueGauges struct {
	waiting, pending, ackPending, ackPendingMax metric.Int64Gauge
	// oldest is when the oldest request of the stream was stored, in
	// nanoseconds; 0 when there is none, negative while nobody knows.
	oldest atomic.Int64
}

func newInstruments(m metric.Meter, deadSubject string) (*instruments, error) {
	var errs []error
	counter := func(name, description string) metric.Int64Counter {
		c, err := m.Int64Counter(name, metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	gauge := func(name, description string) metric.Int64Gauge {
		g, err := m.Int64Gauge(name, metric.WithDescription(description))
		errs = append(errs, err)
		return g
	}
	i := &instruments{
		byConsumer: series.Label[string]("consumer"), byReason: series.Label[provision.DeadReason]("reason"),
		letters:      counter("hostup_worker.dead_letters", "Messages moved to the dead letters, by reason"),
		crashes:      counter("hostup_worker.panics", "Panics while handling a message"),
		redeliveries: counter("hostup_worker.redeliveries", "Deliveries of messages that were delivered before, by consumer"),
		queues: queueGauges{
			waiting:       gauge("hostup_worker.waiting_requests", "Requests that were handed back to wait, by consumer"),
			pending:       gauge("hostup_worker.queue_pending", "Requests that were not delivered yet, by consumer"),
			ackPending:    gauge("hostup_worker.queue_ack_pending", "Requests that were delivered and not answered yet, by consumer"),
			ackPendingMax: gauge("hostup_worker.queue_ack_pending_max", "How many of them there may be, by consumer"),
		},
	}
	var err1, err2, err3, err4 error
	i.working, err1 = m.Int64UpDownCounter("hostup_worker.in_work", metric.WithDescription("Messages in work"))
	i.delay, err2 = m.Float64Histogram("hostup_worker.queue.delay", metric.WithUnit("s"), metric.WithDescription("From the storing of a request to its first delivery, by consumer"))
	err3 = i.queues.watch(m)
	i.messaging, err4 = newMessaging(m)
	if err := errors.Join(append(errs, err1, err2, err3, err4)...); err != nil {
		return nil, err
	}
	ctx := context.Background()
	i.working.Add(ctx, 0)
	i.crashes.Add(ctx, 0)
	i.sent.Inst().Add(ctx, 0, i.series.Of(publish(deadSubject)))
	for _, r := range []provision.DeadReason{
		provision.DeadUndecodable, provision.DeadNoKey, provision.DeadInvalidKey, provision.DeadTooLarge, provision.DeadPanic,
	} {
		i.letters.Add(ctx, 0, i.byReason.Of(r))
	}
	return i, nil
}

func (i *instruments) inWork(ctx context.Context, n int64) { i.working.Add(ctx, n) }

func (i *instruments) dead(ctx context.Context, r provision.DeadReason) {
	i.letters.Add(ctx, 1, i.byReason.Of(r))
}

func (i *instruments) panicked(ctx context.Context) { i.crashes.Add(ctx, 1) }

// meet makes the series of a consumer exist before its first message. What a
// pattern of subjects will bring nobody knows.
func (i *instruments) meet(ctx context.Context, consumer string, c jetstream.ConsumerConfig) {
	i.redeliveries.Add(ctx, 0, i.byConsumer.Of(consumer))
	for _, subject := range append([]string{c.FilterSubject}, c.FilterSubjects...) {
		if subject != "" && !strings.ContainsAny(subject, "*>") {
			i.received(ctx, 0, consumer, subject)
		}
	}
}

// delivered takes note of a message as it comes from the broker.
func (i *instruments) delivered(ctx context.Context, consumer, subject string, meta *jetstream.MsgMetadata) {
	i.received(ctx, 1, consumer, subject)
	switch {
	case meta == nil:
	case meta.NumDelivered > 1:
		i.redeliveries.Add(ctx, 1, i.byConsumer.Of(consumer))
	default:
		i.delay.Record(ctx, max(time.Since(meta.Timestamp).Seconds(), 0), i.byConsumer.Of(consumer))
	}
}

// queue shows what the broker says of a consumer, of whose messages so many wait.
func (i *instruments) queue(ctx context.Context, consumer string, info *jetstream.ConsumerInfo, waiting int) {
	label := i.byConsumer.Of(consumer)
	i.queues.waiting.Record(ctx, int64(waiting), label)
	i.queues.pending.Record(ctx, int64(min(info.NumPending, 1<<62)), label)
	i.queues.ackPending.Record(ctx, int64(info.NumAckPending), label)
	i.queues.ackPendingMax.Record(ctx, int64(info.Config.MaxAckPending), label)
}

// stream takes note of the oldest request in a stream that keeps only what is
// not answered.
func (q *queueGauges) stream(info *jetstream.StreamInfo) {
	switch {
	case info.Config.Retention != jetstream.WorkQueuePolicy:
		q.oldest.Store(-1)
	case info.State.Msgs == 0:
		q.oldest.Store(0)
	default:
		q.oldest.Store(info.State.FirstTime.UnixNano())
	}
}

func (q *queueGauges) watch(m metric.Meter) error {
	q.oldest.Store(-1)
	_, err := m.Float64ObservableGauge("hostup_worker.queue_oldest", metric.WithUnit("s"),
		metric.WithDescription("How long ago the oldest request was stored that is not answered"),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			switch at := q.oldest.Load(); {
			case at == 0:
				o.Observe(0)
			case at > 0:
				o.Observe(max(time.Since(time.Unix(0, at)).Seconds(), 0))
			}
			return nil
		}))
	return err
}
