package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/hostup/deploy-worker/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o telemetry.Options) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tel
}

func TestMetricsAreServedWithoutAnyVariable(t *testing.T) {
	t.Parallel()
	tel := start(t, telemetry.Options{Version: "1.2.3"})
	c, err := tel.Meter().Int64Counter("hostup_worker.test", metric.WithDescription("a test"))
	if err != nil {
		t.Fatal(err)
	}
	c.Add(t.Context(), 3)
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"hostup_worker_test_total 3", `service_version="1.2.3"`, `service_name="deploy-worker"`, "go_goroutines"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if strings.Contains(w.Body.String(), "otel_scope") {
		t.Error("scope labels on every series")
	}
}

// Without an exporter nobody begins a span.
func TestWithoutTraces(t *testing.T) {
	t.Parallel()
	if tel := start(t, telemetry.Options{}); tel.Tracer() != nil || tel.Tracers != nil {
		t.Error("there is a tracer although nobody gets its spans")
	}
}

func TestNoneIsNoExporter(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	t.Setenv("OTEL_LOGS_EXPORTER", "none")
	tel := start(t, telemetry.Options{Traces: true, Logs: true})
	if tel.Tracer() != nil {
		t.Error("there is a tracer although nobody gets its spans")
	}
	if l := slog.New(slog.DiscardHandler); tel.Log(l) != l {
		t.Error("log lines are exported to nobody")
	}
}

// The standard variables say what is sampled and who the spans are of.
func TestTheStandardVariables(t *testing.T) {
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off")
	spans := tracetest.NewInMemoryExporter()
	tel := start(t, telemetry.Options{Spans: spans})
	_, span := tel.Tracer().Start(t.Context(), "x")
	span.End()
	if n := len(spans.GetSpans()); n != 0 {
		t.Errorf("%d spans in spite of OTEL_TRACES_SAMPLER=always_off", n)
	}

	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	t.Setenv("OTEL_SERVICE_NAME", "shop-worker")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	tel = start(t, telemetry.Options{Version: "1.2.3", Spans: spans})
	_, span = tel.Tracer().Start(t.Context(), "x")
	span.End()
	got := spans.GetSpans()
	if len(got) != 1 {
		t.Fatalf("%d spans, want 1", len(got))
	}
	for name, want := range map[string]string{"service.name": "shop-worker", "service.version": "1.2.3", "deployment.environment.name": "test"} {
		if v, _ := got[0].Resource.Set().Value(attribute.Key(name)); v.AsString() != want {
			t.Errorf("%s is %q, want %q", name, v.AsString(), want)
		}
	}
}

// Log lines are exported beside being written, with the trace that they belong
// to, from the level on that is written.
func TestLogsAreExportedWhenAskedFor(t *testing.T) {
	got := make(chan string, 8)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.URL.Path + " " + string(body)
	}))
	defer collector.Close()
	t.Setenv("OTEL_LOGS_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	tel, err := telemetry.Start(t.Context(), telemetry.Options{Logs: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := tel.Log(slog.New(telemetry.LogHandler(slog.NewJSONHandler(&out, nil)))).With("key", "order-1").WithGroup("g")
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{0xab}, SpanID: trace.SpanID{0xcd}}))
	log.InfoContext(ctx, "request answered")
	log.DebugContext(ctx, "below the level")
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent := <-got
	for _, want := range []string{"/v1/logs ", "request answered", "order-1", "\xab\x00\x00", telemetry.Scope} {
		if !strings.Contains(sent, want) {
			t.Errorf("what was exported lacks %q: %q", want, sent)
		}
	}
	if strings.Contains(sent, "below the level") || len(got) > 0 {
		t.Errorf("more was exported than written: %q", sent)
	}
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), `"trace_id":"ab00`) {
		t.Errorf("%d lines were written, want 1 with its trace: %s", n, out.String())
	}
}

func TestUnknownLogExporterIsAnError(t *testing.T) {
	t.Setenv("OTEL_LOGS_EXPORTER", "carrier-pigeon")
	_, err := telemetry.Start(t.Context(), telemetry.Options{Logs: true})
	if err == nil || !strings.Contains(err.Error(), "OTEL_LOGS_EXPORTER") {
		t.Errorf("Start = %v, want the variable named", err)
	}
}

// An exporter that fails says so in the log, and not with every batch.
//
//nolint:paralleltest // the SDK has one place for its errors in a process
func TestExportErrorsAreLoggedNowAndThen(t *testing.T) {
	var out bytes.Buffer
	telemetry.ReportErrors(slog.New(slog.NewJSONHandler(&out, nil)))
	for range 5 {
		otel.Handle(errors.New("the collector is away"))
	}
	if n := strings.Count(out.String(), "the collector is away"); n != 1 {
		t.Errorf("%d lines, want 1: %s", n, out.String())
	}
}

func TestUnknownExporterIsAnError(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
	_, err := telemetry.Start(t.Context(), telemetry.Options{Traces: true})
	if err == nil || !strings.Contains(err.Error(), "OTEL_TRACES_EXPORTER") {
		t.Errorf("Start = %v, want the variable named", err)
	}
}

func TestLogLinesCarryTheTrace(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(telemetry.LogHandler(slog.NewJSONHandler(&out, nil))).With("a", 1).WithGroup("g")
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{0xab}, SpanID: trace.SpanID{0xcd}}))
	log.InfoContext(ctx, "with")
	log.InfoContext(t.Context(), "without")
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	var with, without map[string]any
	for i, into := range []*map[string]any{&with, &without} {
		if err := json.Unmarshal(lines[i], into); err != nil {
			t.Fatal(err)
		}
	}
	group, _ := with["g"].(map[string]any)
	if id, _ := group["trace_id"].(string); !strings.HasPrefix(id, "ab00") {
		t.Errorf("line with a span: %v", with)
	}
	if _, ok := without["g"]; ok {
		t.Errorf("line without a span: %v", without)
	}
}
