package fleet

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// fairness: who orders one server does not wait for a batch of thousands.
func fairness(ctx context.Context, b *bench) {
	const batch, singles = 10_000, 20
	s := setup{replicas: 3, concurrency: 16, api: simulator.Config{Latency: 20 * time.Millisecond}}
	b.in(ctx, "fairness", s, func(w *world) {
		load := orders("batch", batch, 1)
		if err := w.publish(batchSubject, load[0]); err != nil {
			w.judgef(false, "%s takes no orders: %v; the batch goes to %s instead", batchSubject, err, requestSubject)
			w.place(load...)
		} else {
			w.must(w.publish(batchSubject, load[1:]...), "publish the batch")
		}
		w.await("creates of the batch", func() bool { return w.invoices("batch") > 200 })
		worst, sum, waited := 0, 0, 0
		for i := range singles {
			name := fmt.Sprintf("single-%02d", i)
			asked := time.Now()
			w.place(order{name: name})
			if !w.until(patience, func() bool { return w.invoices(name) > 0 }) {
				w.judgef(false, "single order %d was not created", i+1)
				break
			}
			between := before(w.sim.Creates(), name, asked)
			worst, sum, waited = max(worst, between), sum+between, waited+1
			if i == 0 && w.invoices("batch") == batch {
				w.notef("the whole batch was created before the first single order: it is not repeated")
				break
			}
		}
		w.judgef(w.invoices("batch") < batch, "batch orders created when the last single one was: %d of %d (goal: not all)", w.invoices("batch"), batch)
		goal := 3 * w.slots()
		w.judgef(waited > 0 && worst <= goal, "batch creates between a single order and its create: at worst %d, on average %d (goal at most %d)",
			worst, sum/max(1, waited), goal)
		w.judgeOnce()
	})
}

// before counts the creates of others since a time until the one of a name.
func before(all []simulator.Create, name string, since time.Time) int {
	n := 0
	for _, c := range all {
		if strings.EqualFold(c.Name, name) {
			break
		}
		if c.At.After(since) {
			n++
		}
	}
	return n
}
