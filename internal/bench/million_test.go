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
	millionEnd         = 3  // so many of them are its beginning, and its end
	goalGrowth         = 1.10
	// aged is beyond the age at which the worker looks a name up before its first
	// create (ARCHITECTURE.md): all requests of this scenario are older, so that
	// each of them costs the same.
	aged = 65 * time.Second
)

// million lets one worker drain a backlog of a million requests, which leaves a
// ledger with a million records, and looks whether a request costs more when
// many wait, when many have been done, and how much memory that takes:
//
//	alone   three parts of the requests, an empty ledger
//	slices  the backlog, part by part: the first have all the others waiting, the
//	        last find a full ledger
//	after   three parts once more, on the full ledger, by a new process
//
// That takes so long that the machine is another at its end, so what is compared
// is how much more than a beat of the same minute a request cost: on average, for
// a part that cost a multiple is no outlier.
func million(ctx context.Context, s *suite) {
	g := s.stage(ctx)
	defer g.end()
	beats := startPulse()
	defer beats.stop()
	slice := s.backlog / millionSlices
	s.printf("concurrency %d, API at once, slices of %d requests, each more than a minute old when it is taken\n", millionConcurrency, slice)
	s.printf("%-10s%12s%14s%12s%10s%8s%12s\n", "", "requests/s", "client CPU µs", "broker µs", "RSS MiB", "waiting", "a beat µs")
	g.clear(0)
	alone := g.drain("alone", slice, millionEnd, 0, beats)
	g.clear(0)
	all := g.drain("slice", slice, millionSlices, 0, beats)
	after := g.drain("after", slice, millionEnd, millionSlices*slice, beats)

	first, last := all[:millionEnd], all[len(all)-millionEnd:]
	for _, c := range []struct {
		what     string
		got, by  []figures
		describe string
	}{
		{"a full backlog", first, alone, "first slices beside alone"},
		{"draining it", last, first, "last slices beside first"},
		{"a full ledger", after, alone, "after beside alone"},
	} {
		cpu := inBeats(c.got, client).mean() / inBeats(c.by, client).mean()
		span := inBeats(c.got, perRequest).mean() / inBeats(c.by, perRequest).mean()
		s.goalf(atMost(goalGrowth), cpu, "growth of client CPU a request by %s (%s): %.2f", c.what, c.describe, cpu)
		s.goalf(atMost(goalGrowth), span, "growth of time a request by %s (%s): %.2f", c.what, c.describe, span)
	}
	peak := 0.0
	for _, f := range append(all, after...) {
		peak = math.Max(peak, f.peak)
	}
	s.goalf(atMost(goalMemory), peak, "worker's resident memory, largest of all slices: %.1f MiB", peak)
	s.printf("  the last slice's memory is %.2f times that of the first\n", all[len(all)-1].peak/all[0].peak)
}

// inBeats is what requests took, in beats of the time in which they did.
func inBeats(of []figures, what func(figures) float64) series {
	r := make(series, len(of))
	for i, f := range of {
		r[i] = what(f) / f.beat
	}
	return r
}

func perRequest(f figures) float64 { return 1e6 / f.rate }

// drain places a number of slices, lets them grow old, and lets one worker work
// them off. So many requests have been done on the same streams before.
func (g *stage) drain(label string, slice, slices, done int, beats *pulse) []figures {
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
	memories, speeds := make([]float64, slices+1), make([]float64, slices+1)
	worker := g.start(kindWorker, millionConcurrency)
	defer worker.Kill()
	for i := range marks {
		at := max(i*slice, warm)
		t.mark(at, func() {
			marks[i] = g.meter(worker)
			memories[i] = float64(memory(worker.Cmd.Process.Pid, "VmRSS")) / (1 << 20)
			speeds[i] = beats.lap()
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
		figs[i].peak, figs[i].beat = max(memories[i], memories[i+1]), speeds[i+1]
		s.printf("%-10s%12.0f%14.0f%12.0f%10.1f%8d%12.0f\n", label, figs[i].rate, figs[i].client, figs[i].broker, figs[i].peak, (slices-i)*slice, figs[i].beat)
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
