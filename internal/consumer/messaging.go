package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"

	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/series"
)

// messaging are the instruments of the OpenTelemetry messaging conventions.
type messaging struct {
	process   messagingconv.ProcessDuration
	operation messagingconv.ClientOperationDuration
	consumed  messagingconv.ClientConsumedMessages
	sent      messagingconv.ClientSentMessages
	series    *series.By[series.Operation]
}

func newMessaging(m metric.Meter) (messaging, error) {
	process, err1 := messagingconv.NewProcessDuration(m)
	operation, err2 := messagingconv.NewClientOperationDuration(m)
	consumed, err3 := messagingconv.NewClientConsumedMessages(m)
	sent, err4 := messagingconv.NewClientSentMessages(m)
	return messaging{process, operation, consumed, sent, series.Operations()}, errors.Join(err1, err2, err3, err4)
}

// received counts messages that came.
func (m *messaging) received(ctx context.Context, n int64, consumer, subject string) {
	m.consumed.Inst().Add(ctx, n, m.series.Of(series.Operation{Name: "receive", Consumer: consumer, Destination: subject}))
}

// pulled measures one pull that does not wait for messages: one that does says
// nothing of the broker.
func (m *messaging) pulled(ctx context.Context, consumer string, began time.Time, err error) {
	m.took(ctx, series.Operation{Name: "receive", Type: "receive", Consumer: consumer}, began, err)
}

// processed measures the handling of one message. What had to wait because of
// an error, went to the dead letters or panicked has an error.type.
func (m *messaging) processed(ctx context.Context, consumer, subject string, began time.Time, d provision.Disposition) {
	of := series.Operation{Name: "process", Consumer: consumer, Destination: subject}
	switch {
	case d.Result == "":
		of.Error = "panic"
	case d.Err != nil || d.Action == provision.Dead:
		of.Error = d.Reason
	}
	m.process.Inst().Record(ctx, time.Since(began).Seconds(), m.series.Of(of))
}

// settled measures an ack, a nak or a term.
func (m *messaging) settled(ctx context.Context, consumer, operation, subject string, began time.Time, err error) {
	m.took(ctx, series.Operation{Name: operation, Type: "settle", Consumer: consumer, Destination: subject}, began, err)
}

// publish is the sending of a dead letter.
func publish(subject string) series.Operation {
	return series.Operation{Name: "publish", Destination: subject}
}

// published measures and counts a dead letter.
func (m *messaging) published(ctx context.Context, subject string, began time.Time, err error) {
	of := publish(subject)
	if err != nil {
		of.Error = errorType(err)
	}
	m.sent.Inst().Add(ctx, 1, m.series.Of(of))
	of.Type = "send"
	m.took(ctx, of, began, err)
}

func (m *messaging) took(ctx context.Context, of series.Operation, began time.Time, err error) {
	if err != nil {
		of.Error = errorType(err)
	}
	m.operation.Inst().Record(ctx, time.Since(began).Seconds(), m.series.Of(of))
}

// errorType classes an error in few words, never by a text that varies.
func errorType(err error) string {
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
	return "_OTHER"
}
