package telemetry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// SpanLines is an exporter for Options.Spans that writes OTLP JSON lines, the
// form of OpenTelemetry's file exporter: trace viewers open it, a collector
// reads it, and so does jq. An error of w ends nothing here: give it a writer
// that remembers its first one, as a bufio.Writer does.
func SpanLines(w io.Writer) sdktrace.SpanExporter {
	return otlptrace.NewUnstarted(&spanLines{w: w})
}

// spanLines is a client of the OTLP exporter, which turns the SDK's spans into
// OTLP's; it needs no start and no stop.
type spanLines struct {
	mu sync.Mutex
	w  io.Writer
}

var _ otlptrace.Client = (*spanLines)(nil)

// Start implements otlptrace.Client.
func (*spanLines) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (*spanLines) Stop(context.Context) error { return nil }

// UploadTraces implements otlptrace.Client: a line for each call.
func (l *spanLines) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	line, err := otlpJSON(spans)
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.w.Write(append(line, '\n')) // w remembers
	return nil
}

// otlpJSON is ProtoJSON but for two things that OTLP wants otherwise: enums are
// numbers, and ids are hexadecimal.
func otlpJSON(spans []*tracepb.ResourceSpans) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return nil, err
	}
	var tree any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	if err := hexIDs(tree); err != nil {
		return nil, err
	}
	return json.Marshal(tree)
}

// hexIDs rewrites all ids below a value. Attributes are lists of keys and
// values, so no member of theirs has one of these names.
func hexIDs(v any) error {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if err := hexIDs(e); err != nil {
				return err
			}
		}
	case map[string]any:
		for name, e := range v {
			text, is := e.(string)
			if !is {
				if err := hexIDs(e); err != nil {
					return err
				}
				continue
			}
			switch name {
			case "traceId", "spanId", "parentSpanId":
				id, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				v[name] = hex.EncodeToString(id)
			}
		}
	}
	return nil
}
