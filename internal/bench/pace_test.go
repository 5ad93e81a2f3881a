package bench

import (
	"context"
	"math/rand/v2"
	"time"
)

// The scenario pace.
const (
	paceRate        = 50 // requests a second
	paceConcurrency = 16
	paceLatency     = 20 * time.Millisecond
	goalAdded       = 1.3 // times what the floor adds to the API's own time
	paceTurn        = 10 * time.Second
	paceWarm        = 2 * paceConcurrency
)

// pace gives the programs little to do and looks how long a request takes from
// its publish to its event.
func pace(ctx context.Context, s *suite) {
	g := s.stage(ctx)
	defer g.end()
	length := paceTurn
	if s.short {
		length = s.length
	}
	t := make(table)
	for range s.reps {
		for _, i := range rand.Perm(len(kinds)) {
			t[kinds[i]] = append(t[kinds[i]], g.paced(kinds[i], int(paceRate*length.Seconds())))
		}
	}
	added := func(f figures) float64 { return f.p50 - f.took }
	for _, k := range kinds {
		s.printf("%-13s from publish to event p50 %s ms, p99 %s ms, of that the API's own %s ms, added %s ms; client CPU %s µs\n", k,
			t.of(k, p50).spread("%.2f"), t.of(k, func(f figures) float64 { return f.p99 }).spread("%.1f"),
			t.of(k, func(f figures) float64 { return f.took }).spread("%.2f"), t.of(k, added).spread("%.2f"), t.of(k, client).spread("%.0f"))
	}
	ratio := t.ratio(kindFloor, added)
	s.goalf(atMost(goalAdded), ratio.median(), "worker/floor added median latency at %d requests/s: %s", paceRate, ratio.spread("%.2f"))
	s.printf("  beside a floor with a connection for each call: %s\n", t.ratio(kindFresh, added).spread("%.2f"))
}

// paced lets one program do n requests at the pace.
func (g *stage) paced(k kind, n int) (f figures) {
	g.clear(paceLatency)
	t := g.tally()
	defer t.stop()
	client := g.start(k, paceConcurrency)
	defer client.Kill()
	t.window(paceConcurrency, paceWarm)
	t.await(paceWarm, client)
	t.mu.Lock()
	t.took, t.after = nil, nil
	t.mu.Unlock()
	from := g.meter(client)
	t.paced(n, time.Second/paceRate)
	t.await(paceWarm+n, client)
	f.add(from, g.meter(client), n)
	f.p50, f.p99 = milliseconds(quantile(t.took, 0.5)), milliseconds(quantile(t.took, 0.99))
	f.took = milliseconds(g.seen().Took)
	must(client.finish(), "end the "+string(k))
	t.judge(k)
	return f
}
