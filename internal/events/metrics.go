package events

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"

	"github.com/hostup/deploy-worker/internal/provision"
)

// instruments are those of the OpenTelemetry messaging conventions.
type instruments struct {
	operation messagingconv.ClientOperationDuration
	sent      messagingconv.ClientSentMessages
}

// system is the messaging.system of NATS; none is registered, and everybody
// uses this one.
const system = messagingconv.SystemAttr("nats")

// newInstruments counts nothing with a nil meter, and begins at zero for each
// subject with this prefix. Their names are constants: one that a meter refused
// would be missed by the test of the metrics' table.
func newInstruments(m metric.Meter, prefix string) instruments {
	operation, _ := messagingconv.NewClientOperationDuration(m)
	sent, _ := messagingconv.NewClientSentMessages(m)
	for _, kind := range []provision.Kind{provision.KindProvisioning, provision.KindFailed, provision.KindHeld} {
		sent.Add(context.Background(), 0, "publish", system, sent.AttrDestinationName(subject(prefix, kind)))
	}
	return instruments{operation, sent}
}

// published measures and counts one event. An event that was sent again
// counts again.
func (i *instruments) published(ctx context.Context, subject string, began time.Time, err error) {
	attrs := []attribute.KeyValue{i.operation.AttrDestinationName(subject)}
	if err != nil {
		attrs = append(attrs, i.operation.AttrErrorType(messagingconv.ErrorTypeAttr(errorType(err))))
	}
	i.sent.Add(ctx, 1, "publish", system, attrs...)
	i.operation.Record(ctx, time.Since(began).Seconds(), "publish", system, append(attrs, i.operation.AttrOperationType(messagingconv.OperationTypeSend))...)
}
