package consumer

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/hostup/deploy-worker/internal/provision"
)

// For the sweeper, which has nothing to do in the benchmark.
const (
	attrStream   = attribute.Key("")
	attrSequence = attribute.Key("")
)

var noSpan trace.Span = noop.Span{}

func remote(ctx context.Context, _ provision.Trace) context.Context { return ctx }

func detached(ctx context.Context, _ provision.Trace) (context.Context, []trace.SpanStartOption) {
	return ctx, nil
}

func (*lane) begin(ctx context.Context, _ jetstream.Msg, _ provision.Message) (context.Context, trace.Span) {
	return ctx, noSpan
}

func tellResult(trace.Span, provision.Disposition) {}

func (*lane) settling(context.Context, jetstream.Msg, string) trace.Span { return noSpan }

func settled(trace.Span, error, time.Duration) {}
