package hostup

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// traced wraps a transport with spans, if anybody is to get them. The trace
// context is written below, with spans and without.
func traced(cfg Config, base *url.URL, calls http.RoundTripper) http.RoundTripper {
	if cfg.TracerProvider == nil {
		return calls
	}
	return spanned{cfg.TracerProvider.Tracer(scope), addressOf(base), calls}
}

// spanned makes a span of each call, by the HTTP conventions. It ends with the
// body of the answer.
type spanned struct {
	tracer  trace.Tracer
	address []attribute.KeyValue
	base    http.RoundTripper
}

func (s spanned) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	ctx, span := s.tracer.Start(r.Context(), x.operation, trace.WithSpanKind(trace.SpanKindClient))
	resp, err := s.base.RoundTrip(r.WithContext(ctx))
	if !span.IsRecording() {
		span.End()
		return resp, err //nolint:wrapcheck // a transport's errors are the caller's
	}
	span.SetAttributes(s.about(r, x, resp, err)...)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		span.End()
		return nil, err
	}
	if resp.StatusCode >= 400 {
		span.SetStatus(codes.Error, "")
	}
	resp.Body = spannedBody{resp.Body, span}
	return resp, nil
}

// about are the attributes of a call that is over.
func (s spanned) about(r *http.Request, x *exchange, resp *http.Response, err error) []attribute.KeyValue {
	_, template, _ := strings.Cut(x.operation, " ")
	as := append(make([]attribute.KeyValue, 0, 10), s.address...)
	as = append(as, semconv.HTTPRequestMethodKey.String(r.Method), semconv.URLFull(r.URL.String()), semconv.URLTemplate(template))
	if n := provision.Resends(r.Context()); n > 0 {
		as = append(as, semconv.HTTPRequestResendCount(n))
	}
	if err != nil {
		return append(as, versionOf(r.Proto), semconv.ErrorTypeKey.String(kindOf(err)))
	}
	as = append(as, versionOf(resp.Proto), semconv.HTTPResponseStatusCode(resp.StatusCode))
	if resp.StatusCode >= 400 {
		as = append(as, semconv.ErrorTypeKey.String(strconv.Itoa(resp.StatusCode)))
	}
	return as
}

type spannedBody struct {
	io.ReadCloser

	span trace.Span
}

func (b spannedBody) Close() error {
	defer b.span.End()
	return b.ReadCloser.Close()
}
