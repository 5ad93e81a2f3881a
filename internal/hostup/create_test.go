package hostup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// TestCreateReusesNothing: two calls use two connections even if the server
// would keep the first one open.
func TestCreateReusesNothing(t *testing.T) {
	t.Parallel()
	var conns, calls atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		respond(http.StatusCreated, "application/json", createdBody)(w, nil)
	}))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	c := newTestClient(t, Config{BaseURL: s.URL})
	for range 5 {
		if a := c.Create(callContext(t, time.Minute), anOrder); a.Verdict != provision.VerdictCreated {
			t.Fatal(a.Detail)
		}
	}
	if conns.Load() != 5 || calls.Load() != 5 {
		t.Errorf("%d connections, %d requests for 5 calls", conns.Load(), calls.Load())
	}
}

func TestCreateRequest(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	c := serve(t, Config{UserAgent: "worker/1.2"}, func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.WithoutCancel(r.Context()))
		body, _ = io.ReadAll(r.Body)
		respond(http.StatusCreated, "application/json", createdBody)(w, r)
	})
	a := c.Create(callContext(t, time.Minute), anOrder)
	want := provision.Answer{
		Verdict: provision.VerdictCreated, Status: 201, Detail: "201: created vps_01hxa3b4",
		VPSID: "vps_01hxa3b4", OrderID: "ord_01hxa3b4", InvoiceID: "inv_01hxa3b4",
	}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	if wantBody := `{"name":"web-01","cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm"}`; string(body) != wantBody {
		t.Errorf("body %s, want %s", body, wantBody)
	}
	if line := got.Method + " " + got.RequestURI + " " + got.Proto; line != "POST /api/v2/vps/payg/deployments HTTP/1.1" {
		t.Errorf("request line %q", line)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer " + testKey, "Content-Type": "application/json", "User-Agent": "worker/1.2",
		"Accept": "application/json, application/problem+json", "Idempotency-Key": "", "X-Idempotency-Key": "", "Accept-Encoding": "",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
}

func TestCreateNeverSent(t *testing.T) {
	t.Parallel()
	closed := newWire(t, func(*net.TCPConn, io.Reader) {})
	closed.stop()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	deaf := newWire(t, func(_ *net.TCPConn, r io.Reader) { _, _ = io.Copy(io.Discard, r) })
	ended, cancel := context.WithCancel(t.Context())
	cancel()

	for name, tc := range map[string]struct {
		cfg  Config
		ctx  context.Context
		dial func(context.Context, string, string) (net.Conn, error)
	}{
		"refused":        {cfg: Config{BaseURL: closed.url()}},
		"untrusted":      {cfg: Config{BaseURL: secure.URL}},
		"not TLS":        {cfg: Config{BaseURL: "https://" + deaf.Addr().String()}, ctx: callContext(t, 50*time.Millisecond)},
		"ended before":   {cfg: Config{BaseURL: deaf.url()}, ctx: ended},
		"no key":         {cfg: Config{BaseURL: deaf.url(), Token: TokenFile(t.TempDir() + "/none")}},
		"no such host":   {cfg: Config{BaseURL: deaf.url()}, dial: failingDial(&net.DNSError{Err: "no such host", Name: "cloud.hostup.se", IsNotFound: true})},
		"dial timeout":   {cfg: Config{BaseURL: deaf.url()}, dial: failingDial(context.DeadlineExceeded)},
		"write refused":  {cfg: Config{BaseURL: deaf.url()}, dial: brokenWrites(0)},
		"resource limit": {cfg: Config{BaseURL: deaf.url()}, dial: failingDial(syscall.EMFILE)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestClient(t, tc.cfg)
			if tc.dial != nil {
				c.create.dial = tc.dial
			}
			ctx := tc.ctx
			if ctx == nil {
				ctx = callContext(t, time.Minute)
			}
			a := c.Create(ctx, anOrder)
			if a.Verdict != provision.VerdictNeverSent || a.Status != 0 || a.Problem != nil || a.Detail == "" {
				t.Errorf("answer %+v", a)
			}
		})
	}
}

func failingDial(err error) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
}

// brokenWrites dials connections that take n bytes and then fail.
func brokenWrites(n int) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return shortConn{c, n}, nil
	}
}

type shortConn struct {
	net.Conn

	n int
}

func (c shortConn) Write(p []byte) (int, error) {
	n, _ := c.Conn.Write(p[:min(c.n, len(p))])
	return n, syscall.EPIPE
}

// TestCreatePartWritten: one byte is enough to be unknown.
func TestCreatePartWritten(t *testing.T) {
	t.Parallel()
	deaf := newWire(t, func(_ *net.TCPConn, r io.Reader) { _, _ = io.Copy(io.Discard, r) })
	c := newTestClient(t, Config{BaseURL: deaf.url()})
	c.create.dial = brokenWrites(1)
	if a := c.Create(callContext(t, time.Minute), anOrder); a.Verdict != provision.VerdictUnknown {
		t.Errorf("answer %+v", a)
	}
}

// TestCreateIsOneWrite: header and body leave together, also from below a tracing
// layer, which hides that the body is at hand.
func TestCreateIsOneWrite(t *testing.T) {
	t.Parallel()
	var writes atomic.Int64
	c := serve(t, Config{TracerProvider: trace.NewTracerProvider()}, respond(http.StatusCreated, "application/json", createdBody))
	c.create.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return writingConn{conn, &writes}, err
	}
	if a := c.Create(callContext(t, time.Minute), anOrder); a.Verdict != provision.VerdictCreated || writes.Load() != 1 {
		t.Errorf("%d writes, answer %+v", writes.Load(), a)
	}
}

