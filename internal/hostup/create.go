package hostup

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

var _ provision.API = (*Client)(nil)

const createOperation = "POST /vps/payg/deployments"

// order is the body of POST /vps/payg/deployments: these five members and no
// other, since several writes of the API are documented to refuse unknown
// ones.
type order struct {
	Name      string `json:"name"`
	CPUCores  int32  `json:"cpuCores"`
	MemoryGB  int32  `json:"memoryGb"`
	StorageGB int32  `json:"storageGb"`
	Region    string `json:"region"`
}

// Create sends one POST /vps/payg/deployments, or none, and says what that
// proved. It never sends a second one. Nothing is written after the deadline
// of ctx, nor after Create has returned. A 401 makes the token source read its
// file again, for the next call.
func (c *Client) Create(ctx context.Context, r provision.Request) provision.Answer {
	o := c.attempt(ctx, r)
	c.count(ctx, o.wait)
	if o.status == http.StatusUnauthorized {
		c.tokens.Refresh()
	}
	return judge(o)
}

// attempt makes the call and returns everything that was seen of it.
func (c *Client) attempt(ctx context.Context, r provision.Request) observation {
	token, err := c.tokens.Token()
	if err != nil {
		return observation{err: err}
	}
	m := &meter{}
	m.deadline, _ = ctx.Deadline()
	body, err := json.Marshal(order{r.Name, r.CPUCores, r.MemoryGB, r.StorageGB, r.Region})
	if err != nil {
		return observation{err: fmt.Errorf("encode the order: %w", err)}
	}
	x := &exchange{operation: createOperation, token: token, meter: m}
	req, err := c.newRequest(ctx, x, http.MethodPost, nil, "vps", "payg", "deployments")
	if err != nil {
		return observation{err: err}
	}
	// The body is set here and not by NewRequest, which would set GetBody:
	// without it net/http cannot send the request again even if it wants to.
	req.Body = io.NopCloser(bytes.NewReader(body))
	req.ContentLength = int64(len(body))
	req.Header.Set("Content-Type", "application/json")

	resp, err := c.create.transport.RoundTrip(req) //nolint:bodyclose // readAnswer closes it
	if err != nil {
		m.seal()
		return observation{err: err, sent: m.sent()}
	}
	o := observation{status: resp.StatusCode, header: resp.Header}
	o.body, o.bodyErr = readAnswer(resp, token)
	m.seal()
	o.sent = m.sent()
	o.requestID = requestID(resp.Header, token)
	o.rate = parseRate(resp.Header, c.now(), c.retryAfterMax)
	if o.status < 200 || o.status > 299 {
		o.wait = parseWait(resp.Header, c.now(), c.retryAfterMax, o.status == http.StatusTooManyRequests)
	}
	return o
}

// createChannel is a transport that cannot send a request twice: net/http does
// so by itself on a reused connection, over HTTP/2, after some redirects, and
// for requests with an Idempotency-Key header. Here there is a connection per
// call, HTTP/1.1, no http.Client, no GetBody and no such header.
type createChannel struct {
	transport http.RoundTripper
	dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	tls       *tls.Config
}

// callBuffer holds a request, and the usual answer.
const callBuffer = 1 << 10

func newCreateChannel(cfg Config, calls *clientMetrics) *createChannel {
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
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	ch.transport = layered(cfg, calls, &http.Transport{
		// No proxy; see newPool.
		Protocols:              protocols,
		DisableKeepAlives:      true,
		DisableCompression:     true, // a cut-off body must still be legible
		DialContext:            ch.connect,
		DialTLSContext:         ch.connectTLS,
		MaxResponseHeaderBytes: maxAnswerHeader,
		// Of each connection, and so of each call.
		WriteBufferSize: callBuffer,
		ReadBufferSize:  callBuffer,
	})
	return ch
}

// connect opens the connection of a call. ctx is not the call's own but keeps
// its values: net/http may go on dialling after a call has been given up, and
// closes what comes of it.
func (ch *createChannel) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	raw, err := ch.open(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &requestConn{raw, raw.meter}, nil
}

// connectTLS shakes hands itself, because only so the meter can tell the bytes
// of the handshake from those of the request.
func (ch *createChannel) connectTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("split %s: %w", addr, err)
	}
	raw, err := ch.open(ctx, network, addr)
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
	raw.meter.written.Store(0)
	return &requestConn{secure, raw.meter}, nil
}

func (ch *createChannel) open(ctx context.Context, network, addr string) (*wireConn, error) {
	m := exchangeOf(ctx).meter
	if !m.deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, m.deadline)
		defer cancel()
	}
	conn, err := ch.dial(ctx, network, addr)
	if err != nil {
		return nil, err // it says "dial tcp" and the address
	}
	if err := conn.SetDeadline(m.deadline); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("set the deadline of the connection: %w", err)
	}
	return &wireConn{conn, m}, nil
}

// observation is all that was seen of one create call, already without the
// key.
type observation struct {
	// err says why there is no answer; status is 0 then.
	err error
	// sent is whether any byte of the request can have left the machine.
	sent   bool
	status int
	header http.Header
	body   []byte
	// bodyErr says why body is not all of it.
	bodyErr   error
	requestID string
	wait      wait
	rate      admission.Rate
}
