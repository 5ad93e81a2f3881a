package hostup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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
	return otelhttp.NewTransport(unwrapped{base},
		otelhttp.WithTracerProvider(cfg.TracerProvider),
		otelhttp.WithMeterProvider(noop.NewMeterProvider()),
		otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator()),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string {
			return exchangeOf(r.Context()).operation
		}))
}

// unwrapped reads a body through the tracing layer, which counts it, and replaces
// it by one that net/http can see to be at hand: it would send the headers before
// it looked at any other.
type unwrapped struct{ base http.RoundTripper }

func (u unwrapped) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		body, err := io.ReadAll(r.Body)
		if err = errors.Join(err, r.Body.Close()); err != nil {
			return nil, fmt.Errorf("read the request's body: %w", err)
		}
		r = r.WithContext(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	return u.base.RoundTrip(r) //nolint:wrapcheck // a transport's errors are the caller's
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
