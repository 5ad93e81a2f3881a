package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// brake: no new create anywhere, while everything else goes on.
func brake(ctx context.Context, b *bench) {
	s := setup{
		replicas: 3, concurrency: 16,
		// Lost answers of servers that are listed late: what they leave has to
		// be looked up while the brake is on.
		api: simulator.Config{
			Latency: 100 * time.Millisecond, VisibilityLag: 1500 * time.Millisecond, Faults: []simulator.Rule{rule("lost-*/cut-after*1")},
		},
		env: map[string]string{"WORKER_BREAKER_UNKNOWNS": "0", "WORKER_INLINE_WAIT": "200ms", "WORKER_SETTLE_UNANSWERED": "6s", "WORKER_SETTLE_READS": "6"},
	}
	b.in(ctx, "brake/pause", s, (*world).pausedByHand)
	load := orders("load", 100, 1)
	for _, c := range []struct {
		label, variable, value string
		want                   int
	}{
		{"brake/creates an hour", "WORKER_MAX_CREATES_PER_HOUR", "20", 20},
		// A server of one core, 1 GB and 50 GB costs 0.33 an hour.
		{"brake/hourly cost", "WORKER_MAX_HOURLY_COST", "5", 15},
	} {
		s := setup{
			replicas: 3, concurrency: 16, api: simulator.Config{Latency: 20 * time.Millisecond},
			env: map[string]string{c.variable: c.value},
		}
		b.in(ctx, c.label, s, func(w *world) { w.capped(load, c.want) })
		if b.short {
			return
		}
	}
}

func (w *world) pausedByHand() {
	// One in ten is lost, so that there is something to look up whenever the brake
	// is on.
	load := orders("load", 1500, 1)
	for i := 0; i < len(load); i += 10 {
		load[i].name = fmt.Sprintf("lost-%05d", i)
	}
	w.place(load...)
	w.await("creates under load", func() bool { return len(w.sim.Creates()) > 60 })
	if code, out := w.command("pause", "--reason", "the fleet suite"); code != 0 {
		panic(broken("worker pause ended with " + out))
	}
	paused := time.Now()
	looks, ended := w.sim.Stats().Requests["list"], w.witness.ended()
	var red int
	var why string
	w.until(10*time.Second, func() bool { red, why = w.red(); return red == len(w.replicas) })
	w.watch(time.Until(paused.Add(5 * time.Second)))
	now := time.Now()
	in := arrivals(w.sim.Creates(), paused, now)
	late := arrivals(w.sim.Creates(), paused.Add(time.Second), now)
	w.judgef(late.n == 0, "creates later than 1 s after pause returned: %d (goal 0); within it %d, the last after %s", late.n, in.n-late.n,
		in.last.Sub(paused).Round(time.Millisecond))
	looks, ended = w.sim.Stats().Requests["list"]-looks, w.witness.ended()-ended
	w.judgef(looks > 0 && ended > 0, "meanwhile look-ups %d, outcome events %d (goal: more than 0)", looks, ended)
	w.judgef(red == len(w.replicas), "replicas that are not ready and say why: %d of %d (%s)", red, len(w.replicas), why)
	code, out := w.command("resume", "--reason", "seen enough")
	w.judgef(code == 0, "worker resume ended with %d (goal 0) %s", code, out)
	w.until(patience, func() bool { return w.witness.count(provisioned) == len(load) })
	got := w.witness.count(provisioned)
	w.judgef(got == len(load) && w.green() == len(w.replicas), "after resume provisioned %d of %d, replicas ready %d", got, len(load), w.green())
	w.judgeOnce()
	w.judgeNothingLost(0)
}

// capped: the fleet brakes by itself, after exactly so many servers.
func (w *world) capped(load []order, want int) {
	w.place(load...)
	w.until(patience/4, func() bool { return len(w.sim.Invoices()) >= want })
	w.watch(4 * time.Second)
	got := len(w.sim.Invoices())
	w.judgef(got == want, "servers until the brake %d (goal exactly %d)", got, want)
	red, why := w.red()
	w.judgef(red == len(w.replicas), "replicas that are not ready and say why: %d of %d (%s)", red, len(w.replicas), why)
	code, out := w.command("resume", "--reason", "the fleet suite")
	more := code == 0 && w.until(patience/4, func() bool { return len(w.sim.Invoices()) > want })
	w.judgef(more, "worker resume ended with %d, servers afterwards %d (goal more than %d) %s", code, len(w.sim.Invoices()), want, out)
	w.judgeOnce()
}
