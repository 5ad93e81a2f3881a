package hostup

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// wire is a raw server. It counts the connections that were opened to it and
// keeps what was read from them.
type wire struct {
	net.Listener

	mu    sync.Mutex
	conns int
	read  bytes.Buffer
	wg    sync.WaitGroup
}

// newWire serves every connection with f, which gets a reader that records.
func newWire(t testing.TB, f func(c *net.TCPConn, r io.Reader)) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l}
	w.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.conns++
			w.mu.Unlock()
			w.wg.Go(func() {
				defer func() { _ = c.Close() }()
				f(c.(*net.TCPConn), recorder{c, w})
			})
		}
	})
	t.Cleanup(w.stop)
	return w
}

func (w *wire) stop() {
	_ = w.Close()
	w.wg.Wait()
}

type recorder struct {
	io.Reader

	w *wire
}

func (r recorder) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.read.Write(p[:n])
	return n, err
}

func (w *wire) url() string { return "http://" + w.Addr().String() + "/api/v2" }

// take returns what happened since the last take: connections, and the number
// of request lines read.
func (w *wire) take() (conns, requests int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	conns, requests = w.conns, strings.Count(w.read.String(), "POST /")
	w.conns = 0
	w.read.Reset()
	return conns, requests
}

// requestLength is the number of bytes of one create on the wire.
func requestLength(t *testing.T) int {
	t.Helper()
	w := newWire(t, func(c *net.TCPConn, r io.Reader) {
		req, err := http.ReadRequest(bufio.NewReader(r))
		if err == nil {
			_, _ = io.Copy(io.Discard, req.Body)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
		_, _ = io.Copy(io.Discard, r)
	})
	newTestClient(t, Config{BaseURL: w.url()}).Create(callContext(t, time.Minute), anOrder)
	w.stop()
	n := w.read.Len()
	if n < 200 {
		t.Fatalf("the request has %d bytes", n)
	}
	return n
}

// countingDialer counts the bytes that a client hands to the kernel, as a
// witness independent of the meter.
type countingDialer struct{ written, dials atomic.Int64 }

type countedConn struct {
	net.Conn

	d *countingDialer
}

func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.d.written.Add(int64(n))
	return n, err
}

func (d *countingDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.dials.Add(1)
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return countedConn{c, d}, nil
}

// TestCreateCutWhileReadingRequest: the server reads n bytes of the request
// and hangs up, once in an orderly way and once with a reset, for every n.
func TestCreateCutWhileReadingRequest(t *testing.T) {
	t.Parallel()
	total := requestLength(t)
	var cut atomic.Int64
	var reset atomic.Bool
	w := newWire(t, func(c *net.TCPConn, r io.Reader) {
		_, _ = io.CopyN(io.Discard, r, cut.Load())
		if reset.Load() {
			_ = c.SetLinger(0)
		}
	})
	c := newTestClient(t, Config{BaseURL: w.url()})
	witness := &countingDialer{}
	c.create.dial = witness.dial
	for _, hard := range []bool{false, true} {
		reset.Store(hard)
		for n := range total + 1 {
			cut.Store(int64(n))
			before := witness.written.Load()
			a := c.Create(callContext(t, time.Minute), anOrder)
			wrote := witness.written.Load() - before
			conns, requests := w.take()
			if conns > 1 || requests > 1 {
				t.Fatalf("cut after %d: %d connections, %d requests", n, conns, requests)
			}
			if want := verdictOfSilence(wrote); a.Verdict != want {
				t.Errorf("cut after %d, %d bytes written: verdict %q, want %q (%s)", n, wrote, a.Verdict, want, a.Detail)
			}
			if n > 0 && a.Verdict != provision.VerdictUnknown {
				t.Errorf("cut after %d: verdict %q although the server read something", n, a.Verdict)
			}
		}
	}
	if got, want := witness.dials.Load(), int64(2*(total+1)); got != want {
		t.Errorf("%d dials for %d calls", got, want)
	}
}

func verdictOfSilence(wrote int64) provision.Verdict {
	if wrote == 0 {
		return provision.VerdictNeverSent
	}
	return provision.VerdictUnknown
}

