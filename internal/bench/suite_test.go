package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/hostup/deploy-worker/internal/proctest"
)

const (
	// defaultLength is how long one turn measures, about.
	defaultLength = 3 * time.Second
	// patience is how long something that has to happen may take before it is
	// taken never to happen.
	patience = 2 * time.Minute
)

// suite runs scenarios, prints their figures and remembers what went wrong and
// which goals were missed.
type suite struct {
	concurrency list[int]
	latency     list[time.Duration]
	reps        int
	length      time.Duration
	backlog     int
	beside      string
	judge       bool
	short       bool
	profiles    string

	out      io.Writer
	dir      string
	children proctest.Children
	started  time.Time
	faults   int
	goals    int
	missed   []string
}

// shrink makes all of it take a minute or two.
func (s *suite) shrink() {
	s.reps, s.length, s.backlog = 1, 200*time.Millisecond, 6_000
	if s.concurrency.values == nil {
		s.concurrency.values = []int{1, 64}
	}
	if s.latency.values == nil {
		s.latency.values = []time.Duration{0, 20 * time.Millisecond}
	}
}

// begin builds the worker as it ships and the nats-server that go.mod pins.
func (s *suite) begin(ctx context.Context) (err error) {
	s.started = time.Now()
	if s.concurrency.values == nil {
		s.concurrency.values = []int{1, 16, 64, 256, 1024}
	}
	if s.latency.values == nil {
		s.latency.values = []time.Duration{0, 20 * time.Millisecond, 200 * time.Millisecond}
	}
	if s.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return err
	}
	var flags []string
	if s.profiles != "" {
		overlay, err := s.overlay()
		if err != nil {
			return err
		}
		flags = []string{"-overlay", overlay}
	}
	if err := proctest.Compile(ctx, nil, s.program("worker"), "github.com/hostup/deploy-worker/cmd/worker", flags...); err != nil {
		return err
	}
	if err := proctest.Compile(ctx, nil, s.program("nats-server"), "github.com/nats-io/nats-server/v2"); err != nil {
		return err
	}
	s.printf("bench: %d CPUs, %s, %d repetitions of about %s\n", runtime.NumCPU(), runtime.Version(), s.reps, s.length)
	return nil
}

func (s *suite) end() {
	s.children.KillAll()
	_ = os.RemoveAll(s.dir)
}

func (s *suite) program(name string) string { return filepath.Join(s.dir, name) }

func (s *suite) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format, args...) }

// goalf prints a figure that has a goal. The short form measures too little to
// judge by the clock.
func (s *suite) goalf(g goal, got float64, format string, args ...any) {
	text, met := g.verdict(got)
	if s.short {
		text, met = "not judged", true
	}
	s.goals++
	line := fmt.Sprintf(format, args...)
	s.printf("  %s, goal %v: %s\n", line, g, text)
	if !met {
		s.missed = append(s.missed, line+", goal "+g.String()+": "+text)
	}
}

// faultf prints what must not be, whatever the machine does.
func (s *suite) faultf(format string, args ...any) {
	s.faults++
	s.printf("  FAILED: "+format+"\n", args...)
}

// verdict prints the sum and returns the exit code.
func (s *suite) verdict() int {
	s.printf("\nbench: %d goals, %d missed, %d failures, in %s\n", s.goals, len(s.missed), s.faults, time.Since(s.started).Round(time.Second))
	for _, m := range s.missed {
		s.printf("  missed: %s\n", m)
	}
	if s.faults > 0 || s.judge && len(s.missed) > 0 {
		return 1
	}
	return 0
}

// broken ends a scenario that cannot go on; it counts as a failure.
type broken string

func must(err error, doing string) {
	if err != nil {
		panic(broken(doing + ": " + err.Error()))
	}
}

// in plays one scenario.
func (s *suite) in(ctx context.Context, c scenario) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case broken:
			if ctx.Err() == nil {
				s.faultf("%s: %s", c.name, string(p))
			}
		default:
			s.faultf("%s: the suite itself failed: %v\n%s", c.name, p, debug.Stack())
		}
	}()
	s.printf("\n== %s ==\n", c.name)
	c.run(ctx, s)
}
