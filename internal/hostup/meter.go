package hostup

import (
	"net"
	"os"
	"sync/atomic"
	"time"
)

// meter watches the one connection of one create call. It is the evidence for
// "never sent", and it keeps the promise that nothing is written after the
// deadline.
type meter struct {
	// deadline ends the call; zero for none.
	deadline time.Time
	// offered counts the request bytes that were tried to be written, written
	// the bytes that reached the kernel since the connection was established
	// (below TLS). While a write is going on it counts in full.
	offered atomic.Int64
	written atomic.Int64
	sealed  atomic.Bool
	heard   atomic.Bool
}

// seal stops all writing. A write that has begun before it is counted by sent,
// one that begins after it is refused; there is no third.
func (m *meter) seal() { m.sealed.Store(true) }

// sent reports whether any byte of a request can have left. It is final after
// seal.
//
// Both counts are needed. Below TLS a closing alert counts although no request
// was offered; above TLS a request that was offered may not have been written.
func (m *meter) sent() bool { return m.offered.Load() > 0 && m.written.Load() > 0 }

// over reports whether the deadline has passed on either clock. The monotonic
// one stands still while a machine is suspended, the other one may be set.
func (m *meter) over() bool {
	if m.deadline.IsZero() {
		return false
	}
	now := time.Now()
	return !now.Before(m.deadline) || !now.Round(0).Before(m.deadline.Round(0))
}

// begin counts n bytes that are about to be written, or refuses them. It looks
// at the clock itself: a process that was stopped and continued may get here
// before the runtime has noticed that the deadline has passed.
func (m *meter) begin(count *atomic.Int64, n int) error {
	count.Add(int64(n))
	if m.sealed.Load() || m.over() {
		count.Add(-int64(n))
		return os.ErrDeadlineExceeded
	}
	return nil
}

// requestConn is what the request is written to, above TLS. It also knows whether the
// server has begun to answer; below TLS a session ticket would look like it.
type requestConn struct {
	net.Conn

	meter *meter
}

// Write counts what was tried: an error of TLS does not tell how much of it
// went out.
func (c *requestConn) Write(p []byte) (int, error) {
	if err := c.meter.begin(&c.meter.offered, len(p)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p) // its type is the error.type of the call
}

func (c *requestConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.meter.heard.Store(true)
	}
	return n, err // a reader compares io.EOF by identity
}

// wireConn is the connection below TLS.
type wireConn struct {
	net.Conn

	meter *meter
}

// Write counts what the kernel took.
func (c *wireConn) Write(p []byte) (int, error) {
	if err := c.meter.begin(&c.meter.written, len(p)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	c.meter.written.Add(int64(n - len(p)))
	return n, err // crypto/tls expects it bare
}

// Close throws away what the kernel has not delivered yet, unless the server
// has begun to answer. Otherwise the kernel would go on to deliver the request
// for minutes after the deadline, should a broken network mend.
func (c *wireConn) Close() error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok && !c.meter.heard.Load() {
		_ = tcp.SetLinger(0)
	}
	return c.Conn.Close()
}
