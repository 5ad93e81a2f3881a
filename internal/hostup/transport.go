package hostup

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

const (
	connectTimeout    = 10 * time.Second
	maxAnswerHeader   = 256 << 10
	idleConnections   = 16
	idleConnectionAge = 90 * time.Second
)

// exchange is what the layers below a call need to know about it. It travels
// in the context of the request.
type exchange struct {
	// operation is the method and the path template: the name of the span.
	operation string
	token     Token
	// meter watches the connection; creates have one.
	meter *meter
}

type exchangeKey struct{}

func withExchange(ctx context.Context, x *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// traced wraps a transport with spans, metrics and the trace context. Only
// RoundTrip of the result is ever called, never an http.Client around it:
// redirects and cookies are http.Client's, so there are none.
func traced(cfg Config, base http.RoundTripper) http.RoundTripper {
	return otelhttp.NewTransport(base,
		otelhttp.WithTracerProvider(cfg.TracerProvider),
		otelhttp.WithMeterProvider(cfg.MeterProvider),
		otelhttp.WithPropagators(cfg.Propagator),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string {
			return exchangeOf(r.Context()).operation
		}))
}

// carrier adds the key to a request and takes it out of every error. It sits
// below the tracing layer, which therefore sees neither.
type carrier struct{ base http.RoundTripper }

func (c carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	annotate(r, x)
	r = r.WithContext(r.Context())
	r.Header = r.Header.Clone()
	r.Header.Set("Authorization", x.token.header())
	resp, err := c.base.RoundTrip(r)
	if err != nil {
		return nil, x.token.scrubError(err)
	}
	resp.Body = scrubbedBody{resp.Body, x.token}
	return resp, nil
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

// scrubbedBody takes the key out of read errors: a malformed trailer is
// quoted in one. The bytes themselves are scrubbed once they are all there.
type scrubbedBody struct {
	io.ReadCloser

	token Token
}

func (b scrubbedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err // readers compare io.EOF by identity
	}
	return n, b.token.scrubError(err)
}

// readAnswer returns the body without the key, also when reading it failed in
// between or it is larger than maxAnswer. It closes the body.
func readAnswer(resp *http.Response, token Token) ([]byte, error) {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil, nil // the body is the connection, and has no end
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = errAnswerTooLarge
	}
	return token.scrubCut(b), err // told as it is
}

// newPool returns the transport of the reads. Neither channel uses a proxy: a
// proxy may repeat a POST or answer in HostUp's place, and a worker that can
// read through one but not create would be worse than one that does neither.
func newPool(roots *x509.CertPool) *http.Transport {
	d := &net.Dialer{Timeout: connectTimeout}
	return &http.Transport{
		DialContext:            d.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    connectTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    idleConnections,
		IdleConnTimeout:        idleConnectionAge,
		MaxResponseHeaderBytes: maxAnswerHeader,
	}
}
