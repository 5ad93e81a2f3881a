package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// one checks that a key ended in exactly one way: one outcome, or held.
func one(t *testing.T, w *world, key string) event {
	t.Helper()
	events := w.events(key)
	var last event
	outcomes, held := 0, 0
	for _, e := range events {
		last = e
		if e.kind == "held" {
			held++
		} else {
			outcomes++
		}
	}
	if outcomes+held != 1 {
		t.Errorf("%s has %d outcomes and %d holdings: %v", key, outcomes, held, events)
	}
	return last
}

// once checks that no server was bought twice.
func once(t *testing.T, w *world) {
	t.Helper()
	for name, n := range w.bought() {
		if n > 1 {
			t.Errorf("%s was bought %d times: %+v", name, n, w.creates(name))
		}
	}
}

func TestDuplicates(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Latency: 20 * time.Millisecond})
	w.worker()
	w.worker() // a second replica
	const orders = 12
	var publishing sync.WaitGroup
	for i := range orders {
		o := jsonOf(t, order(fmt.Sprintf("dup-%d", i), fmt.Sprintf("dup-%d", i)))
		for range 3 { // at once
			publishing.Go(func() { w.publish(o, nil) })
		}
	}
	publishing.Wait()
	for i := range orders {
		w.created(fmt.Sprintf("dup-%d", i))
	}
	for i := range orders { // and once more, long after
		w.place(order(fmt.Sprintf("dup-%d", i), fmt.Sprintf("dup-%d", i)))
	}
	w.queue(0)
	for i := range orders {
		one(t, w, fmt.Sprintf("dup-%d", i))
	}
	equal(t, "create calls", len(w.sim.Creates()), orders)
	once(t, w)
}

// Two keys may ask for servers of one name; neither is lost and neither is
// bought twice.
func TestOneNameTwoKeys(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Latency: 50 * time.Millisecond})
	w.worker()
	for i := range 4 {
		w.place(order(fmt.Sprintf("same-%d", i), "same-name"))
	}
	for i := range 4 {
		w.created(fmt.Sprintf("same-%d", i))
	}
	w.queue(0)
	equal(t, "servers", w.bought()["same-name"], 4)
	for i := range 4 {
		one(t, w, fmt.Sprintf("same-%d", i))
	}
}

func TestLostAnswerIsHeld(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	p := w.worker()
	faults := map[string]bool{ // name: whether a server was bought
		"fault-cut-after-a": true, "fault-cut-before-b": false, "fault-500-before-c": false, "fault-500-after-d": true,
		"fault-502-bare-after-e": true, "fault-garbage-f": true, "fault-empty-g": true, "fault-truncated-h": true,
		"fault-408-i": false, "fault-307-j": false, "fault-503-k": false,
	}
	for name := range faults {
		w.place(with(order("key-"+name, name), "metadata", map[string]any{"customer": "c-1"}))
	}
	for name, bought := range faults {
		e := w.await("key-" + name)
		if e.kind != "held" {
			t.Fatalf("%s: want a deploy.held, have %s", name, e)
		}
		equal(t, "ce-id", e.id(), keyHash("key-"+name)+".held.1")
		equal(t, "ce-type", headerOf(e.header, "ce-type"), "se.hostup.deploy.held.v1")
		equal(t, "idempotencyKey", e.text("idempotencyKey"), "key-"+name)
		equal(t, "problem.type", e.text("problem", "type"), "urn:hostup-worker:problem:held")
		equal(t, "metadata", e.text("metadata", "customer"), "c-1")
		attempts, _ := e.at("evidence", "attempts").([]any)
		if len(attempts) != 1 {
			t.Fatalf("%s: evidence is %v, want one attempt", name, e.at("evidence"))
		}
		a, _ := attempts[0].(map[string]any)
		if a["verdict"] != "unknown" || a["number"] != 1.0 || a["detail"] == nil || a["startedAt"] == nil {
			t.Errorf("%s: the attempt is %v", name, a)
		}
		if name == "fault-truncated-h" && !strings.Contains(fmt.Sprint(e.at("evidence", "candidates")), w.creates(name)[0].VPSID) {
			t.Errorf("the id in the broken answer is not in the evidence: %v", e.at("evidence"))
		}
		want := 0
		if bought {
			want = 1
		}
		equal(t, "servers bought as "+name, w.bought()[name], want)
	}
	// Neither duplicates nor another process repeat a POST.
	for name := range faults {
		w.place(order("key-"+name, name))
	}
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
	p = w.worker()
	w.place(order("good", "good"))
	w.created("good")
	w.queue(uint64(len(faults)))
	for name := range faults {
		equal(t, "create calls for "+name, len(w.creates(name)), 1)
		one(t, w, "key-"+name)
	}
	p.ready(http.StatusOK)
}

