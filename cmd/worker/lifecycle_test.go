package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// The first signal finishes what is in hand, also a create that HostUp takes
// its time for.
func TestSignalDrains(t *testing.T) {
	t.Parallel()

	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, simulator.Config{})
			p := w.worker()
			const name = "fault-slow-300ms-a"
			w.place(order("in-flight", name))
			eventually(t, "the create is in flight", func() bool { return len(w.creates(name)) == 1 })
			p.signal(s)
			equal(t, "exit code", p.exit(), exitDone)
			e := one(t, w, "in-flight")
			equal(t, "event", e.kind, "provisioning")
			equal(t, "servers", w.bought()[name], 1)
			w.queue(0)
			if !strings.Contains(p.err.String(), "worker stopped") {
				t.Error("the log does not say that the worker stopped")
			}
		})
	}
}

// What waits is handed back at once: a drain does not take as long as the
// longest pause.
//
//nolint:tparallel // one try after the other
func TestSignalWhileThrottled(t *testing.T) {
	t.Parallel()

	inTime(t, 3*time.Second, func(t *testing.T, room time.Duration) bool {
		t.Helper()
		w := newWorld(t, simulator.Config{})
		p := w.worker("WORKER_INLINE_WAIT=10m")
		name := fmt.Sprintf("fault-429-retry-after-%d-x1-a", int(room.Seconds()))
		w.place(order("waiting", name))
		eventually(t, "it is throttled", func() bool { c := w.creates(name); return len(c) > 0 && c[0].Outcome == "429" })
		p.signal(syscall.SIGTERM)
		equal(t, "exit code", p.exit(), exitDone)
		c := w.creates(name)
		if time.Since(c[0].At) >= room {
			return false
		}
		equal(t, "create calls", len(c), 1)
		// The next process keeps the promise that this one gave.
		w.worker()
		w.created("waiting")
		c = w.creates(name)
		if c[1].At.Before(c[0].At.Add(room)) {
			t.Errorf("the new process sent a create %s after the 429, want %s", c[1].At.Sub(c[0].At), room)
		}
		return true
	})
}

func TestSecondSignal(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	p := w.worker()
	w.place(order("hanging", "fault-hang-a"))
	eventually(t, "the create hangs", func() bool { return len(w.sim.Creates()) == 1 })
	p.signal(syscall.SIGTERM)
	if body := p.ready(http.StatusServiceUnavailable); !strings.Contains(body, `"draining","ok":false`) {
		t.Errorf("/readyz does not say that it drains: %s", body)
	}
	if status, _ := p.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz is %d while draining, want 200", status)
	}
	p.signal(syscall.SIGINT)
	equal(t, "exit code", p.exit(), exitInterrupted)
}

// A create that hangs ends at HOSTUP_CREATE_TIMEOUT, and the drain with it.
func TestDrainWaitsForTheCreateTimeout(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	// What became of the call is not found out before the signal, nor waited for
	// on the broker.
	p := w.worker("HOSTUP_CREATE_TIMEOUT=1s", "WORKER_DRAIN_TIMEOUT=20s", "WORKER_SETTLE_UNANSWERED=10m", "WORKER_INLINE_WAIT=1h")
	w.place(order("hanging", "fault-hang-x1-a"))
	eventually(t, "the create hangs", func() bool { return len(w.sim.Creates()) == 1 })
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
	equal(t, "create calls", len(w.sim.Creates()), 1)
	equal(t, "state", w.record("hanging").text("state"), "unknown")
	// The next process finds out that nothing was created.
	w.worker()
	e := w.created("hanging")
	equal(t, "attempts", e.at("attempts"), any(2.0))
	equal(t, "adopted", e.at("adopted"), any(false))
	equal(t, "servers", len(w.sim.Invoices()), 1)
}

func TestWithoutBroker(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)

	w := newWorld(t, simulator.Config{})
	w.srv.Stop()
	p := w.unready()
	var body string
	if body = p.ready(http.StatusServiceUnavailable); !strings.Contains(body, `"nats","ok":false`) {
		t.Errorf("/readyz does not name nats: %s", body)
	}
	if status, _ := p.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz is %d, want 200", status)
	}
	w.restart()
	p.ready(http.StatusOK)
	w.place(order("patient", "patient"))
	w.created("patient")

	// And when it goes away under a worker that was ready.
	w.srv.Stop()
	p.ready(http.StatusServiceUnavailable)
	if status, _ := p.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz is %d, want 200", status)
	}
	w.restart()
	p.ready(http.StatusOK)
	w.place(order("patient-2", "patient-2"))
	w.created("patient-2")
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
}

// A worker that never found its broker ends when it is told to.
func TestSignalWithoutBroker(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	for _, provision := range []string{"true", "false"} {
		p := w.unready("NATS_URL=nats://127.0.0.1:1", "WORKER_PROVISION="+provision)
		p.signal(syscall.SIGTERM)
		equal(t, "exit code with WORKER_PROVISION="+provision, p.exit(), exitDone)
	}
}

func TestStreamsAreMissing(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	r := command(t, w.with("WORKER_PROVISION="), "run")
	equal(t, "exit code", r.code, exitFailed)
	for _, want := range []string{"DEPLOY", "worker setup", "--provision"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("the message does not say %q", want)
		}
	}
	// The same with the flag instead of the variable, and then for good.
	p := start(t, w.with("WORKER_PROVISION="), "run", "--provision").listening()
	p.ready(http.StatusOK)
	w.place(order("order-1", "order-1"))
	w.created("order-1")
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
	if r := command(t, w.env, "setup", "--dry-run"); strings.Contains(r.out, "create") || strings.Contains(r.out, "update") {
		t.Error("--provision made something else than setup makes")
	}
}

