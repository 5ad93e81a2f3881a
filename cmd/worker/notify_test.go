package main

import (
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// manager is a service manager that listens as systemd does.
type manager struct {
	t    *testing.T
	path string

	mu    sync.Mutex
	heard []string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{t: t, path: filepath.Join(t.TempDir(), "s")}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, err := socket.Read(buffer)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.heard = append(m.heard, strings.Split(string(buffer[:n]), "\n")...)
			m.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = socket.Close()
		listening.Wait()
	})
	return m
}

// count is how many lines begin with this.
func (m *manager) count(prefix string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, line := range m.heard {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

func (m *manager) hears(prefix string) {
	m.t.Helper()
	eventually(m.t, "the service manager hears "+prefix, func() bool { return m.count(prefix) > 0 })
}

// A service manager hears what the worker waits for, that it is ready when it
// takes orders and not before, that it lives, and that it ends.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)

	w := newWorld(t, simulator.Config{})
	w.setup()
	w.srv.Stop()
	m := newManager(t)
	p := w.unready("NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=3000000")
	m.hears("STATUS=nats: RECONNECTING; consumer: DEPLOY/deploy-worker is not bound")
	m.hears("WATCHDOG=1")
	equal(t, "ready without a broker", m.count("READY=1"), 0)
	w.restart()
	m.hears("READY=1")
	m.hears("STATUS=takes orders")
	// A brake is no reason to start the worker anew.
	equal(t, "exit code of pause", command(t, w.env, "pause", "--reason", "lunch").code, exitDone)
	m.hears("STATUS=brake: creates were paused")
	before := m.count("WATCHDOG=1")
	eventually(t, "the watchdog is fed", func() bool { return m.count("WATCHDOG=1") > before+1 })
	p.signal(syscall.SIGTERM)
	m.hears("STOPPING=1")
	equal(t, "exit code", p.exit(), exitDone)
	equal(t, "times it was ready", m.count("READY=1"), 1)
}

func TestServiceManagerIsNotThere(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	r := command(t, w.with("NOTIFY_SOCKET=/nowhere"), "run")
	equal(t, "exit code without the socket", r.code, exitFailed)
	r = command(t, w.with("NOTIFY_SOCKET="+newManager(t).path, "WATCHDOG_USEC=soon"), "run")
	equal(t, "exit code with a bad span", r.code, exitFailed)
	if !strings.Contains(r.err, `WATCHDOG_USEC="soon"`) {
		t.Error(r.err)
	}
	// A watchdog that is meant for another process is not fed.
	m := newManager(t)
	w.worker("NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=100000", "WATCHDOG_PID=1")
	m.hears("READY=1")
	equal(t, "WATCHDOG=1", m.count("WATCHDOG=1"), 0)
}

// A worker that starts under a brake, or with a key that is refused, is up.
func TestReadyUnderABrake(t *testing.T) {
	t.Parallel()

	for name, ready := range map[string]bool{checkBrake: true, checkAuth: true, "nats": false, "consumer": false, "fleet": false, "draining": false} {
		m := newManager(t)
		s, err := managed(t.Context(), func(variable string) (string, bool) { return m.path, variable == "NOTIFY_SOCKET" })
		if err != nil {
			t.Fatal(err)
		}
		s.tell([]check{{Name: name, Detail: "is not so"}})
		m.hears("STATUS=" + name + ": is not so")
		equal(t, "ready with "+name, m.count("READY=1") == 1, ready)
		_ = s.socket.Close()
	}
}