// A held request still ends: at its deadline the requester is told that nobody
// knows.
func TestHeldUntilTheDeadline(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.worker()
	w.place(with(order("held-1", "fault-cut-after-a"), "deadline", time.Now().Add(1500*time.Millisecond).Format(time.RFC3339Nano)))
	e := w.outcome("held-1")
	failure{"outcome-unknown", "unknown", false, false, 1, 500}.check(t, "held-1", nil, e)
	equal(t, "first event", w.events("held-1")[0].kind, "held")
	w.queue(0)
}

// The worker is killed again and again while it works. However it dies, no
// server is bought twice and every order ends in exactly one way.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Latency: 80 * time.Millisecond, Faults: []simulator.Rule{
		rule(t, "slow-*/slow=100ms"), rule(t, "cut-*/cut-after@0.5"), rule(t, "busy-*/429:retry-after=1*1"),
	}})
	env := []string{"HOSTUP_CREATE_TIMEOUT=2s", "WORKER_DRAIN_TIMEOUT=3s", "WORKER_INLINE_WAIT=500ms", "WORKER_PROVISION="}
	w.setup()
	var keys []string
	batch := func() {
		for i, kind := range []string{"plain", "slow", "plain", "cut", "plain", "busy"} {
			key := fmt.Sprintf("%s-%d-%d", kind, len(keys), i)
			keys = append(keys, key)
			w.place(order(key, key))
			if i%2 == 0 {
				w.place(order(key, key))
			}
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 5 {
		batch()
		p := start(t, w.with(env...), "run").listening()
		moment := time.NewTimer(time.Duration(random.IntN(500)) * time.Millisecond)
		<-moment.C
		p.kill()
	}
	p := w.worker(env...)
	for _, key := range keys {
		w.await(key)
	}
	held := 0
	for _, key := range keys {
		e := one(t, w, key)
		switch e.kind {
		case "held":
			held++
		case "provisioning":
			equal(t, "servers of "+key, w.bought()[key], 1)
		default:
			t.Errorf("%s ended as %s", key, e)
		}
	}
	once(t, w)
	w.queue(uint64(held))
	t.Logf("%d orders, %d held, %d create calls, %d servers", len(keys), held, len(w.sim.Creates()), len(w.sim.Invoices()))
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
	for _, key := range keys { // nothing came after
		one(t, w, key)
	}
}

// NATS is restarted while orders are in work.
func TestBrokerRestarts(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)

	w := newWorld(t, simulator.Config{Latency: 60 * time.Millisecond})
	p := w.worker("WORKER_CONCURRENCY=2")
	var keys []string
	for round := range 2 {
		for i := range 10 {
			key := fmt.Sprintf("restart-%d-%d", round, i)
			keys = append(keys, key)
			w.place(order(key, key))
		}
		eventually(t, "some are in work", func() bool { return len(w.sim.Creates()) > round*10+2 })
		w.srv.Restart()
	}
	for _, key := range keys {
		w.created(key)
	}
	w.queue(0)
	for _, key := range keys {
		one(t, w, key)
		equal(t, "servers of "+key, w.bought()[key], 1)
	}
	p.ready(http.StatusOK)
}
