package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Defaults of a PublisherConfig.
const (
	DefaultPrefix  = "deploy"
	DefaultTimeout = 5 * time.Second
)

// errDuplicateInProcess is the answer of a replicated stream while a message
// with the same id is being stored. It is not a verdict: that message may
// still be lost.
const errDuplicateInProcess jetstream.ErrorCode = 10158

// duplicateWait is how long to wait before asking again in that case; storing
// takes a few milliseconds.
const duplicateWait = 20 * time.Millisecond

// MsgPublisher is what a Publisher needs of jetstream.JetStream.
type MsgPublisher interface {
	PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error)
}

// PublisherConfig says where events go.
type PublisherConfig struct {
	// JetStream is required.
	JetStream MsgPublisher
	// Prefix of the subjects; DefaultPrefix when empty.
	Prefix string
	// Stream that has to store the events: one stored anywhere else is an
	// error. Empty means any stream.
	Stream string
	// Timeout of one Publish; DefaultTimeout when 0.
	Timeout time.Duration
	// Tracer of the publish spans; none are made when it is nil.
	Tracer trace.Tracer
	// Meter of the messaging conventions' metrics; none are kept when it is nil.
	Meter metric.Meter
	// Peer, if set, gives their attributes of the connection.
	Peer func() []attribute.KeyValue
}

// noSpan is the span of what nobody is to see.
var noSpan trace.Span = noop.Span{}

// Publisher sends events through JetStream. It may be used concurrently.
type Publisher struct {
	js      MsgPublisher
	prefix  string
	timeout time.Duration
	options []jetstream.PublishOpt
	tracer  trace.Tracer
	meter   instruments
	peer    func() []attribute.KeyValue
}

var _ provision.Publisher = (*Publisher)(nil)

// NewPublisher returns a Publisher. It sends nothing by itself.
func NewPublisher(c PublisherConfig) *Publisher {
	p := &Publisher{
		js:      c.JetStream,
		prefix:  cmp.Or(c.Prefix, DefaultPrefix),
		timeout: cmp.Or(c.Timeout, DefaultTimeout),
		// Whoever calls Publish repeats it; a second layer would only hide
		// that it has to.
		options: []jetstream.PublishOpt{jetstream.WithRetryAttempts(0)},
		tracer:  c.Tracer,
		meter:   newInstruments(c.Meter, cmp.Or(c.Prefix, DefaultPrefix)),
		peer:    c.Peer,
	}
	if c.Stream != "" {
		p.options = append(p.options, jetstream.WithExpectStream(c.Stream))
	}
	return p
}

// Publish returns once the event is stored. Publishing an event again is
// harmless: the broker recognises its id. An error means that the event may or
// may not be stored.
//
// The message continues the trace of the request: by the span of the publish if
// that is exported, unchanged if not. So what is published again may differ in
// its traceparent, and in nothing else.
func (p *Publisher) Publish(ctx context.Context, e provision.Event) error {
	msg, err := Encode(p.prefix, e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	ctx, span := p.start(ctx, e, msg)
	defer span.End()
	began := time.Now()
	err = p.send(ctx, msg)
	p.meter.published(ctx, msg.Subject, began, err)
	if err != nil {
		if span.IsRecording() {
			span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
			span.SetStatus(codes.Error, err.Error())
		}
		return fmt.Errorf("publish %s %s: %w", msg.Subject, e.ID, err)
	}
	return nil
}

// start begins the span of a publish and makes it the parent of whatever the
// receiver does. It belongs to the trace of the request whatever span is in
// ctx: the event answers the request, and a redelivery, which has a trace of
// its own, is linked.
func (p *Publisher) start(ctx context.Context, e provision.Event, msg *nats.Msg) (context.Context, trace.Span) {
	if p.tracer == nil {
		return ctx, noSpan
	}
	opts := append(make([]trace.SpanStartOption, 0, 2), trace.WithSpanKind(trace.SpanKindProducer))
	here, request := trace.SpanContextFromContext(ctx), Extract(ctx, e.Trace)
	if at := trace.SpanContextFromContext(request); at.TraceID() != here.TraceID() {
		ctx = request
		if here.IsSampled() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: here}))
		}
	}
	ctx, span := p.tracer.Start(ctx, "publish "+msg.Subject, opts...)
	if !span.IsRecording() {
		return ctx, span
	}
	as := append(make([]attribute.KeyValue, 0, 16),
		semconv.MessagingSystemKey.String("nats"),
		semconv.MessagingOperationName("publish"),
		semconv.MessagingOperationTypeSend,
		semconv.MessagingDestinationName(msg.Subject),
		semconv.MessagingMessageID(e.ID),
		semconv.MessagingMessageConversationID(e.Key),
		semconv.MessagingMessageBodySize(len(msg.Data)),
		semconv.CloudEventsEventID(e.ID),
		semconv.CloudEventsEventSource(source),
		semconv.CloudEventsEventType(typePrefix+string(e.Kind)+typeSuffix),
		semconv.CloudEventsEventSubject(e.Key),
		semconv.CloudEventsEventSpecVersion(specVersion),
	)
	if p.peer != nil {
		as = append(as, p.peer()...)
	}
	span.SetAttributes(as...)
	if span.SpanContext().IsSampled() {
		delete(msg.Header, headerTracestate)
		propagation.TraceContext{}.Inject(ctx, Carrier(msg.Header))
	}
	return ctx, span
}

// send publishes until the broker says that the message is stored, which a
// duplicate is, or gives another verdict.
func (p *Publisher) send(ctx context.Context, msg *nats.Msg) error {
	for {
		_, err := p.js.PublishMsg(ctx, msg, p.options...)
		if code(err) != errDuplicateInProcess {
			return err
		}
		again := time.NewTimer(duplicateWait)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// code returns JetStream's code of an error, 0 when there is none.
func code(err error) jetstream.ErrorCode {
	if answer, is := errors.AsType[*jetstream.APIError](err); is {
		return answer.ErrorCode
	}
	return 0
}

// errorType classes an error for the error.type attribute: JetStream's code or
// one word, never a text that varies.
func errorType(err error) string {
	switch {
	case code(err) != 0:
		return strconv.Itoa(int(code(err)))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return "no_stream"
	}
	return "_OTHER"
}