func TestAdminPages(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	p := w.worker()
	status, body := p.get("/version")
	equal(t, "/version", status, http.StatusOK)
	for _, want := range []string{`"version"`, `"commit"`, `"go"`} {
		if !strings.Contains(body, want) {
			t.Errorf("/version lacks %s: %s", want, body)
		}
	}
	if _, body := p.get("/readyz"); !strings.Contains(body, `"ready":true`) || !strings.Contains(body, `"checks":[`) {
		t.Errorf("/readyz is %s", body)
	}
	status, _ = p.get("/nothing")
	equal(t, "an unknown page", status, http.StatusNotFound)
	// The address is taken: say which variable to change.
	r := command(t, w.with("WORKER_ADMIN_ADDR="+strings.TrimPrefix(p.admin, "http://")), "run")
	equal(t, "exit code", r.code, exitFailed)
	if !strings.Contains(r.err, "WORKER_ADMIN_ADDR") {
		t.Error("the message does not name WORKER_ADMIN_ADDR")
	}
	// Empty turns it off.
	env := w.with()
	env["WORKER_ADMIN_ADDR"] = ""
	off := start(t, env, "run")
	off.sees(`"admin":""`)
	off.signal(syscall.SIGTERM)
	equal(t, "exit code", off.exit(), exitDone)
}

// `run --dev` needs nothing, names what it started, and leaves nothing behind.
func TestDevelopmentMode(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	temp := t.TempDir()
	p := start(t, map[string]string{"NATS_URL": "nats://127.0.0.1:0", "WORKER_ADMIN_ADDR": "127.0.0.1:0", "TMPDIR": temp}, "run", "--dev").listening()
	p.ready(http.StatusOK)
	var address, api string
	for line := range strings.Lines(p.err.String()) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == "NATS" {
			address = f[1]
		}
		if len(f) > 2 && f[0] == "HostUp" {
			api = f[2]
		}
	}
	if address == "" || api == "" {
		t.Fatal("the greeting does not name NATS and the API")
	}
	w := &world{t: t, srv: &brokertest.Server{URL: address}}
	w.nc, w.js = brokertest.Connect(t, w.srv)
	w.place(order("dev-1", "dev-1"))
	w.created("dev-1")
	if status, body := get(t, api+"/_sim/invoices"); status != http.StatusOK || strings.Count(body, `"dev-1"`) != 1 {
		t.Errorf("%s/_sim/invoices says %d %s", api, status, body)
	}
	p.signal(syscall.SIGINT)
	equal(t, "exit code", p.exit(), exitDone)
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if p.out.String() != "" {
		t.Errorf("stdout has %q; it belongs to results", p.out.String())
	}
}

// A port that is in use is said at once, with what to do.
func TestDevelopmentPortInUse(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	taken := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(taken.Close)
	address := strings.TrimPrefix(taken.URL, "http://")
	r := command(t, map[string]string{"NATS_URL": "nats://" + address, "WORKER_ADMIN_ADDR": "127.0.0.1:0"}, "run", "--dev")
	equal(t, "exit code", r.code, exitUsage)
	for _, says := range []string{"NATS_URL", address, "127.0.0.1:0"} {
		if !strings.Contains(r.err, says) {
			t.Errorf("it does not say %q: %s", says, r.err)
		}
	}
}

// With --dev-dir the streams stay, and so does the memory of every key.
func TestDevelopmentDirectory(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	temp, dir := t.TempDir(), t.TempDir()
	for i := range 2 {
		p := start(t, map[string]string{"NATS_URL": "nats://127.0.0.1:0", "WORKER_ADMIN_ADDR": "127.0.0.1:0", "TMPDIR": temp}, "run", "--dev", "--dev-dir", dir).listening()
		p.ready(http.StatusOK)
		_, rest, _ := strings.Cut(p.err.String(), "nats --server ")
		address, _, _ := strings.Cut(rest, " ")
		nc, js := brokertest.Connect(t, &brokertest.Server{URL: address})
		w := &world{t: t, nc: nc, js: js}
		w.place(order("dev-1", "dev-1"))
		w.created("dev-1")
		w.queue(0)
		one(t, w, "dev-1")
		nc.Close()
		p.signal(syscall.SIGTERM)
		equal(t, fmt.Sprintf("exit code of run %d", i+1), p.exit(), exitDone)
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	temp := t.TempDir()
	r := command(t, map[string]string{"TMPDIR": temp}, "demo", "--requests", "5")
	equal(t, "exit code", r.code, exitDone)
	for _, want := range []string{
		"KEY", "OUTCOME", "SERVER OR REASON", "provisioning", "held", "limit-exceeded", "idempotency-conflict", "invalid-request",
		"deadline-exceeded", "undecodable", "dead letter", "(adopted)", "two servers could be it", "billed by the simulated account:", "no order was bought twice", "every outcome as it should be",
	} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the demo does not show %q", want)
		}
	}
	if strings.Contains(r.out, "WRONG") || strings.ContainsAny(r.out+r.err, "\x1b\r") {
		t.Error("the demo shows something wrong, or draws on what is no terminal")
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
