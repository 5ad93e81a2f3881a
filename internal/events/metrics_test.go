//go:build !fuzz

package events

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Every publish is measured and counted by the messaging conventions, a failed
// one with its kind of error.
func TestPublishIsMeasured(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	p := NewPublisher(PublisherConfig{
		JetStream: &script{errs: []error{context.DeadlineExceeded, &jetstream.APIError{ErrorCode: 10060}}},
		Meter:     sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test"),
	})
	for range 3 {
		_ = p.Publish(t.Context(), failedEvent())
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	sent, measured := make(map[string]int64), make(map[string]uint64)
	say := func(set attribute.Set) string {
		kind, _ := set.Value("error.type")
		system, _ := set.Value("messaging.system")
		operation, _ := set.Value("messaging.operation.name")
		destination, _ := set.Value("messaging.destination.name")
		return operation.AsString() + " " + system.AsString() + " " + destination.AsString() + " " + kind.AsString()
	}
	for _, m := range all.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, point := range data.DataPoints {
				sent[say(point.Attributes)] = point.Value
			}
		case metricdata.Histogram[float64]:
			for _, point := range data.DataPoints {
				measured[say(point.Attributes)] = point.Count
			}
		default:
			t.Fatalf("%s is a %T", m.Name, data)
		}
	}
	for _, want := range []string{"publish nats deploy.failed ", "publish nats deploy.failed timeout", "publish nats deploy.failed 10060"} {
		if sent[want] != 1 || measured[want] != 1 {
			t.Errorf("%q: sent %d, measured %d", want, sent[want], measured[want])
		}
	}
	for _, want := range []string{"publish nats deploy.provisioning ", "publish nats deploy.held "} {
		if n, there := sent[want]; n != 0 || !there {
			t.Errorf("%q: sent %d, there %v; want a zero", want, n, there)
		}
	}
	if len(sent) != 5 || len(measured) != 3 {
		t.Errorf("sent %v, measured %v", sent, measured)
	}
}
