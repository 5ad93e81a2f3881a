package events

import (
	"context"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Extract returns ctx with the request's span as its remote parent, so that
// spans started from it belong to the requester's trace. Without a trace it
// returns ctx as it is.
func Extract(ctx context.Context, t provision.Trace) context.Context {
	if t.Parent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx,
		propagation.MapCarrier{headerTraceparent: t.Parent, headerTracestate: t.State})
}

// traceOf returns the trace context and the baggage of a request: the
// transport's own headers before the CloudEvents extension, which names the
// first hop and not necessarily the last. What is not as W3C writes it is not
// kept.
func traceOf(h nats.Header, extension provision.Trace) provision.Trace {
	t := contextOf(h, extension)
	if text := header(h, headerBaggage); text != "" && len(text) <= maxBaggage {
		if _, err := baggage.Parse(text); err == nil {
			t.Baggage = text
		}
	}
	return t
}

func contextOf(h nats.Header, extension provision.Trace) provision.Trace {
	candidates := [...]provision.Trace{
		{Parent: header(h, headerTraceparent), State: header(h, headerTracestate)},
		extension,
		{Parent: ceAttribute(h, headerTraceparentExt), State: ceAttribute(h, headerTracestateExt)},
	}
	for _, t := range candidates {
		ctx := Extract(context.Background(), provision.Trace{Parent: t.Parent})
		if !trace.SpanContextFromContext(ctx).IsValid() {
			continue
		}
		if _, err := trace.ParseTraceState(t.State); err != nil || len(t.State) > maxTracestate {
			t.State = ""
		}
		return t
	}
	return provision.Trace{}
}
