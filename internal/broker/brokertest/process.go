package brokertest

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// What JetStream may store. It is an accounting limit against which the server
// checks what streams reserve; set, because the server's own default follows
// the free disk space of the machine, and tests must not.
const (
	maxStore  = 1 << 40
	maxMemory = 1 << 32
)

// errNotReady says that a server did not listen within startTimeout.
var errNotReady = errors.New("the server does not take connections")

// process is a nats-server inside the test process.
type process struct {
	t       testing.TB
	options *options
	store   string
	url     string

	mu   sync.Mutex
	port int // 0 until the first start chose one
	srv  *server.Server
}

func startProcess(t testing.TB, o *options) *process {
	t.Helper()

	p := &process{t: t, options: o, store: t.TempDir()}

	if err := p.start(); err != nil {
		t.Fatalf("brokertest: start: %v", err)
	}

	t.Cleanup(p.stop)

	return p
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()

	o := &server.Options{
		Host:               "127.0.0.1",
		Port:               p.port,
		NoSigs:             true,
		NoLog:              true,
		MaxPayload:         p.options.maxPayload,
		MaxPending:         max(server.MAX_PENDING_SIZE, 2*int64(p.options.maxPayload)),
		JetStream:          true,
		JetStreamMaxStore:  maxStore,
		JetStreamMaxMemory: maxMemory,
		StoreDir:           p.store,
	}
	if p.port == 0 {
		o.Port = server.RANDOM_PORT
	}

	for _, adjust := range p.options.adjust {
		adjust(o)
	}

	srv, err := server.NewServer(o)
	if err != nil {
		return err
	}

	fatal := make(fatalLogger, 1)
	srv.SetLoggerV2(fatal, false, false, false)
	srv.Start()

	err = fatal.wait(srv)

	addr, ok := srv.Addr().(*net.TCPAddr)
	if err == nil && !ok {
		err = errNotReady
	}

	if err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()

		return err
	}

	p.srv, p.port = srv, addr.Port
	p.url = "nats://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port))

	return nil
}

func (p *process) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.srv == nil {
		return
	}

	p.srv.Shutdown()
	p.srv.WaitForShutdown()
	p.srv = nil
}

func (p *process) restart() {
	p.t.Helper()
	p.stop()

	// Between the two another process may hold the port for a moment, for
	// example as the source port of an outgoing connection.
	deadline := time.Now().Add(startTimeout)

	for {
		err := p.start()
		if err == nil {
			return
		}

		if time.Now().After(deadline) {
			p.t.Errorf("brokertest: restart at %s: %v", p.url, err)

			return
		}
	}
}

// fatalLogger drops everything a server logs but the reason for which the
// program nats-server would exit, such as a port that is taken. Without it such
// a server just never listens.
type fatalLogger chan string

var _ server.Logger = fatalLogger(nil)

func (l fatalLogger) Fatalf(format string, v ...any) {
	select {
	case l <- fmt.Sprintf(format, v...):
	default: // the first reason is the one that counts
	}
}

func (fatalLogger) Noticef(string, ...any) {}
func (fatalLogger) Warnf(string, ...any)   {}
func (fatalLogger) Errorf(string, ...any)  {}
func (fatalLogger) Debugf(string, ...any)  {}
func (fatalLogger) Tracef(string, ...any)  {}

// wait returns when srv takes connections or has said why it never will.
func (l fatalLogger) wait(srv *server.Server) error {
	ready := make(chan bool, 1)
	go func() { ready <- srv.ReadyForConnections(startTimeout) }()

	select {
	case reason := <-l:
		// ReadyForConnections ends early once the server is shut down.
		srv.Shutdown()
		<-ready

		return fmt.Errorf("%w: %s", errNotReady, reason)
	case ok := <-ready:
		if !ok {
			return fmt.Errorf("%w within %v", errNotReady, startTimeout)
		}

		return nil
	}
}
