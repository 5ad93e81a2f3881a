package consumer_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/provision"
)

// sum adds up the series of a metric that have these labels: values of counters
// and gauges, counts of histograms. There is false when there is none.
func sum(t *testing.T, reader *sdkmetric.ManualReader, name string, labels ...attribute.KeyValue) (total float64, there bool) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	add := func(set attribute.Set, v float64) {
		for _, l := range labels {
			if got, ok := set.Value(l.Key); !ok || got != l.Value {
				return
			}
		}
		total, there = total+v, true
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, float64(p.Count))
				}
			default:
				t.Fatalf("%s is a %T", name, data)
			}
		}
	}
	return total, there
}

// What happens to messages is counted by the messaging conventions, and beside
// it what they have no name for.
func TestMetricsOfMessages(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	r := newRig(t, 10*time.Second, 4)
	r.h.reply = func(_ context.Context, m provision.Message) provision.Disposition {
		switch {
		case m.Request.Key == "waits" && m.Deliveries == 1:
			return provision.Disposition{Action: provision.Retry, After: 10 * time.Millisecond, Result: provision.ResultWaiting, Reason: provision.WaitLedger, Err: errors.New("no")}
		case m.Request.Key == "dead":
			return provision.Disposition{Action: provision.Dead, Defect: &provision.Defect{Reason: provision.DeadNoKey}, Result: provision.ResultDead, Reason: "no-key"}
		case m.Request.Key == "panics" && m.Deliveries == 1:
			panic("once")
		}
		return provision.Disposition{Action: provision.Done, Result: provision.ResultProvisioning}
	}
	c, err := consumer.New(consumer.Config{
		Stream: "DEPLOY", Consumer: "worker", DeadSubject: "deploy.dead", DeadStream: "DEPLOY_DEAD", Concurrency: 4, DrainTimeout: patience,
	}, consumer.Ports{
		JetStream: r.js, Handler: r.h, Gate: r.gate, Log: slog.New(slog.NewTextHandler(r.logs, nil)),
		Tracer: noop.NewTracerProvider().Tracer(""), Meter: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter(""),
		Decode: func(_ nats.Header, data []byte) provision.Message {
			return provision.Message{Request: provision.Request{Key: string(data)}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, there := sum(t, reader, "hostup_worker.queue_oldest"); there {
		t.Error("the age of the oldest request is told before anybody asked for it")
	}
	for _, reason := range []string{"undecodable", "no-key", "invalid-key", "too-large", "panic"} {
		if v, there := sum(t, reader, "hostup_worker.dead_letters", attribute.String("reason", reason)); v != 0 || !there {
			t.Errorf("dead letters for %s: %v, %v", reason, v, there)
		}
	}
	if v, there := sum(t, reader, "messaging.client.sent.messages", attribute.String("messaging.destination.name", "deploy.dead")); v != 0 || !there {
		t.Errorf("dead letters published: %v, %v", v, there)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	eventually(t, "deliveries are there as zero", func() bool {
		v, there := sum(t, reader, "messaging.client.consumed.messages", attribute.String("messaging.destination.name", subject))
		return v == 0 && there
	})
	for _, key := range []string{"fine", "waits", "dead", "panics"} {
		if _, err := r.js.Publish(t.Context(), subject, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	worker, at := attribute.String("consumer", "worker"), attribute.String
	for _, want := range []struct {
		name   string
		labels []attribute.KeyValue
		value  float64
	}{
		{"messaging.client.consumed.messages", []attribute.KeyValue{at("messaging.system", "nats"), at("messaging.consumer.group.name", "worker"), at("messaging.destination.name", subject)}, 6},
		{"messaging.process.duration", []attribute.KeyValue{at("messaging.operation.name", "process"), at("messaging.consumer.group.name", "worker")}, 6},
		{"messaging.process.duration", []attribute.KeyValue{at("error.type", provision.WaitLedger)}, 1},
		{"messaging.process.duration", []attribute.KeyValue{at("error.type", "no-key")}, 1},
		{"messaging.process.duration", []attribute.KeyValue{at("error.type", "panic")}, 1},
		{"messaging.client.operation.duration", []attribute.KeyValue{at("messaging.operation.name", "ack"), at("messaging.operation.type", "settle"), at("messaging.consumer.group.name", "worker")}, 3},
		{"messaging.client.operation.duration", []attribute.KeyValue{at("messaging.operation.name", "nak")}, 2},
		{"messaging.client.operation.duration", []attribute.KeyValue{at("messaging.operation.name", "term")}, 1},
		{"messaging.client.operation.duration", []attribute.KeyValue{at("messaging.operation.name", "publish"), at("messaging.destination.name", "deploy.dead")}, 1},
		{"messaging.client.sent.messages", []attribute.KeyValue{at("messaging.destination.name", "deploy.dead")}, 1},
		{"hostup_worker.redeliveries", []attribute.KeyValue{worker}, 2},
		{"hostup_worker.queue.delay", []attribute.KeyValue{worker}, 4},
		{"hostup_worker.dead_letters", []attribute.KeyValue{at("reason", "no-key")}, 1},
		{"hostup_worker.panics", nil, 1},
		{"hostup_worker.in_work", nil, 0},
		{"hostup_worker.queue_pending", []attribute.KeyValue{worker}, 0},
		{"hostup_worker.queue_ack_pending", []attribute.KeyValue{worker}, 0},
		{"hostup_worker.queue_oldest", nil, 0},
	} {
		var got float64
		var there bool
		eventually(t, want.name, func() bool {
			got, there = sum(t, reader, want.name, want.labels...)
			return there && got == want.value
		})
	}
	if v, there := sum(t, reader, "messaging.client.operation.duration", at("messaging.operation.name", "receive"), at("messaging.consumer.group.name", "worker")); v == 0 || !there {
		t.Error("no pull was measured")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
