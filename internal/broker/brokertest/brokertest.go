// Package brokertest gives every test a JetStream of its own on a real
// nats-server: never a fake.
//
// There are two lanes, chosen by the environment variable TEST_NATS:
//
//   - unset or "process": a nats-server inside the test process, one per
//     [Start], with its store in the test's temporary directory. It starts in
//     milliseconds and can be stopped and restarted.
//   - "container": one nats-server container per test binary, started through
//     testcontainers on the first [Start]. Each Start hands out the next of its
//     accounts, so that tests which use the same stream names do not meet.
//
// A package that uses it has one line in a test file, because a container must
// end with the binary that started it:
//
//	func TestMain(m *testing.M) { os.Exit(brokertest.Main(m)) }
//
// With REQUIRE_DOCKER=1 a container lane without a Docker engine fails; without
// that variable its tests are skipped and say so. TEST_NATS_IMAGE names an image
// to use; without it the image is built from the nats-server module that go.mod
// pins, so that no registry is needed.
//
// What it knows of Docker, such as images made of nothing but a program and the
// removal of what killed runs left, serves other tests in containers too.
//
// The package is for tests only and must not be imported by any other code. Of
// this module it imports proctest alone.
package brokertest

import (
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// DefaultMaxPayload is the largest message of a server started without
// [WithMaxPayload], in both lanes.
const DefaultMaxPayload = 8 << 20

// What waiting for a server may take on a machine that is busy with other
// tests. Reaching one of these fails the test.
const (
	startTimeout   = 30 * time.Second
	connectTimeout = 10 * time.Second
)

// Server is the broker of one test: a JetStream with no streams in it.
type Server struct {
	// URL is all that a client needs to connect; it holds user and password
	// where the server asks for them.
	URL string

	process *process // nil in the container lane
}

// Option changes what [Start] starts.
type Option func(*options)

type options struct {
	maxPayload int32
	adjust     []func(*server.Options)
}

// needsProcess says why a container shared with other tests cannot be what was
// asked for, or "".
func (o *options) needsProcess() string {
	switch {
	case len(o.adjust) > 0:
		return "it sets options of the server"
	case o.maxPayload != DefaultMaxPayload:
		return "it sets the server's max_payload"
	default:
		return ""
	}
}

// WithMaxPayload sets the largest message that the server takes, in bytes. A
// test that uses it with anything but [DefaultMaxPayload] needs a server of its
// own, see [NeedsProcess].
func WithMaxPayload(bytes int32) Option {
	return func(o *options) { o.maxPayload = bytes }
}

// WithServerOptions lets a test change any option of its server, for example to
// ask for credentials or TLS. Such a test needs a server of its own, see
// [NeedsProcess]. It runs again at every [Server.Restart].
func WithServerOptions(adjust func(*server.Options)) Option {
	return func(o *options) { o.adjust = append(o.adjust, adjust) }
}

// Start gives t an isolated and empty JetStream, which ends with t.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()

	o := &options{maxPayload: DefaultMaxPayload}
	for _, opt := range opts {
		opt(o)
	}

	if !inContainer() {
		p := startProcess(t, o)

		return &Server{URL: p.url, process: p}
	}

	if reason := o.needsProcess(); reason != "" {
		needsProcess(t, reason)
	}

	return &Server{URL: nextAccount(t)}
}

// Stop shuts the server down and waits for its end, as a broker that goes away
// cleanly: clients see the connection close. Its store stays for
// [Server.Restart]. It may be called twice. The test must have called
// [NeedsProcess].
func (s *Server) Stop() {
	s.mustBeProcess("Stop")
	s.process.stop()
}

// Restart stops the server, unless it is stopped already, and starts it again
// on the same port with the same store. When it returns the server answers, and
// clients are about to reconnect. The test must have called [NeedsProcess].
func (s *Server) Restart() {
	s.mustBeProcess("Restart")
	s.process.restart()
}

func (s *Server) mustBeProcess(method string) {
	if s.process == nil {
		panic("brokertest: " + method + " on a container that other tests use too: call NeedsProcess first")
	}
}

// NeedsProcess says that t does something to its server that a container shared
// with other tests cannot bear, such as stopping it. In the container lane t is
// skipped with that reason, counted and printed by [Main]; in the other lane it
// does nothing.
func NeedsProcess(t testing.TB) {
	t.Helper()

	if inContainer() {
		needsProcess(t, "it stops or restarts its server")
	}
}

// Connect gives t a connection to srv, closed at the end of t.
func Connect(t testing.TB, srv *Server, opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()

	closed := make(chan struct{})
	all := append([]nats.Option{
		nats.Name(t.Name()),
		nats.Timeout(connectTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(10 * time.Millisecond),
		nats.ReconnectJitter(0, 0),
	}, opts...)
	// Last, because the wait below depends on it.
	all = append(all, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))

	nc, err := nats.Connect(srv.URL, all...)
	if err != nil {
		t.Fatalf("brokertest: connect to %s: %v", srv.URL, err)
	}

	t.Cleanup(func() {
		nc.Close()

		// Closing is over when the handler has run; only then are the
		// connection's goroutines gone.
		select {
		case <-closed:
		case <-time.After(connectTimeout):
			t.Errorf("brokertest: the connection did not close within %v", connectTimeout)
		}
	})

	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("brokertest: jetstream: %v", err)
	}

	return nc, js
}

// inContainer tells which lane this run is. An unknown one panics: a typing
// mistake must not quietly run the other lane.
func inContainer() bool {
	switch lane := os.Getenv("TEST_NATS"); lane {
	case "", "process":
		return false
	case "container":
		return true
	default:
		panic(`brokertest: TEST_NATS is "` + lane + `"; it may be "process" or "container"`)
	}
}
