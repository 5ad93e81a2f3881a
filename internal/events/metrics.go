package events

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"
)

// instruments are those of the OpenTelemetry messaging conventions.
type instruments struct {
	operation messagingconv.ClientOperationDuration
	sent      messagingconv.ClientSentMessages
}

// newInstruments counts nothing with a nil meter. Their names are constants:
// one that a meter refused would be missed by the test of the metrics' table.
func newInstruments(m metric.Meter) instruments {
	operation, _ := messagingconv.NewClientOperationDuration(m)
	sent, _ := messagingconv.NewClientSentMessages(m)
	return instruments{operation, sent}
}

// published measures and counts one event. An event that was sent again
// counts again.
func (i *instruments) published(ctx context.Context, subject string, began time.Time, err error) {
	const system = messagingconv.SystemAttr("nats") // none is registered, everybody uses this one
	attrs := []attribute.KeyValue{i.operation.AttrDestinationName(subject)}
	if err != nil {
		attrs = append(attrs, i.operation.AttrErrorType(messagingconv.ErrorTypeAttr(errorType(err))))
	}
	i.sent.Add(ctx, 1, "publish", system, attrs...)
	i.operation.Record(ctx, time.Since(began).Seconds(), "publish", system, append(attrs, i.operation.AttrOperationType(messagingconv.OperationTypeSend))...)
}
