package hostup

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
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

// carrier adds the key to a request and takes it out of every error. It sits
// below the tracing layer, which therefore sees neither.
type carrier struct{ base http.RoundTripper }

func (c carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	annotate(r, x)
	r = r.WithContext(r.Context())
	r.Header = r.Header.Clone()
	r.Header.Set("Authorization", x.token.header())
	if err := unwrapBody(r); err != nil {
		return nil, err
	}
	resp, err := c.base.RoundTrip(r)
	if err != nil {
		return nil, x.token.scrubError(err)
	}
	resp.Body = scrubbedBody{resp.Body, x.token}
	return resp, nil
}

// unwrapBody reads the body through the tracing layer, which counts it, and
// replaces it by one that net/http can see to be at hand: it would send the
// headers before it looked at any other.
func unwrapBody(r *http.Request) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err != nil {
		return fmt.Errorf("read the request's body: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
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
