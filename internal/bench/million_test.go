package bench

import (
	"context"
	"math"
	"time"
)

// The scenario million.
const (
	millionConcurrency = 64
	millionSlices      = 20 // of the backlog
	goalGrowth         = 1.10
	// yardLength is how long the yardstick measures, about.
	yardLength = 10 * time.Second
	// aged is beyond the age at which the worker looks a name up before its first
	// create (ARCHITECTURE.md): all requests of this scenario are older, so that
	// each of them costs the same.
	aged = 65 * time.Second
)

// million lets one worker drain a backlog of a million requests, which leaves a
// ledger with a million records, and looks whether a request costs more when
// many wait, when many have been done, and how much memory that takes:
//
//	alone   a slice of requests, an empty ledger
//	slices  the backlog, part by part: the first has all the others waiting, the
//	        last finds a full ledger
//	after   a slice of requests once more, on the full ledger, by a new process
//
// That takes so long that the machine may be another at its end. So the floor,
// on a broker of its own that holds nothing else, is the yardstick before and
// after each of them, and what is compared is how much more than it a request
// cost.
func million(ctx context.Context, s *suite) {
	g, small := s.stage(ctx), s.stage(ctx)
	defer g.end()
	defer small.end()
	slice := s.backlog / millionSlices
	yard := func() figures {
		f := small.turn(kindFloor, newPlan(millionConcurrency, 0, s.yardLength()))
		s.printf("%-10s%12.0f%14.0f%12.0f\n", "yardstick", f.rate, f.client, f.broker)
		return f
	}
	s.printf("concurrency %d, API at once, slices of %d requests, each more than a minute old when it is taken\n", millionConcurrency, slice)
	s.printf("%-10s%12s%14s%12s%10s%8s\n", "", "requests/s", "client CPU µs", "broker µs", "RSS MiB", "waiting")
	yards := []figures{yard()}
	g.clear(0)
	alone := g.drain("alone", slice, 1, 0)[0]
	yards = append(yards, yard())
	g.clear(0)
	all := g.drain("slice", slice, millionSlices, 0)
	yards = append(yards, yard())
	after := g.drain("after", slice, 1, millionSlices*slice)[0]
	yards = append(yards, yard())

	peak := after.peak
	for _, f := range all {
		peak = math.Max(peak, f.peak)
	}
	// Beside the yardstick of the same minute.
	beside := func(f figures, by ...figures) figures {
		var sum figures
		for _, y := range by {
			sum.rate, sum.client = sum.rate+y.rate/float64(len(by)), sum.client+y.client/float64(len(by))
		}
		return figures{rate: f.rate / sum.rate, client: f.client / sum.client}
	}
	before, first := beside(alone, yards[0], yards[1]), beside(all[0], yards[1])
	last, full := beside(all[len(all)-1], yards[2]), beside(after, yards[2], yards[3])
	for _, c := range []struct {
		what     string
		got, by  figures
		describe string
	}{
		{"a full backlog", first, before, "first slice beside alone"},
		{"draining it", last, first, "last slice beside first"},
		{"a full ledger", full, before, "after beside alone"},
	} {
		s.goalf(atMost(goalGrowth), c.got.client/c.by.client, "growth of client CPU a request by %s (%s): %.2f", c.what, c.describe, c.got.client/c.by.client)
		s.goalf(atMost(goalGrowth), c.by.rate/c.got.rate, "growth of time a request by %s (%s): %.2f", c.what, c.describe, c.by.rate/c.got.rate)
	}
	s.goalf(atMost(goalMemory), peak, "worker's resident memory, largest of all slices: %.1f MiB", peak)
	s.printf("  the last slice's memory is %.2f times that of the first\n", all[len(all)-1].peak/all[0].peak)
}

func (s *suite) yardLength() time.Duration {
	if s.short {
		return s.length
	}
	return yardLength
}

// drain places a number of slices, lets them grow old, and lets one worker work
// them off. So many requests have been done on the same streams before.
func (g *stage) drain(label string, slice, slices, done int) []figures {
	s := g.suite
	t := g.tally()
	defer t.stop()
	t.mu.Lock()
	t.grow(done)
	t.mu.Unlock()
	began := time.Now()
	t.backlog(slice * slices)
	s.printf("%d requests placed in %s\n", slice*slices, time.Since(began).Round(time.Second))
	if !s.short {
		g.wait(aged)
	}
	looked := g.seen().Looks
	// A slice is measured without the start of the process: from a fifth of the
	// first one on.
	warm := slice / 5
	marks := make([]meter, slices+1)
	memories := make([]float64, slices+1)
	worker := g.start(kindWorker, millionConcurrency)
	defer worker.Kill()
	for i := range marks {
		at := max(i*slice, warm)
		t.mark(at, func() {
			marks[i] = g.meter(worker)
			memories[i] = float64(memory(worker.Cmd.Process.Pid, "VmRSS")) / (1 << 20)
		})
	}
	t.mark(1, func() {
		s.printf("first event %s after the start of the process\n", time.Since(worker.began).Round(time.Millisecond))
	})
	t.await(slice*slices, worker)
	figs := make([]figures, slices)
	for i := range figs {
		n := slice
		if i == 0 {
			n -= warm
		}
		figs[i].add(marks[i], marks[i+1], n)
		figs[i].peak = max(memories[i], memories[i+1])
		s.printf("%-10s%12.0f%14.0f%12.0f%10.1f%8d\n", label, figs[i].rate, figs[i].client, figs[i].broker, figs[i].peak, (slices-i)*slice)
	}
	s.printf("%d look-ups for %d requests; most memory ever held %.1f MiB\n", g.seen().Looks-looked, slice*slices, float64(memory(worker.Cmd.Process.Pid, "VmHWM"))/(1<<20))
	must(worker.finish(), "end the worker")
	t.ended += done // of the processes before
	t.judge(kindWorker)
	return figs
}

// wait lets time pass.
func (g *stage) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-g.ctx.Done():
		panic(broken("interrupted"))
	}
}
