package hostup

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
)

// createChannel makes one call on one connection: it writes the request once,
// reads one answer and closes. There is nothing in it that could send a request
// again, as net/http's Transport does by itself on a reused connection, over
// HTTP/2, after some redirects, and for requests with an Idempotency-Key header.
// It speaks HTTP/1.1 and no other, and uses no proxy (see newPool).
type createChannel struct {
	// calls makes a call, with everything around the channel.
	calls http.RoundTripper
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	tls   *tls.Config
}

// callBuffer holds the usual request, and the usual answer.
const callBuffer = 1 << 10

var _ http.RoundTripper = (*createChannel)(nil)

func newCreateChannel(cfg Config, to *url.URL, calls *clientMetrics) *createChannel {
	// The connection lives as long as one call, whose deadline ends it: probes
	// for a dead peer would only cost the system calls that set them up.
	d := &net.Dialer{Timeout: connectTimeout, KeepAlive: -1}
	ch := &createChannel{
		dial: d.DialContext,
		tls: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs, NextProtos: []string{"http/1.1"},
			// A resumed handshake is cheaper, and crypto/tls sends no early
			// data with it, which a network could replay.
			ClientSessionCache: tls.NewLRUClientSessionCache(0),
		},
	}
	ch.calls = layered(cfg, to, calls, ch)
	return ch
}

// RoundTrip implements http.RoundTripper, for requests with a meter in their
// context. It is the only place that writes one, and it does so in one piece.
func (ch *createChannel) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	ctx := r.Context()
	r = r.WithContext(ctx) // a copy, to be changed
	r.Close = true
	var request bytes.Buffer
	request.Grow(callBuffer)
	if err := r.Write(&request); err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	conn, err := ch.connect(ctx, r.URL)
	if err != nil {
		return nil, err
	}
	// The deadline is the connection's own; this is for a call that is given up
	// before. Either way the reason is the context's.
	abandon := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if err == nil {
			return
		}
		abandon()
		_ = conn.Close()
		if ended := ctx.Err(); ended != nil {
			err = ended
		}
	}()
	if _, err := conn.Write(request.Bytes()); err != nil {
		return nil, err
	}
	resp, err = readResponse(conn, r)
	if err != nil {
		return nil, err
	}
	resp.Body = callBody{resp.Body, conn, abandon}
	return resp, nil
}

// errHeaderTooLarge is an answer that does not come to its body.
var errHeaderTooLarge = fmt.Errorf("the answer has more than %d bytes before its body", maxAnswerHeader)

// readResponse reads an answer up to its body, and what is told before it (RFC
// 9110, section 15.2).
func readResponse(conn net.Conn, r *http.Request) (*http.Response, error) {
	head := &io.LimitedReader{R: conn, N: maxAnswerHeader}
	from := bufio.NewReaderSize(head, callBuffer)
	for {
		resp, err := http.ReadResponse(from, r)
		switch {
		case err != nil && head.N == 0:
			return nil, errHeaderTooLarge
		case err != nil:
			return nil, err
		case resp.StatusCode >= 200, resp.StatusCode == http.StatusSwitchingProtocols:
			head.N = math.MaxInt64
			return resp, nil
		}
	}
}

// callBody is the body of an answer, whose end is that of the connection.
type callBody struct {
	io.ReadCloser

	conn    net.Conn
	abandon func() bool
}

func (b callBody) Close() error {
	b.abandon()
	return errors.Join(b.ReadCloser.Close(), b.conn.Close())
}

// connect opens the connection of a call.
func (ch *createChannel) connect(ctx context.Context, to *url.URL) (net.Conn, error) {
	host, port := to.Hostname(), to.Port()
	if to.Scheme == "http" {
		raw, err := ch.open(ctx, host, cmp.Or(port, "80"))
		if err != nil {
			return nil, err
		}
		return &requestConn{raw, raw.meter}, nil
	}
	raw, err := ch.open(ctx, host, cmp.Or(port, "443"))
	if err != nil {
		return nil, err
	}
	cfg := ch.tls.Clone()
	cfg.ServerName = host
	secure := tls.Client(raw, cfg)
	shake, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := secure.HandshakeContext(shake); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("tls handshake: %w", err)
	}
	// The bytes of the handshake are no request.
	raw.meter.written.Store(0)
	return &requestConn{secure, raw.meter}, nil
}

func (ch *createChannel) open(ctx context.Context, host, port string) (*wireConn, error) {
	m := exchangeOf(ctx).meter
	conn, err := ch.dial(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, err // it says "dial tcp" and the address
	}
	if err := conn.SetDeadline(m.deadline); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("set the deadline of the connection: %w", err)
	}
	return &wireConn{conn, m}, nil
}
