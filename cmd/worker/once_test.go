package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// one checks that a key has one outcome and was never held.
func one(t *testing.T, w *world, key string) event {
	t.Helper()
	e, held := ended(t, w, key)
	equal(t, "holdings of "+key, held, 0)
	return e
}

// ended checks that a key has exactly one outcome, and that nothing follows it.
func ended(t *testing.T, w *world, key string) (outcome event, held int) {
	t.Helper()
	events := w.events(key)
	outcomes := 0
	for _, e := range events {
		if e.kind == "held" {
			held++
		} else {
			outcomes++
			outcome = e
		}
	}
	if outcomes != 1 || events[len(events)-1].id() != outcome.id() {
		t.Errorf("%s has %d outcomes and %d holdings: %v", key, outcomes, held, events)
	}
	return outcome, held
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

// The worker is killed again and again while it works. However it dies, no
// server is bought twice, and every order gets its one server.
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
		w.outcome(key)
	}
	adopted, again := 0, 0
	for _, key := range keys {
		e := one(t, w, key)
		equal(t, key+" ended as", e.kind, "provisioning")
		equal(t, "servers of "+key, w.bought()[key], 1)
		if e.at("adopted") == true {
			adopted++
		}
		if n, _ := e.at("attempts").(float64); n > 1 {
			again++
		}
	}
	w.queue(0)
	t.Logf("%d orders, %d adopted, %d tried again, %d create calls, %d servers", len(keys), adopted, again, len(w.sim.Creates()), len(w.sim.Invoices()))
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
		w.restart()
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
