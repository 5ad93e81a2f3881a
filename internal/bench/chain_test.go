package bench

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The goals of the chain.
const (
	goalAlone    = 0.85 // of the floor's throughput, one request at a time
	goalBusy     = 0.65 // the same from so many at once on
	busyFrom     = 64
	goalCPU      = 1.7  // times the floor's processor time
	goalAPI      = 0.97 // of what a slow API lets through
	slowFrom     = 200 * time.Millisecond
	apiWithin    = 256 // two cores cannot keep more than this waiting for a slow API
	goalMemory   = 64  // MiB
	memoryWithin = 1000
)

// chain compares the programs at every concurrency and latency.
func chain(ctx context.Context, s *suite) {
	g := s.stage(ctx)
	defer g.end()
	s.printf("%-8s%-5s %-13s%-26s%9s%9s%19s%8s%6s%7s%9s%8s\n", "latency", "conc", "", "requests/s", "p50 ms", "p99 ms", "client CPU µs", "broker", "API", "MiB", "allocs", "KiB")
	kinds := kinds
	if s.beside != "" {
		kinds = append(slices.Clone(kinds), kindOther)
	}
	for _, latency := range s.latency.values {
		for _, concurrency := range s.concurrency.values {
			length := s.length
			if latency >= slowFrom {
				length *= 2 // a wave is a large part of a short turn
			}
			p, t := newPlan(concurrency, latency, length), make(table)
			for range s.reps {
				for _, i := range rand.Perm(len(kinds)) {
					t[kinds[i]] = append(t[kinds[i]], g.turn(kinds[i], p))
				}
			}
			s.print(kinds, p, t)
			s.judgeChain(p, t)
		}
	}
}

// print writes one line for each program.
func (s *suite) print(kinds []kind, p plan, t table) {
	for _, k := range kinds {
		m := func(figure func(figures) float64) float64 { return t.of(k, figure).median() }
		s.printf("%-8s%-5d %-13s%-26s%9.2f%9.2f%19s%8.0f%6.0f%7.1f%9.0f%8.1f\n", p.latency, p.concurrency, k,
			t.of(k, rate).spread("%.0f"), m(p50), m(func(f figures) float64 { return f.p99 }),
			t.of(k, client).spread("%.0f"), m(func(f figures) float64 { return f.broker }), m(func(f figures) float64 { return f.api }),
			m(func(f figures) float64 { return f.peak }), m(func(f figures) float64 { return f.allocs }), m(func(f figures) float64 { return f.allocated }))
	}
}

// judgeChain holds the worker to the floor with kept-alive connections; what it
// is beside the other one is only told.
func (s *suite) judgeChain(p plan, t table) {
	label := "worker/floor"
	speed, cost := t.ratio(kindFloor, rate), t.ratio(kindFloor, client)
	switch {
	case p.latency > 0:
		s.printf("  %s throughput %s\n", label, speed.spread("%.2f"))
	case p.concurrency == 1:
		s.goalf(atLeast(goalAlone), speed.median(), "%s throughput at %d: %s", label, p.concurrency, speed.spread("%.2f"))
	case p.concurrency >= busyFrom:
		s.goalf(atLeast(goalBusy), speed.median(), "%s throughput at %d: %s", label, p.concurrency, speed.spread("%.2f"))
	default:
		s.printf("  %s throughput %s\n", label, speed.spread("%.2f"))
	}
	if p.latency == 0 {
		s.goalf(atMost(goalCPU), cost.median(), "%s client CPU at %d: %s", label, p.concurrency, cost.spread("%.2f"))
	} else {
		s.printf("  %s client CPU %s\n", label, cost.spread("%.2f"))
	}
	s.printf("  beside a floor with a connection for each call: throughput %s, client CPU %s\n",
		t.ratio(kindFresh, rate).spread("%.2f"), t.ratio(kindFresh, client).spread("%.2f"))
	if s.beside != "" {
		s.printf("  beside the other worker: throughput %s, client CPU %s\n", t.ratio(kindOther, rate).spread("%.2f"), t.ratio(kindOther, client).spread("%.2f"))
	}
	if p.latency >= slowFrom {
		full := float64(p.concurrency) / p.latency.Seconds()
		part := func(k kind) series {
			return t.of(k, func(f figures) float64 { return f.rate / full })
		}
		text := "of concurrency/latency (%.0f/s) at %d: worker %s, floor %s"
		if p.concurrency <= apiWithin {
			s.goalf(atLeast(goalAPI), part(kindWorker).median(), text, full, p.concurrency, part(kindWorker).spread("%.3f"), part(kindFloor).spread("%.3f"))
		} else {
			s.printf("  "+text+", not judged: two cores do less\n", full, p.concurrency, part(kindWorker).spread("%.3f"), part(kindFloor).spread("%.3f"))
		}
		if p.concurrency >= memoryWithin {
			peak := t.of(kindWorker, func(f figures) float64 { return f.peak })
			s.goalf(atMost(goalMemory), peak.median(), "worker's largest resident memory with %d in work: %s MiB", p.concurrency, peak.spread("%.1f"))
		}
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	for _, c := range []int{1, 16, 1024} {
		for _, latency := range []time.Duration{0, 20 * time.Millisecond, 200 * time.Millisecond} {
			p := newPlan(c, latency, time.Second)
			if p.warm%c != 0 || p.backlog%c != 0 || p.window < 2*c || p.backlog-p.warm < 2*c {
				t.Errorf("at %d with %s: %+v", c, latency, p)
			}
		}
	}
	if p := newPlan(16, 200*time.Millisecond, 10*time.Second); p.backlog-p.warm != 800 {
		t.Errorf("10 s at 80 a second are %d requests", p.backlog-p.warm)
	}
}
