package telemetry

import (
	"strings"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// Buckets of the histograms of seconds. The conventions' own end at 10 s, and a
// create call alone may take a minute.
var (
	operations = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120, 300}
	// What a request waits in all, up to the default deadline.
	lifetimes = []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600}
)

// ownPrefix begins the names of the worker's own instruments: its histograms of
// seconds are about whole requests, the conventions' about one operation.
const ownPrefix = "hostup_worker."

// buckets gives every histogram of seconds its boundaries, whoever makes it:
// libraries choose theirs without knowing what they measure.
func buckets(i sdkmetric.Instrument) (sdkmetric.Stream, bool) {
	if i.Kind != sdkmetric.InstrumentKindHistogram || i.Unit != "s" {
		return sdkmetric.Stream{}, false
	}
	boundaries := operations
	if strings.HasPrefix(i.Name, ownPrefix) {
		boundaries = lifetimes
	}
	return sdkmetric.Stream{
		Name: i.Name, Description: i.Description, Unit: i.Unit,
		Aggregation: sdkmetric.AggregationExplicitBucketHistogram{Boundaries: boundaries},
	}, true
}
