package hostup

import (
	"net/http"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// traced wraps a transport with spans, if anybody is to get them. Only RoundTrip
// of the result is ever called, never an http.Client around it: redirects and
// cookies are http.Client's, so there are none. The trace context is written
// below, with spans and without; the metrics are ours (see clientMetrics).
func traced(cfg Config, base http.RoundTripper) http.RoundTripper {
	if cfg.TracerProvider == nil {
		return base
	}
	return otelhttp.NewTransport(base,
		otelhttp.WithTracerProvider(cfg.TracerProvider),
		otelhttp.WithMeterProvider(noop.NewMeterProvider()),
		otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator()),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string {
			return exchangeOf(r.Context()).operation
		}))
}

// annotate adds to the span of a call what otelhttp does not know.
func annotate(r *http.Request, x *exchange) {
	span := trace.SpanFromContext(r.Context())
	if !span.IsRecording() {
		return
	}
	_, template, _ := strings.Cut(x.operation, " ")
	span.SetAttributes(semconv.URLTemplate(template))
	if n := provision.Resends(r.Context()); n > 0 {
		span.SetAttributes(semconv.HTTPRequestResendCount(n))
	}
}
