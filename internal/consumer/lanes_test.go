package consumer_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// newRigs is a rig with a consumer for batches.
func newRigs(t testing.TB, ackWait time.Duration, concurrency int) *rig {
	t.Helper()
	r := newRig(t, ackWait, concurrency)
	r.makeConsumer("worker-batch", ackWait, batches)
	return r
}

func isBatch(m provision.Message) bool { return strings.HasPrefix(m.Request.Key, "batch") }

func (r *rig) publishBatch(n int) {
	r.t.Helper()
	bodies := make([]string, n)
	for i := range bodies {
		bodies[i] = fmt.Sprintf("batch-%d", i)
	}
	r.publishTo(batches, bodies...)
}

// A batch that stands still holds its slots; the single order is answered
// although not one message of the batch was.
func TestSingleOrderFindsASlotBesideABatch(t *testing.T) {
	t.Parallel()
	r := newRigs(t, time.Minute, 4)
	var held atomic.Int64
	release := make(chan struct{})
	r.h.reply = func(_ context.Context, m provision.Message) provision.Disposition {
		if isBatch(m) {
			held.Add(1)
			<-release
		}
		return provision.Disposition{}
	}
	r.start()
	r.publishBatch(10)
	eventually(t, "the batch to take all it may have", func() bool { return held.Load() == 3 })
	r.publish("one", "two", "three")
	for _, key := range []string{"one", "two", "three"} {
		eventually(t, "a single order beside the batch", func() bool { return r.h.deliveries(key) == 1 })
	}
	if n := held.Load(); n != 3 {
		t.Errorf("%d messages of the batch in work with 4 slots", n)
	}
	close(release)
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
}

// With one slot the two take turns: the single order waits for the message in
// work, and for one that took the slot before it came.
func TestSingleOrderWithOneSlot(t *testing.T) {
	t.Parallel()
	const size = 100
	r := newRigs(t, time.Minute, 1)
	var before atomic.Int64
	var single atomic.Bool
	step := make(chan struct{})
	r.h.reply = func(_ context.Context, m provision.Message) provision.Disposition {
		if isBatch(m) {
			<-step
			if !single.Load() {
				before.Add(1)
			}
			return provision.Disposition{}
		}
		single.Store(true)
		return provision.Disposition{}
	}
	r.start()
	r.publishBatch(size)
	step <- struct{}{}
	r.publish("one")
	for range size - 1 {
		// It waits in hand for the slot, or for the slot to be looked for.
		eventually(t, "the order to wait", func() bool { return single.Load() || r.c.SingleWaits() })
		step <- struct{}{}
	}
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
	if n := before.Load(); n > 5 {
		t.Errorf("%d messages of a batch of %d were handled before the order", n, size)
	}
}

// Single orders that never end leave a batch one slot.
func TestBatchIsNotStarved(t *testing.T) {
	t.Parallel()
	r := newRigs(t, time.Minute, 4)
	release, batched := make(chan struct{}), make(chan struct{})
	r.h.reply = func(_ context.Context, m provision.Message) provision.Disposition {
		if isBatch(m) {
			close(batched)
			return provision.Disposition{}
		}
		<-release
		return provision.Disposition{}
	}
	const singles = 1000
	for i := range singles {
		r.publish(fmt.Sprint(i))
	}
	r.start()
	eventually(t, "single orders in all slots", func() bool { return len(r.keys()) == 4 })
	r.publishBatch(1)
	// Each that ends makes room for one, and the batch has time to come.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ended := 1; ; ended++ {
		<-tick.C
		select {
		case <-batched:
			close(release)
			return
		case release <- struct{}{}:
		}
		if ended > singles*9/10 {
			t.Fatalf("%d single orders ended and the batch has not begun", ended)
		}
	}
}

func (r *rig) keys() []string {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	var keys []string
	for _, m := range r.h.seen {
		keys = append(keys, m.Request.Key)
	}
	return keys
}

// An older set-up has no consumer for batches.
func TestWithoutAConsumerForBatches(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 2)
	r.start()
	r.publish("one")
	eventually(t, "the single order", func() bool { return r.h.deliveries("one") == 1 })
	r.publishBatch(1)
	const said = "there is no consumer for batches"
	eventually(t, "a word about it", func() bool { return r.logs.count(said) == 1 })
	if !r.c.Bound() || r.logs.count("level=WARN") > 0 {
		t.Errorf("bound: %t, warnings: %d", r.c.Bound(), r.logs.count("level=WARN"))
	}
	r.makeConsumer("worker-batch", time.Minute, batches)
	eventually(t, "the batch, once its consumer was made", func() bool { return r.h.deliveries("batch-0") == 1 })
	if n := r.logs.count(said); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// What is promised to a single order is promised to a batch: dead letters, a
// consumer that goes and comes back, and the drain.
func TestBatchesAreConsumedAlike(t *testing.T) {
	t.Parallel()
	r := newRigs(t, time.Minute, 4)
	begun, finish := make(chan struct{}), make(chan struct{})
	r.h.reply = func(_ context.Context, m provision.Message) provision.Disposition {
		switch m.Request.Key {
		case "bad":
			return provision.Disposition{Action: provision.Dead, Defect: &provision.Defect{Reason: provision.DeadNoKey}}
		case "last":
			close(begun)
			<-finish
		}
		return provision.Disposition{}
	}
	stop := r.start()
	r.publishTo(batches, "bad")
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
	if d := r.dead(); len(d) != 1 || d[0].Header.Get("deploy-dead-sequence") != "1" {
		t.Errorf("dead letters: %+v", d)
	}
	if err := r.js.DeleteConsumer(t.Context(), "DEPLOY", "worker-batch"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss to be noticed", func() bool { return !r.c.Bound() })
	r.publish("single")
	eventually(t, "a single order meanwhile", func() bool { return r.h.deliveries("single") == 1 })
	r.makeConsumer("worker-batch", time.Minute, batches)
	eventually(t, "the consumer to be found again", r.c.Bound)
	r.publishTo(batches, "last")
	<-begun
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	select {
	case err := <-ended:
		t.Fatalf("Run returned with work in hand: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
}
