package telemetry_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/telemetry"
)

// The lines are those of OpenTelemetry's file exporter: an object each, ids in
// hexadecimal, enums as numbers, times and integers as texts.
func TestSpanLines(t *testing.T) {
	t.Parallel()

	var out bytes.Buffer
	tel := start(t, telemetry.Options{Version: "1.2.3", Spans: telemetry.SpanLines(&out)})
	tracer := tel.Tracers.Tracer(telemetry.Scope)
	linked := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{0xab, 0xff}, SpanID: trace.SpanID{0xcd, 0xfb}})
	ctx, parent := tracer.Start(t.Context(), "send", trace.WithSpanKind(trace.SpanKindProducer), trace.WithLinks(trace.Link{SpanContext: linked}),
		trace.WithAttributes(attribute.String("traceId", "not one"), attribute.Int("n", 7)))
	_, child := tracer.Start(ctx, "process")
	child.SetStatus(codes.Error, "no")
	child.End()
	parent.End()

	type span struct {
		TraceID           string `json:"traceId"`
		SpanID            string `json:"spanId"`
		ParentSpanID      string `json:"parentSpanId"`
		Name              string `json:"name"`
		StartTimeUnixNano string `json:"startTimeUnixNano"`
		Kind              int    `json:"kind"`
		Status            struct {
			Code int `json:"code"`
		} `json:"status"`
		Links []struct {
			TraceID string `json:"traceId"`
			SpanID  string `json:"spanId"`
		} `json:"links"`
		Attributes []struct {
			Key   string         `json:"key"`
			Value map[string]any `json:"value"`
		} `json:"attributes"`
	}
	var all []span
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		var line struct {
			ResourceSpans []struct {
				ScopeSpans []struct {
					Scope struct {
						Name string `json:"name"`
					} `json:"scope"`
					Spans []span `json:"spans"`
				} `json:"scopeSpans"`
			} `json:"resourceSpans"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v", lines.Bytes(), err)
		}
		if scope := line.ResourceSpans[0].ScopeSpans[0]; scope.Scope.Name == telemetry.Scope {
			all = append(all, scope.Spans...)
		}
	}
	if len(all) != 2 {
		t.Fatalf("%d spans, want 2", len(all))
	}
	ended, sent := all[0], all[1]
	if sc := parent.SpanContext(); sent.TraceID != sc.TraceID().String() || sent.SpanID != sc.SpanID().String() || sent.ParentSpanID != "" {
		t.Errorf("the ids are %q, %q, %q", sent.TraceID, sent.SpanID, sent.ParentSpanID)
	}
	if ended.TraceID != sent.TraceID || ended.ParentSpanID != sent.SpanID || ended.Name != "process" || ended.Status.Code != 2 {
		t.Errorf("the child is %+v", ended)
	}
	if sent.Kind != 4 || !regexp.MustCompile(`^\d{19}$`).MatchString(sent.StartTimeUnixNano) {
		t.Errorf("kind %d, start %q", sent.Kind, sent.StartTimeUnixNano)
	}
	if len(sent.Links) != 1 || sent.Links[0].TraceID != linked.TraceID().String() || sent.Links[0].SpanID != linked.SpanID().String() {
		t.Errorf("links are %+v", sent.Links)
	}
	if a := sent.Attributes; len(a) != 2 || a[0].Value["stringValue"] != "not one" || a[1].Value["intValue"] != "7" {
		t.Errorf("attributes are %+v", a)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// A writer that fails is asked by whoever owns it, and no span fails for it.
func TestSpanLinesLeaveErrorsToTheWriter(t *testing.T) {
	t.Parallel()

	w := bufio.NewWriterSize(full{}, 16)
	tel := start(t, telemetry.Options{Spans: telemetry.SpanLines(w)})
	for range 3 {
		_, span := tel.Tracers.Tracer("x").Start(t.Context(), "x")
		span.End()
	}
	if err := w.Flush(); err == nil {
		t.Error("nobody knows of the error")
	}
}
