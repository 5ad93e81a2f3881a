package consumer

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/series"
)

// Attributes that no convention registers (docs/tracing.md): there is none for
// NATS yet.
const (
	attrStream    = attribute.Key("messaging.nats.stream")
	attrConsumer  = attribute.Key("messaging.nats.consumer")
	attrSequence  = attribute.Key("messaging.nats.stream.sequence")
	attrDelivered = attribute.Key("messaging.nats.num_delivered")
)

// noSpan is the span of what nobody is to see.
var noSpan trace.Span = noop.Span{}

var clientSpan = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}

// remote returns ctx with the span that made a request as its remote parent.
func remote(ctx context.Context, t provision.Trace) context.Context {
	if t.Parent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": t.Parent, "tracestate": t.State})
}

// detached makes a span a root that is linked to the request's creation context:
// the first option is the one that makes it a root.
func detached(ctx context.Context, t provision.Trace) (context.Context, []trace.SpanStartOption) {
	opts := []trace.SpanStartOption{trace.WithNewRoot()}
	if sc := trace.SpanContextFromContext(remote(ctx, t)); sc.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: sc}))
	}
	return ctx, opts
}

// related says where the span of a delivery stands. A first delivery is a child
// of the creation context and linked to it; one that may come hours later,
// because it is a redelivery or the replay of a dead letter, is linked only, so
// that no trace is endless (the messaging conventions allow both).
func (l *lane) related(ctx context.Context, m jetstream.Msg, msg provision.Message) (context.Context, []trace.SpanStartOption) {
	root, opts := detached(ctx, msg.Trace)
	_, replay := m.Headers()[HeaderReplayOf]
	if msg.Deliveries > 1 || replay || l.c.cfg.LinkTraces {
		return root, opts
	}
	return remote(ctx, msg.Trace), opts[1:]
}

// begin starts the span of a delivery. Without a tracer there is none, and
// whatever follows belongs to the requester's own.
func (l *lane) begin(ctx context.Context, m jetstream.Msg, msg provision.Message) (context.Context, trace.Span) {
	if l.c.ports.Tracer == nil {
		return remote(ctx, msg.Trace), noSpan
	}
	parent, opts := l.related(ctx, m, msg)
	ctx, span := l.c.ports.Tracer.Start(parent, "process "+m.Subject(), append(opts, trace.WithSpanKind(trace.SpanKindConsumer))...)
	if span.IsRecording() {
		span.SetAttributes(l.about(m, msg)...)
	}
	return ctx, span
}

// maxID is how long a foreign id may be in a span.
const maxID = 1024

// about are the attributes of a delivery.
func (l *lane) about(m jetstream.Msg, msg provision.Message) []attribute.KeyValue {
	id := strings.ToValidUTF8(m.Headers().Get(nats.MsgIdHdr), "\uFFFD") // else an exporter refuses all that it has
	if id == "" || len(id) > maxID {
		id = strconv.FormatUint(msg.Sequence, 10)
	}
	as := append(make([]attribute.KeyValue, 0, 24),
		series.System,
		semconv.MessagingOperationName("process"),
		semconv.MessagingOperationTypeProcess,
		semconv.MessagingDestinationName(m.Subject()),
		semconv.MessagingConsumerGroupName(l.name),
		semconv.MessagingMessageID(id),
		semconv.MessagingMessageBodySize(len(m.Data())),
		attrStream.String(msg.Stream),
		attrConsumer.String(l.name),
		attrSequence.Int64(int64(msg.Sequence)),
		attrDelivered.Int64(int64(msg.Deliveries)),
	)
	if msg.Request.Key != "" {
		as = append(as, semconv.MessagingMessageConversationID(msg.Request.Key))
	}
	if e := msg.CloudEvent; e.ID != "" {
		as = append(as, semconv.CloudEventsEventID(e.ID), semconv.CloudEventsEventSource(e.Source),
			semconv.CloudEventsEventType(e.Type), semconv.CloudEventsEventSpecVersion("1.0"))
		if e.Subject != "" {
			as = append(as, semconv.CloudEventsEventSubject(e.Subject))
		}
	}
	return append(as, l.c.peer()...)
}

// peer are the attributes of the connection.
func (c *Consumer) peer() []attribute.KeyValue {
	if c.ports.Peer == nil {
		return nil
	}
	return c.ports.Peer()
}

// tellResult puts the core's answer on a span.
func tellResult(span trace.Span, d provision.Disposition) {
	if !span.IsRecording() {
		return
	}
	as := append(make([]attribute.KeyValue, 0, 8), provision.AttrResult.String(string(d.Result)))
	if d.Reason != "" {
		as = append(as, provision.AttrReason.String(d.Reason))
	}
	if d.Attempt > 0 {
		as = append(as, provision.AttrAttempt.Int(d.Attempt), provision.AttrVerdict.String(string(d.Verdict)))
	}
	if d.VPSID != "" {
		as = append(as, provision.AttrVPSID.String(d.VPSID))
	}
	if d.Action == provision.Retry {
		as = append(as, provision.AttrWait.Float64(d.After.Seconds()))
	}
	if d.Err != nil {
		as = append(as, semconv.ErrorTypeKey.String(d.Reason))
		span.SetStatus(codes.Error, d.Err.Error())
	}
	span.SetAttributes(as...)
}

// settling starts the span of telling the broker what became of a message.
func (l *lane) settling(ctx context.Context, m jetstream.Msg, operation string) trace.Span {
	if l.c.ports.Tracer == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return noSpan
	}
	_, span := l.c.ports.Tracer.Start(ctx, operation+" "+m.Subject(), clientSpan...)
	if span.IsRecording() {
		span.SetAttributes(append(append(make([]attribute.KeyValue, 0, 8),
			series.System,
			semconv.MessagingOperationName(operation),
			semconv.MessagingOperationTypeSettle,
			semconv.MessagingDestinationName(m.Subject()),
			semconv.MessagingConsumerGroupName(l.name),
		), l.c.peer()...)...)
	}
	return span
}

// settled ends the span of settling.
func settled(span trace.Span, err error, after time.Duration) {
	if !span.IsRecording() {
		return
	}
	if after > 0 {
		span.SetAttributes(provision.AttrWait.Float64(after.Seconds()))
	}
	if err != nil {
		span.SetAttributes(semconv.ErrorTypeKey.String("_OTHER"))
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
