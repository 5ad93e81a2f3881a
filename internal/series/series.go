// Package series remembers which series of a metric a measurement belongs to.
// OpenTelemetry asks for the attributes of each: to sort and hash them anew costs
// several times what counting with them does (BenchmarkSeries), and a request
// makes a dozen measurements.
//
// It is a leaf: the edges and the core use it, and it imports none of them.
package series

import (
	"maps"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// most bounds what is remembered. It is half of what the SDK's own limit of
// series per instrument is: whoever gets there has an id for a label.
const most = 1000

// By is the series of metrics, by what tells them apart: K is a string or a
// struct of few. It is safe for concurrent use.
type By[K comparable] struct {
	attributes func(K) []attribute.KeyValue

	known atomic.Pointer[map[K]metric.MeasurementOption]
	mu    sync.Mutex
}

// New returns series with these attributes. The function must give the same for
// the same.
func New[K comparable](attributes func(K) []attribute.KeyValue) *By[K] {
	b := &By[K]{attributes: attributes}
	b.known.Store(&map[K]metric.MeasurementOption{})
	return b
}

// Label returns series that one attribute tells apart.
func Label[K ~string](key attribute.Key) *By[K] {
	return New(func(value K) []attribute.KeyValue { return []attribute.KeyValue{key.String(string(value))} })
}

// Of is the series of a measurement.
func (b *By[K]) Of(k K) metric.MeasurementOption {
	if of, is := (*b.known.Load())[k]; is {
		return of
	}
	of := metric.WithAttributeSet(attribute.NewSet(b.attributes(k)...))
	b.mu.Lock()
	defer b.mu.Unlock()
	known := *b.known.Load()
	if len(known) < most {
		known = maps.Clone(known)
		known[k] = of
		b.known.Store(&known)
	}
	return of
}
