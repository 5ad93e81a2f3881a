package series_test

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/hostup/deploy-worker/internal/series"
)

// counted is what was counted, by the text of the attributes.
func counted(t *testing.T, measure func(metric.Int64Counter)) map[string]int64 {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	counter, err := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("t").Int64Counter("n")
	if err != nil {
		t.Fatal(err)
	}
	measure(counter)
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	n := make(map[string]int64)
	for _, p := range all.ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints {
		n[fmt.Sprint(p.Attributes.ToSlice())] = p.Value
	}
	return n
}

func TestOf(t *testing.T) {
	t.Parallel()
	by, made := series.Label[string]("reason"), 0
	got := counted(t, func(c metric.Int64Counter) {
		for range 2 {
			for _, reason := range []string{"a", "b", "a"} {
				c.Add(t.Context(), 1, by.Of(reason))
			}
		}
	})
	if want := map[string]int64{`[{"reason":"a"}]`: 4, `[{"reason":"b"}]`: 2}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	once := series.New(func(int) []attribute.KeyValue { made++; return nil })
	once.Of(1)
	once.Of(1)
	if made != 1 {
		t.Errorf("attributes were made %d times", made)
	}
}

// A label that is an id after all costs time, and no memory without end.
func TestTooMany(t *testing.T) {
	t.Parallel()
	made := 0
	by := series.New(func(k int) []attribute.KeyValue {
		made++
		return []attribute.KeyValue{attribute.Int("k", k)}
	})
	const many = 5000
	for range 2 {
		for k := range many {
			by.Of(k)
		}
	}
	if kept := 2*many - made; kept != 1000 {
		t.Errorf("%d are kept", kept)
	}
}

func TestTogether(t *testing.T) {
	t.Parallel()
	by := series.Operations()
	got := counted(t, func(c metric.Int64Counter) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for i := range 100 {
					c.Add(t.Context(), 1, by.Of(series.Operation{Name: "publish", Destination: strconv.Itoa(i % 10)}))
				}
			})
		}
		all.Wait()
	})
	if len(got) != 10 {
		t.Errorf("%d series: %v", len(got), got)
	}
	for s, n := range got {
		if n != 80 {
			t.Errorf("%s: %d", s, n)
		}
	}
}

func BenchmarkSeries(b *testing.B) {
	reader := sdkmetric.NewManualReader()
	h, err := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("t").Float64Histogram("h")
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		by := series.Operations()
		for b.Loop() {
			h.Record(ctx, 1, by.Of(series.Operation{Name: "ack", Type: "settle", Consumer: "deploy-worker", Destination: "deploy.requested"}))
		}
	})
	b.Run("anew", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			h.Record(ctx, 1, metric.WithAttributes(
				attribute.String("messaging.operation.name", "ack"), attribute.String("messaging.operation.type", "settle"), series.System,
				attribute.String("messaging.consumer.group.name", "deploy-worker"), attribute.String("messaging.destination.name", "deploy.requested"),
			))
		}
	})
}