// TestCreateCutWhileWritingResponse: the server reads the whole request and
// hangs up after m bytes of a complete answer, for every m.
func TestCreateCutWhileWritingResponse(t *testing.T) {
	t.Parallel()
	answer := fmt.Sprintf("HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(createdBody), createdBody)
	var cut atomic.Int64
	w := newWire(t, func(c *net.TCPConn, r io.Reader) {
		req, err := http.ReadRequest(bufio.NewReader(r))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(c, answer[:cut.Load()])
	})
	c := newTestClient(t, Config{BaseURL: w.url()})
	idKnown := strings.Index(answer, `vps_01hxa3b4"`) + len(`vps_01hxa3b4"`)
	for m := range len(answer) + 1 {
		cut.Store(int64(m))
		a := c.Create(callContext(t, time.Minute), anOrder)
		if conns, requests := w.take(); conns != 1 || requests != 1 {
			t.Fatalf("cut after %d: %d connections, %d requests", m, conns, requests)
		}
		want := provision.VerdictUnknown
		if m == len(answer) {
			want = provision.VerdictCreated
		}
		if a.Verdict != want {
			t.Errorf("cut after %d of %d: verdict %q, want %q (%s)", m, len(answer), a.Verdict, want, a.Detail)
		}
		if got := a.VPSID != ""; got != (m >= idKnown) {
			t.Errorf("cut after %d: vpsId %q", m, a.VPSID)
		}
	}
}

// TestCreateFollowsNothing: no answer makes the client send a second request,
// to the same or any other address.
func TestCreateFollowsNothing(t *testing.T) {
	t.Parallel()
	ok := fmt.Sprintf("HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s", len(createdBody), createdBody)
	answers := map[string]struct {
		text string
		want provision.Verdict
	}{
		"continue":   {"HTTP/1.1 100 Continue\r\n\r\n" + ok, provision.VerdictCreated},
		"earlyHints": {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ok, provision.VerdictCreated},
		"switching":  {"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", provision.VerdictUnknown},
		"onlyHints":  {"HTTP/1.1 103 Early Hints\r\n\r\n", provision.VerdictUnknown},
		"endless":    {strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", maxAnswerHeader/40) + ok, provision.VerdictUnknown},
		"longHeader": {strings.Replace(ok, "\r\n", "\r\nX: "+strings.Repeat("x", maxAnswerHeader)+"\r\n", 1), provision.VerdictUnknown},
		"garbage":    {"SSH-2.0-OpenSSH_9.6\r\n", provision.VerdictUnknown},
		"keepAlive":  {strings.Replace(ok, "\r\n", "\r\nConnection: keep-alive\r\nKeep-Alive: timeout=60\r\n", 1), provision.VerdictCreated},
		"twoAnswers": {ok + ok, provision.VerdictCreated},
		"h2Preface":  {"\x00\x00\x12\x04\x00\x00\x00\x00\x00", provision.VerdictUnknown},
		"retryLater": {"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n", provision.VerdictUnknown},
		"timeout":    {"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", provision.VerdictUnknown},
		"misdirect":  {"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n", provision.VerdictRefused},
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		answers[strconv.Itoa(status)] = struct {
			text string
			want provision.Verdict
		}{fmt.Sprintf("HTTP/1.1 %d Moved\r\nLocation: %%s/elsewhere\r\nContent-Length: 0\r\n\r\n", status), provision.VerdictUnknown}
	}
	for name, tc := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w *wire
			ready := make(chan struct{})
			w = newWire(t, func(c *net.TCPConn, r io.Reader) {
				<-ready
				req, err := http.ReadRequest(bufio.NewReader(r))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(c, strings.ReplaceAll(tc.text, "%s", w.url()))
			})
			close(ready)
			c := newTestClient(t, Config{BaseURL: w.url()})
			a := c.Create(callContext(t, time.Minute), anOrder)
			if a.Verdict != tc.want {
				t.Errorf("verdict %q, want %q (%s)", a.Verdict, tc.want, a.Detail)
			}
			w.stop()
			if conns, requests := w.take(); conns != 1 || requests != 1 {
				t.Errorf("%d connections, %d requests", conns, requests)
			}
		})
	}
}
