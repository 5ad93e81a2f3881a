package fleet

import (
	"context"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

const (
	waitingOrders = 20_000
	// bigCores is what a waiting order wants; a small one wants 1.
	bigCores = 4
	// roomFor is how many waiting orders fit in the end.
	roomFor = 100
	// limitsTTL is how old the workers' idea of the account may be.
	limitsTTL = time.Second
)

// waiting: very many orders wait for room. They cost little, are in nobody's
// way, survive a restart of everything, and get exactly the room there is.
func waiting(ctx context.Context, b *bench) {
	s := setup{
		replicas: 3, concurrency: 16,
		env: map[string]string{"WORKER_LIMIT_POLICY": "wait", "WORKER_LIMITS_TTL": limitsTTL.String(), "WORKER_BACKOFF_MAX": "30s", "WORKER_ACK_WAIT": "30s"},
	}
	b.in(ctx, "waiting", s, func(w *world) {
		w.place(orders("warm", 300, 1)...)
		w.await("the fleet to be warm", func() bool { return w.witness.ended() == 300 })
		w.setFree(2)
		w.watch(2 * limitsTTL) // or orders are tried that do not fit any more
		idle := w.memories()
		w.place(orders("big", waitingOrders, bigCores)...)
		if !w.allWait() {
			return
		}
		w.judgeMemory(idle)
		w.turnover()
		w.fresh()
		w.restartAll()
		w.judgeNothingLost(waitingOrders)
		w.setFree(roomFor*bigCores + bigCores - 1)
		w.until(patience, func() bool { return w.invoices("big") >= roomFor })
		w.watch(5 * time.Second)
		w.judgef(w.invoices("big") == roomFor, "servers bought when there was room for %d: %d", roomFor, w.invoices("big"))
		w.judgeNothingLost(waitingOrders - roomFor)
		w.judgef(w.witness.count(failed) == 0, "accepted orders that failed: %d (goal 0)", w.witness.count(failed))
		w.judgeOnce()
	})
}

// setFree leaves so many cores of the account.
func (w *world) setFree(cores int) {
	used := w.sim.Stats().Used.CPUCores
	w.update(func(c *simulator.Config) { c.Limits.CPUCores = used + cores })
}

// allWait waits until every order has been looked at once.
func (w *world) allWait() bool {
	started := time.Now()
	all := 300 + waitingOrders
	done := w.until(patience, func() bool { _, seen := w.delivered(); return seen >= all })
	deliveries, seen := w.delivered()
	w.judgef(done, "orders that wait: %d of %d, after %d deliveries and %s; creates tried meanwhile %d", min(seen, all)-300, waitingOrders,
		deliveries-300, time.Since(started).Round(time.Second), len(w.sim.Creates())-300)
	return done
}

// turnover tells how often a waiting order is taken up and put back.
func (w *world) turnover() {
	const watched = 10 * time.Second
	before, _ := w.delivered()
	w.watch(watched)
	after, _ := w.delivered()
	w.notef("deliveries in %s while nothing could be done: %d, %.2f for each waiting order", watched, after-before, float64(after-before)/waitingOrders)
}

func (w *world) memories() []int {
	all := make([]int, len(w.replicas))
	for i, r := range w.replicas {
		all[i] = r.memory()
	}
	return all
}

// judgeMemory judges the process that grew most.
func (w *world) judgeMemory(idle []int) {
	now := w.memories()
	worst, sum := 0, 0
	for i := range now {
		worst = max(worst, now[i]-idle[i])
		sum += now[i] - idle[i]
	}
	w.notef("memory of the processes in MiB: %d with nothing waiting, %d now", mebibytes(idle), mebibytes(now))
	if now[0] == 0 {
		w.notef("this system does not tell the memory of a process")
		return
	}
	w.judgef(worst < waitingOrders<<10, "memory for each waiting order: %d bytes in the process that grew most (goal below 1024), %d in the fleet",
		worst/waitingOrders, sum/waitingOrders)
}

func mebibytes(bytes []int) []int {
	all := make([]int, len(bytes))
	for i, n := range bytes {
		all[i] = n >> 20
	}
	return all
}

// fresh: what can be answered at once is not kept waiting by what cannot.
func (w *world) fresh() {
	for _, f := range []struct {
		about    string
		order    order
		answered func() bool
	}{
		{"a small order that fits", order{name: "small-1"}, func() bool { return w.invoices("small-1") == 1 && w.witness.count(provisioned) == 301 }},
		{"an invalid order", order{name: "invalid_name"}, func() bool { return w.witness.rejections() == 1 }},
	} {
		before, _ := w.delivered()
		asked := time.Now()
		w.place(f.order)
		answered := w.until(patience, f.answered)
		after, _ := w.delivered()
		// A tenth of those that wait: not a turn of all of them.
		w.judgef(answered && after-before <= waitingOrders/10, "%s was answered: %t, after %d deliveries (goal at most %d) and %s", f.about, answered,
			after-before, waitingOrders/10, time.Since(asked).Round(time.Millisecond))
	}
}

// restartAll stops the fleet, crashes the broker and starts the fleet again.
func (w *world) restartAll() {
	for _, r := range w.replicas {
		r.finish()
	}
	w.must(w.broker.Crash(0), "restart the broker")
	for _, r := range w.replicas {
		r.start()
	}
	for _, r := range w.replicas {
		r.listening()
	}
}
