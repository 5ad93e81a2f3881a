package bench

import (
	"context"
	"os/exec"
	"slices"
	"time"
)

// The scenario startup.
const (
	startRounds  = 20
	startBacklog = 200
	goalFirst    = 300 // ms from the start of the process to its first event
	goalVersion  = 50  // ms for `worker version`
)

// startup looks how soon a worker that finds a backlog has published its first
// event, and how long it takes to say its version.
func startup(ctx context.Context, s *suite) {
	g := s.stage(ctx)
	defer g.end()
	rounds := startRounds
	if s.short {
		rounds = 2
	}
	var first, version series
	for range rounds {
		first = append(first, milliseconds(g.first()))
		cmd := exec.CommandContext(ctx, s.program("worker"), "version")
		cmd.Env = []string{"HOME=" + g.dir}
		began := time.Now()
		must(cmd.Run(), "worker version")
		version = append(version, milliseconds(time.Since(began)))
	}
	s.printf("%d times\n", rounds)
	s.goalf(atMost(goalFirst), first.median(), "from the start of the process to its first event: median %.0f ms, worst %.0f ms", first.median(), slices.Max(first))
	s.goalf(atMost(goalVersion), version.median(), "worker version: median %.0f ms, worst %.0f ms", version.median(), slices.Max(version))
}

// first starts a worker with a backlog waiting and returns when its first event
// was there.
func (g *stage) first() time.Duration {
	g.clear(0)
	t := g.tally()
	defer t.stop()
	t.backlog(startBacklog)
	var at time.Time
	t.mark(1, func() { at = time.Now() })
	worker := g.start(kindWorker, paceConcurrency)
	defer worker.Kill()
	t.await(startBacklog, worker)
	must(worker.finish(), "end the worker")
	t.judge(kindWorker)
	return at.Sub(worker.began)
}
