package telemetry_test

import (
	"encoding/binary"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/telemetry"
)

func scrape(t *testing.T, tel *telemetry.Telemetry, accept string) string {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, r)
	return w.Body.String()
}

// What /metrics shows is pushed as well when a variable asks for it, with the
// same buckets.
func TestMetricsAreExportedWhenAskedFor(t *testing.T) {
	got := make(chan string, 8)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.URL.Path + " " + string(body)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	for _, exporter := range []string{"none", "otlp"} {
		t.Setenv("OTEL_METRICS_EXPORTER", exporter)
		tel, err := telemetry.Start(t.Context(), telemetry.Options{Metrics: true})
		if err != nil {
			t.Fatal(err)
		}
		h, err := tel.Meter().Float64Histogram("work.duration", metric.WithUnit("s"))
		if err != nil {
			t.Fatal(err)
		}
		h.Record(t.Context(), 0.2)
		if text := scrape(t, tel, ""); !strings.Contains(text, "work_duration_seconds_count 1") {
			t.Errorf("OTEL_METRICS_EXPORTER=%s: /metrics lacks what was measured", exporter)
		}
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 1 {
		t.Fatalf("%d exports, want 1: of otlp", len(got))
	}
	sent, bound := <-got, string(binary.LittleEndian.AppendUint64(nil, math.Float64bits(300)))
	for _, want := range []string{"/v1/metrics ", "work.duration", bound} {
		if !strings.Contains(sent, want) {
			t.Errorf("what was exported lacks %q", want)
		}
	}
}

func TestUnknownMetricsExporterIsAnError(t *testing.T) {
	t.Setenv("OTEL_METRICS_EXPORTER", "carrier-pigeon")
	_, err := telemetry.Start(t.Context(), telemetry.Options{Metrics: true})
	if err == nil || !strings.Contains(err.Error(), "OTEL_METRICS_EXPORTER") {
		t.Errorf("Start = %v, want the variable named", err)
	}
}

// The buckets are the worker's, whatever a library asks for.
func TestHistogramsOfSecondsReachFarEnough(t *testing.T) {
	t.Parallel()
	tel := start(t, telemetry.Options{})
	for name, want := range map[string][]string{
		"library.duration":      {`library_duration_seconds_bucket{le="0.005"}`, `library_duration_seconds_bucket{le="300.0"}`},
		"hostup_worker.request": {`hostup_worker_request_seconds_bucket{le="0.05"}`, `hostup_worker_request_seconds_bucket{le="86400.0"}`},
	} {
		h, err := tel.Meter().Float64Histogram(name, metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(1, 2))
		if err != nil {
			t.Fatal(err)
		}
		h.Record(t.Context(), 42)
		text := scrape(t, tel, "application/openmetrics-text")
		for _, line := range want {
			if !strings.Contains(text, line) {
				t.Errorf("/metrics lacks %s", line)
			}
		}
	}
	sizes, err := tel.Meter().Int64Histogram("library.size", metric.WithUnit("By"), metric.WithExplicitBucketBoundaries(1, 2))
	if err != nil {
		t.Fatal(err)
	}
	sizes.Record(t.Context(), 1)
	if text := scrape(t, tel, ""); !strings.Contains(text, `library_size_bytes_bucket{le="2"} 1`) || strings.Contains(text, `library_size_bytes_bucket{le="300"}`) {
		t.Error("a histogram of bytes has the buckets of one of seconds")
	}
}

// A measurement points at the trace it was made in, also when that is the
// requester's and nothing is exported here. One that is not sampled leads
// nowhere and is not pointed at.
func TestExemplarsAreTheSampledTrace(t *testing.T) {
	t.Parallel()
	tel := start(t, telemetry.Options{})
	h, err := tel.Meter().Float64Histogram("work", metric.WithUnit("s"))
	if err != nil {
		t.Fatal(err)
	}
	for id, flags := range map[byte]trace.TraceFlags{0xaa: trace.FlagsSampled, 0xbb: 0} {
		sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{id}, SpanID: trace.SpanID{1}, TraceFlags: flags, Remote: true})
		h.Record(trace.ContextWithRemoteSpanContext(t.Context(), sc), 0.2)
	}
	text := scrape(t, tel, "application/openmetrics-text; version=1.0.0")
	if !strings.Contains(text, `trace_id="aa000000000000000000000000000000"`) {
		t.Errorf("no exemplar of the sampled trace:\n%s", text)
	}
	if strings.Contains(text, `trace_id="bb`) {
		t.Error("an exemplar leads to a trace that nobody recorded")
	}
	if text := scrape(t, tel, "text/plain"); strings.Contains(text, "trace_id") {
		t.Error("exemplars in the text format, which has none")
	}
}
