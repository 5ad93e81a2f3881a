package main

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// sweeping makes sweeps frequent: one comes every ten ack waits, for what is
// quiet for two of the longer of ack wait and create timeout. No wait is kept
// in hand.
var sweeping = []string{"WORKER_ACK_WAIT=250ms", "HOSTUP_CREATE_TIMEOUT=1s", "WORKER_DRAIN_TIMEOUT=20s", "WORKER_INLINE_WAIT=10ms", "WORKER_SETTLE_UNANSWERED=2s"}

// purge empties the request stream.
func purge(t *testing.T, w *world) {
	t.Helper()
	s, err := w.js.Stream(t.Context(), "DEPLOY")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.queue(0)
}

// The request stream is purged while requests wait: their records are all that
// is left of them, and each still gets its one server.
func TestPurgedRequests(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Faults: []simulator.Rule{rule(t, "found*/cut-after"), rule(t, "lost*/cut*1")}})
	var blind atomic.Bool // so that nothing is found out before the purge
	blind.Store(true)
	w.answering(func(rw http.ResponseWriter, r *http.Request) bool {
		if !blind.Load() || r.Method != http.MethodGet || r.URL.Path != "/api/v2/vps" {
			return false
		}
		http.Error(rw, "not now", http.StatusServiceUnavailable)
		return true
	})
	p := w.worker(sweeping...)
	w.place(order("found", "found-a"))
	w.place(order("lost", "lost-a"))
	w.state("found", "unknown")
	w.state("lost", "unknown")
	w.place(order("busy", "fault-429-retry-after-3-x1-a"))
	eventually(t, "all three have a record", func() bool { return w.record("busy") != nil })
	purge(t, w)
	blind.Store(false)
	keys := []string{"found", "lost", "busy"}
	for _, key := range keys {
		w.created(key)
		w.state(key, "done")
	}
	for _, key := range keys {
		one(t, w, key)
	}
	for name, n := range map[string]int{"found-a": 1, "lost-a": 2, "fault-429-retry-after-3-x1-a": 2} {
		equal(t, "servers of "+name, w.bought()[name], 1)
		equal(t, "create calls for "+name, len(w.creates(name)), n)
	}
	p.ready(http.StatusOK)
}

// The same for one that may not be sent before its deadline, which only the
// sweeper can notice.
//
//nolint:tparallel // one try after the other
func TestPurgedRequestAtItsDeadline(t *testing.T) {
	t.Parallel()

	inTime(t, 4*time.Second, func(t *testing.T, room time.Duration) bool {
		t.Helper()
		w := newWorld(t, simulator.Config{})
		p := w.worker(sweeping...)
		deadline := time.Now().Add(room)
		w.place(with(order("late", "fault-429-retry-after-600-a"), "deadline", deadline.Format(time.RFC3339Nano)))
		var r *event
		eventually(t, "it is throttled, or its deadline came first", func() bool {
			r = w.record("late")
			return r != nil && (r.text("waitReason") == "rate-limit" || r.text("outcome", "kind") != "")
		})
		purge(t, w)
		// A 429 that comes after the create timeout is none that the worker saw.
		if attempts, _ := r.at("attempts").([]any); !time.Now().Before(deadline) || len(attempts) != 1 || len(w.sim.Creates()) != 1 {
			return false
		}
		e := w.outcome("late")
		failure{"deadline-exceeded", "no", true, false, 1, 504}.check(t, "late", nil, e)
		p.sees("requests without a message")
		w.state("late", "done")
		one(t, w, "late")
		return true
	})
}

// A worker stops in the middle of a call, is taken for dead, and comes back
// when another one has finished its work.
func TestZombie(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		about, fault string
		adopted      bool
		creates      int
	}{
		{"its call bought a server", "slow=2s", true, 1},
		{"its call bought nothing", "cut:delay=2s*1", false, 2},
		{"its call was throttled", "429:retry-after=1,delay=2s*1", false, 2},
	} {
		t.Run(test.about, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, simulator.Config{Faults: []simulator.Rule{rule(t, "zombie*/"+test.fault)}})
			env := []string{"WORKER_ACK_WAIT=500ms", "HOSTUP_CREATE_TIMEOUT=4s", "WORKER_DRAIN_TIMEOUT=20s"}
			first := w.worker(env...)
			// A process that has just started sends one create, then two.
			for i := range 3 {
				key := fmt.Sprintf("before-%d", i)
				w.place(order(key, key))
				w.created(key)
			}
			for i := range 3 {
				key := fmt.Sprintf("zombie-%d", i)
				w.place(order(key, key))
			}
			eventually(t, "the calls are in flight", func() bool { return len(w.sim.Creates()) >= 6 })
			first.signal(syscall.SIGSTOP)
			t.Cleanup(func() { _ = first.cmd.Process.Signal(syscall.SIGCONT) })
			middle := make(map[string]bool) // of its first call
			for i := range 3 {
				key := fmt.Sprintf("zombie-%d", i)
				r := w.record(key)
				middle[key] = r != nil && r.text("state") == "creating" && len(w.creates(key)) == 1
				if !middle[key] {
					t.Logf("this machine was too slow to stop the worker in the middle of the call for %s; what must hold, must hold all the same", key)
				}
			}
			second := w.worker(env...)
			seen := make(map[string]event)
			for i := range 3 {
				key := fmt.Sprintf("zombie-%d", i)
				seen[key] = w.created(key)
			}
			w.queue(0)
			first.signal(syscall.SIGCONT)
			// It works again: of several orders it gets some.
			first.ready(http.StatusOK)
			for i := range 20 {
				key := fmt.Sprintf("after-%d", i)
				w.place(order(key, key))
			}
			for i := range 20 {
				w.created(fmt.Sprintf("after-%d", i))
			}
			w.queue(0)
			for _, p := range []*process{first, second} {
				p.signal(syscall.SIGTERM)
				equal(t, "exit code", p.exit(), exitDone)
			}
			for key, e := range seen {
				last := one(t, w, key)
				equal(t, "id", last.id(), e.id())
				if middle[key] {
					equal(t, "adopted", last.at("adopted"), any(test.adopted))
				}
				equal(t, "vpsId", last.text("vpsId"), w.record(key).text("vpsId"))
				equal(t, "servers of "+key, w.bought()[key], 1)
				equal(t, "create calls for "+key, len(w.creates(key)), test.creates)
				equal(t, "state", w.record(key).text("state"), "done")
			}
			once(t, w)
		})
	}
}
