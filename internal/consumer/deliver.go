package consumer

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// deliver takes one delivery from the broker to its answer.
func (l *lane) deliver(ctx context.Context, m jetstream.Msg) {
	if ctx.Err() != nil {
		l.handBack(ctx, m)
		return
	}
	l.c.meter.inWork(ctx, 1)
	defer l.c.meter.inWork(ctx, -1)
	l.c.answer(ctx, m, l.handle(ctx, m))
}

// handBack returns what was pulled while shutting down: nothing was begun.
func (l *lane) handBack(ctx context.Context, m jetstream.Msg) {
	l.inHand.remove(m)
	l.c.answer(ctx, m, provision.Disposition{Action: provision.Retry, Result: provision.ResultWaiting, Reason: provision.WaitShutdown})
}

// handle reads the message and gives it to the core, under a span that goes on
// with the requester's trace. It is the one place that recovers a panic.
func (l *lane) handle(ctx context.Context, m jetstream.Msg) (d provision.Disposition) {
	meta, err := m.Metadata()
	if err != nil {
		// Only a message that did not come from a consumer has none.
		return provision.Disposition{Action: provision.Retry, Result: provision.ResultWaiting, Reason: provision.WaitLedger, After: time.Second, Err: err}
	}
	defer func() {
		if p := recover(); p != nil {
			d = l.c.panicked(ctx, meta, p)
		}
	}()
	msg := l.c.ports.Decode(m.Headers(), m.Data())
	msg.Stream, msg.Sequence = meta.Stream, meta.Sequence.Stream
	msg.StoredAt, msg.Deliveries = meta.Timestamp, meta.NumDelivered
	// What is new is told with each message, what waits is asked for now and then.
	msg.Waiting, msg.Queued = int(l.crowd.waiting.Load()), int(max(l.crowd.queued.Load(), int64(meta.NumPending)))
	parent, opts := l.span(ctx, m, msg)
	ctx, span := l.c.ports.Tracer.Start(parent, "process "+m.Subject(), opts...)
	defer span.End()
	began := time.Now()
	defer func() { l.c.meter.processed(ctx, l.name, m.Subject(), began, d) }()
	d = l.c.ports.Handler.Handle(ctx, msg)
	span.SetAttributes(attribute.String("hostup_worker.result", string(d.Result)), attribute.String("hostup_worker.reason", d.Reason))
	if d.Err != nil {
		span.RecordError(d.Err)
		span.SetStatus(codes.Error, d.Reason)
	}
	l.c.panics.forget(meta.Sequence.Stream)
	l.c.log(ctx, msg, d)
	return d
}

// span is what the process span starts with. On the first delivery it is a
// child of the creation context and linked to it; a redelivery, or the replay
// of a dead letter, may come hours later and is linked only, so that no trace
// is endless (the messaging conventions allow both).
func (l *lane) span(ctx context.Context, m jetstream.Msg, msg provision.Message) (context.Context, []trace.SpanStartOption) {
	carrier := propagation.MapCarrier{"traceparent": msg.Trace.Parent, "tracestate": msg.Trace.State}
	remote := propagation.TraceContext{}.Extract(ctx, carrier)
	var links []trace.Link
	if sc := trace.SpanContextFromContext(remote); sc.IsValid() {
		links = []trace.Link{{SpanContext: sc}}
		if _, replay := m.Headers()[HeaderReplayOf]; msg.Deliveries <= 1 && !replay {
			ctx = remote
		}
	}
	return ctx, []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(links...), trace.WithAttributes(
		attribute.String("messaging.system", "nats"),
		attribute.String("messaging.operation.name", "process"),
		attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", m.Subject()),
		attribute.String("messaging.consumer.group.name", l.name),
		attribute.Int("messaging.message.body.size", len(m.Data())),
		attribute.String("messaging.nats.stream", msg.Stream),
		attribute.Int64("messaging.nats.stream.sequence", int64(msg.Sequence)),
		attribute.Int64("messaging.nats.num_delivered", int64(msg.Deliveries)),
	)}
}

// log writes the one line about a delivery. Waiting is no news unless
// something is wrong.
func (c *Consumer) log(ctx context.Context, msg provision.Message, d provision.Disposition) {
	attrs := []any{
		"result", string(d.Result), "key", d.Key, "reason", d.Reason, "attempts", d.Attempts,
		"vps_id", d.VPSID, "stream_sequence", msg.Sequence, "deliveries", msg.Deliveries,
	}
	switch {
	case d.Err != nil:
		c.ports.Log.WarnContext(ctx, "request waits", append(attrs, "after", d.After.String(), "error", d.Err)...)
	case d.Action == provision.Retry:
		c.ports.Log.DebugContext(ctx, "request waits", append(attrs, "after", d.After.String())...)
	case d.Action == provision.Dead:
		c.ports.Log.WarnContext(ctx, "request goes to the dead letters", append(attrs, "detail", d.Defect.Detail)...)
	default:
		c.ports.Log.InfoContext(ctx, "request answered", attrs...)
	}
}

// answer is the one switch from the core's disposition to the broker. An ack
// that is lost costs one redelivery that finds the record done.
func (c *Consumer) answer(ctx context.Context, m jetstream.Msg, d provision.Disposition) {
	var err error
	operation, began := "ack", time.Now()
	switch d.Action {
	case provision.Done:
		err = m.Ack()
	case provision.Dead:
		if err = c.bury(context.WithoutCancel(ctx), m, *d.Defect); err == nil {
			c.meter.dead(ctx, d.Defect.Reason)
			operation, began = "term", time.Now()
			err = m.TermWithReason(string(d.Defect.Reason))
			break
		}
		d.After = time.Second
		c.ports.Log.ErrorContext(ctx, "the dead letter could not be stored, the message stays in the stream", "error", err)
		fallthrough
	case provision.Retry:
		operation, began = "nak", time.Now()
		err = m.NakWithDelay(d.After)
	}
	c.meter.settled(ctx, operation, m.Subject(), began, err)
	if err != nil {
		c.ports.Log.WarnContext(ctx, "the broker was not told what became of a message; it will be redelivered", "action", fmt.Sprint(d.Action), "key", d.Key, "error", err)
	}
}

// maxPanics is how often one message may bring the handler down before it
// goes to the dead letters.
const maxPanics = 3

func (c *Consumer) panicked(ctx context.Context, meta *jetstream.MsgMetadata, p any) provision.Disposition {
	n := c.panics.count(meta.Sequence.Stream)
	c.meter.panicked(ctx)
	c.ports.Log.ErrorContext(ctx, "handling a message panicked", "panic", fmt.Sprint(p), "stream_sequence", meta.Sequence.Stream, "times", n, "stack", string(debug.Stack()))
	if n >= maxPanics {
		defect := provision.Defect{Reason: provision.DeadPanic, Detail: fmt.Sprintf("the handler panicked %d times, last: %v", n, p)}
		return provision.Disposition{Action: provision.Dead, Defect: &defect, Result: provision.ResultDead, Reason: string(defect.Reason)}
	}
	return provision.Disposition{Action: provision.Retry, After: time.Second << n, Result: provision.ResultWaiting, Reason: "panic"}
}

// panics counts panics by stream sequence, in this process.
type panics struct {
	mu    sync.Mutex
	bySeq map[uint64]int
}

func (p *panics) count(seq uint64) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bySeq == nil {
		p.bySeq = make(map[uint64]int)
	}
	p.bySeq[seq]++
	return p.bySeq[seq]
}

func (p *panics) forget(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.bySeq, seq)
}
