package hostup

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/propagation"
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

// carrier adds the key and the trace context to a request, and takes the key out
// of every error. It sits below the tracing layer, which therefore sees no key.
type carrier struct {
	propagator propagation.TextMapPropagator
	base       http.RoundTripper
}

func (c carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	r = r.WithContext(r.Context())
	r.Header = r.Header.Clone()
	r.Header.Set("Authorization", x.token.header())
	c.propagator.Inject(r.Context(), propagation.HeaderCarrier(r.Header))
	resp, err := c.base.RoundTrip(r)
	if err != nil {
		return nil, x.token.scrubError(err)
	}
	resp.Body = scrubbedBody{resp.Body, x.token}
	return resp, nil
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