type writingConn struct {
	net.Conn

	writes *atomic.Int64
}

func (c writingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// TestCreateOverTLS: the bytes of the handshake are no request, and the
// channel speaks HTTP/1.1 to a server that offers HTTP/2.
func TestCreateOverTLS(t *testing.T) {
	t.Parallel()
	var proto string
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proto = r.Proto
		respond(http.StatusCreated, "application/json", createdBody)(w, r)
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.StartTLS()
	defer s.Close()
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c := newTestClient(t, Config{BaseURL: s.URL, RootCAs: roots})
	if a := c.Create(callContext(t, time.Minute), anOrder); a.Verdict != provision.VerdictCreated {
		t.Errorf("answer %+v", a)
	}
	if proto != "HTTP/1.1" {
		t.Errorf("protocol %s", proto)
	}
	// A connection that is established and fails before the request: the
	// meter must not take the handshake for a request.
	c.create.dial = failingAfterHandshake
	a := c.Create(callContext(t, time.Minute), anOrder)
	if a.Verdict != provision.VerdictNeverSent || strings.Contains(a.Detail, "handshake") {
		t.Errorf("answer %+v", a)
	}
	// Part of a record is no request to anybody, but it is not nothing.
	c.create.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := failingAfterHandshake(ctx, network, addr)
		if err == nil {
			conn.(*limitedConn).part = 10
		}
		return conn, err
	}
	if a := c.Create(callContext(t, time.Minute), anOrder); a.Verdict != provision.VerdictUnknown {
		t.Errorf("answer %+v", a)
	}
}

// failingAfterHandshake takes the client's two flights (hello, finished) and
// fails every later write.
func failingAfterHandshake(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &limitedConn{Conn: c, left: 2}, nil
}

// limitedConn takes some writes as a whole, and then a part of each.
type limitedConn struct {
	net.Conn

	left, part int
}

func (c *limitedConn) Write(p []byte) (int, error) {
	if c.left--; c.left < 0 {
		n, _ := c.Conn.Write(p[:min(c.part, len(p))])
		return n, syscall.ECONNRESET
	}
	return c.Conn.Write(p)
}

// TestCreateDeadline: an answer that does not come is unknown at the deadline,
// and the connection is reset so that the kernel delivers nothing later.
func TestCreateDeadline(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	w := newWire(t, func(_ *net.TCPConn, r io.Reader) {
		_, err := io.Copy(io.Discard, r)
		ended <- err
	})
	c := newTestClient(t, Config{BaseURL: w.url()})
	// Long enough for a busy machine to have written the request by then.
	a := c.Create(callContext(t, 5*time.Second), anOrder)
	if a.Verdict != provision.VerdictUnknown || a.Answered || a.Status != 0 {
		t.Fatalf("answer %+v", a)
	}
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset", err)
	}
}

// TestCreateGivenUp: a call whose context ends before its deadline ends with it,
// and what became of the request is unknown.
func TestCreateGivenUp(t *testing.T) {
	t.Parallel()
	read, ended := make(chan struct{}), make(chan error, 1)
	w := newWire(t, func(_ *net.TCPConn, r io.Reader) {
		_, _ = io.ReadFull(r, make([]byte, 100))
		close(read)
		_, err := io.Copy(io.Discard, r)
		ended <- err
	})
	c := newTestClient(t, Config{BaseURL: w.url()})
	ctx, giveUp := context.WithCancel(callContext(t, time.Hour))
	go func() { <-read; giveUp() }()
	a := c.Create(ctx, anOrder)
	if a.Verdict != provision.VerdictUnknown || !strings.Contains(a.Detail, context.Canceled.Error()) {
		t.Errorf("answer %+v", a)
	}
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset", err)
	}
}

func TestMeterRefusesWrites(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*meter){
		"sealed":   func(m *meter) { m.seal() },
		"deadline": func(m *meter) { m.deadline = time.Now().Add(-time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here, there := net.Pipe()
			defer func() { _ = there.Close() }()
			m := &meter{}
			prepare(m)
			go func() { _, _ = io.Copy(io.Discard, there) }()
			c := &requestConn{&wireConn{here, m}, m}
			if n, err := c.Write([]byte("POST")); n != 0 || err == nil {
				t.Errorf("wrote %d, %v", n, err)
			}
			m.seal()
			if m.sent() {
				t.Error("a refused write counts as sent")
			}
			_ = c.Close()
		})
	}
}

// TestCreateLargeAnswer: an answer above the bound is unknown, its id kept.
func TestCreateLargeAnswer(t *testing.T) {
	t.Parallel()
	c := serve(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"vpsId":"vps_big","pad":"`)
		_, _ = w.Write(bytes.Repeat([]byte("x"), maxAnswer))
		_, _ = io.WriteString(w, `"}`)
	})
	a := c.Create(callContext(t, time.Minute), anOrder)
	if a.Verdict != provision.VerdictUnknown || a.VPSID != "vps_big" {
		t.Errorf("verdict %q, vpsId %q: %s", a.Verdict, a.VPSID, a.Detail)
	}
	if !json.Valid(a.Problem) || len(a.Problem) > 2*maxDetail {
		t.Errorf("problem of %d bytes", len(a.Problem))
	}
}
