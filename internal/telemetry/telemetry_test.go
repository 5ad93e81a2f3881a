package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric"
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

// Without an exporter a span costs nothing, and the request's own trace
// context stays what it was.
func TestWithoutTracesTheContextPassesThrough(t *testing.T) {
	t.Parallel()
	tel := start(t, telemetry.Options{})
	remote := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, Remote: true})
	_, span := tel.Tracer().Start(trace.ContextWithRemoteSpanContext(t.Context(), remote), "x")
	defer span.End()
	if span.IsRecording() {
		t.Error("a span is recorded although nobody reads it")
	}
	if got := span.SpanContext(); got.TraceID() != remote.TraceID() || got.SpanID() != remote.SpanID() {
		t.Errorf("the span context became %v", got)
	}
}

func TestTracesAreRecordedWhenAskedFor(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	tel := start(t, telemetry.Options{Traces: true})
	_, span := tel.Tracer().Start(t.Context(), "x")
	defer span.End()
	if !span.SpanContext().IsValid() {
		t.Error("the span has no identity")
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
