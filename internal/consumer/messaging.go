package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"

	"github.com/hostup/deploy-worker/internal/provision"
)

// system is the messaging.system of NATS; none is registered, and everybody
// uses this one.
const system = messagingconv.SystemAttr("nats")

// messaging are the instruments of the OpenTelemetry messaging conventions.
type messaging struct {
	process   messagingconv.ProcessDuration
	operation messagingconv.ClientOperationDuration
	consumed  messagingconv.ClientConsumedMessages
	sent      messagingconv.ClientSentMessages
}

func newMessaging(m metric.Meter) (messaging, error) {
	process, err1 := messagingconv.NewProcessDuration(m)
	operation, err2 := messagingconv.NewClientOperationDuration(m)
	consumed, err3 := messagingconv.NewClientConsumedMessages(m)
	sent, err4 := messagingconv.NewClientSentMessages(m)
	return messaging{process, operation, consumed, sent}, errors.Join(err1, err2, err3, err4)
}

// received counts one message that came.
func (m *messaging) received(ctx context.Context, consumer, subject string) {
	m.consumed.Add(ctx, 1, "receive", system, m.consumed.AttrConsumerGroupName(consumer), m.consumed.AttrDestinationName(subject))
}

// pulled measures one pull that does not wait for messages: one that does says
// nothing of the broker.
func (m *messaging) pulled(ctx context.Context, consumer string, began time.Time, err error) {
	m.took(ctx, "receive", messagingconv.OperationTypeReceive, began, err, m.operation.AttrConsumerGroupName(consumer))
}

// processed measures the handling of one message. What had to wait because of
// an error, went to the dead letters or panicked has an error.type.
func (m *messaging) processed(ctx context.Context, consumer, subject string, began time.Time, d provision.Disposition) {
	attrs := []attribute.KeyValue{m.process.AttrConsumerGroupName(consumer), m.process.AttrDestinationName(subject)}
	switch {
	case d.Result == "":
		attrs = append(attrs, m.process.AttrErrorType("panic"))
	case d.Err != nil || d.Action == provision.Dead:
		attrs = append(attrs, m.process.AttrErrorType(messagingconv.ErrorTypeAttr(d.Reason)))
	}
	m.process.Record(ctx, time.Since(began).Seconds(), "process", system, attrs...)
}

// settled measures an ack, a nak or a term.
func (m *messaging) settled(ctx context.Context, consumer, operation, subject string, began time.Time, err error) {
	m.took(ctx, operation, messagingconv.OperationTypeSettle, began, err, m.operation.AttrConsumerGroupName(consumer), m.operation.AttrDestinationName(subject))
}

// published measures and counts a dead letter.
func (m *messaging) published(ctx context.Context, subject string, began time.Time, err error) {
	destination := m.operation.AttrDestinationName(subject)
	m.took(ctx, "publish", messagingconv.OperationTypeSend, began, err, destination)
	attrs := []attribute.KeyValue{destination}
	if err != nil {
		attrs = append(attrs, m.sent.AttrErrorType(errorType(err)))
	}
	m.sent.Add(ctx, 1, "publish", system, attrs...)
}

func (m *messaging) took(ctx context.Context, operation string, kind messagingconv.OperationTypeAttr, began time.Time, err error, attrs ...attribute.KeyValue) {
	attrs = append(attrs, m.operation.AttrOperationType(kind))
	if err != nil {
		attrs = append(attrs, m.operation.AttrErrorType(errorType(err)))
	}
	m.operation.Record(ctx, time.Since(began).Seconds(), operation, system, attrs...)
}

// errorType classes an error in few words, never by a text that varies.
func errorType(err error) messagingconv.ErrorTypeAttr {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return "no_stream"
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrReconnectBufExceeded):
		return "disconnected"
	}
	return messagingconv.ErrorTypeOther
}
