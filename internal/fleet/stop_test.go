package fleet

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// stopAll: one 429 stops every process until its time is over, and then one
// create goes alone.
func stopAll(ctx context.Context, b *bench) {
	const latency = 100 * time.Millisecond
	s := setup{replicas: 3, concurrency: 16, api: simulator.Config{
		Latency: latency, Faults: []simulator.Rule{rule("stop-*/429:retry-after=2*1")},
	}}
	b.in(ctx, "stop", s, func(w *world) {
		load := orders("load", 3000, 1)
		w.place(load[:300]...)
		w.place(orders("stop", 1, 1)...)
		w.place(load[300:]...)
		var refused simulator.Create
		w.await("the create that is answered 429", func() bool {
			all := w.sim.Creates()
			i := slices.IndexFunc(all, func(c simulator.Create) bool { return strings.HasPrefix(c.Name, "stop-") && c.Outcome == "429" })
			if i >= 0 {
				refused = all[i]
			}
			return i >= 0
		})
		answered := refused.At.Add(latency)
		opens := answered.Add(2 * time.Second)
		w.await("creates after the pause", func() bool { return arrivals(w.sim.Creates(), opens, opens.Add(time.Hour)).n > 5 })
		all := w.sim.Creates()
		in := arrivals(all, answered, opens)
		w.notef("after the 429 %d creates still arrived, the last one %s later", in.n, in.last.Sub(answered).Round(time.Millisecond))
		w.judgef(in.n <= s.slots(), "creates between the 429 and its end: %d (goal: in flight only, at most %d)", in.n, s.slots())
		late := arrivals(all, answered.Add(500*time.Millisecond), opens)
		w.judgef(late.n == 0, "creates in the pause, 500 ms after the 429 and later: %d (goal 0)", late.n)
		after := arrivals(all, opens, opens.Add(time.Hour))
		alone := after.second.Sub(after.first)
		w.judgef(alone >= latency, "the probe came %s after the pause, the next create %s after the probe (goal: after its answer, %s)",
			after.first.Sub(opens).Round(time.Millisecond), alone.Round(time.Millisecond), latency)
		w.judgeOnce()
	})
}

// span is what arrived within a time.
type span struct {
	n                   int
	first, second, last time.Time
}

func arrivals(all []simulator.Create, from, to time.Time) (s span) {
	for _, c := range all {
		if !c.At.After(from) || !c.At.Before(to) {
			continue
		}
		switch s.n++; s.n {
		case 1:
			s.first = c.At
		case 2:
			s.second = c.At
		}
		s.last = c.At
	}
	if s.n == 0 {
		s.last = from
	}
	return s
}

func rule(text string) simulator.Rule {
	r, err := simulator.ParseRule(text)
	if err != nil {
		panic(err)
	}
	return r
}

func TestArrivals(t *testing.T) {
	t.Parallel()

	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	all := []simulator.Create{{At: at(1)}, {At: at(2)}, {At: at(4)}, {At: at(5)}, {At: at(9)}}
	if got, want := arrivals(all, at(1), at(9)), (span{3, at(2), at(4), at(5)}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := arrivals(all, at(10), at(11)); got.n != 0 || got.last != at(10) {
		t.Errorf("nothing arrived, and got %+v", got)
	}
}
