package events

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"

	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/series"
)

// instruments are those of the OpenTelemetry messaging conventions.
type instruments struct {
	operation messagingconv.ClientOperationDuration
	sent      messagingconv.ClientSentMessages
	series    *series.By[series.Operation]
}

// newInstruments counts nothing with a nil meter, and begins at zero for each
// subject with this prefix. Their names are constants: one that a meter refused
// would be missed by the test of the metrics' table.
func newInstruments(m metric.Meter, prefix string) instruments {
	operation, _ := messagingconv.NewClientOperationDuration(m)
	sent, _ := messagingconv.NewClientSentMessages(m)
	i := instruments{operation, sent, series.Operations()}
	for _, kind := range []provision.Kind{provision.KindProvisioning, provision.KindFailed, provision.KindHeld} {
		i.sent.Inst().Add(context.Background(), 0, i.series.Of(series.Operation{Name: "publish", Destination: subject(prefix, kind)}))
	}
	return i
}

// published measures and counts one event. An event that was sent again
// counts again.
func (i *instruments) published(ctx context.Context, subject string, began time.Time, err error) {
	of := series.Operation{Name: "publish", Destination: subject}
	if err != nil {
		of.Error = errorType(err)
	}
	i.sent.Inst().Add(ctx, 1, i.series.Of(of))
	of.Type = "send"
	i.operation.Inst().Record(ctx, time.Since(began).Seconds(), i.series.Of(of))
}
