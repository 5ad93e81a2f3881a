// Package crash has no code, only the crash suite: real worker processes on a
// real nats-server process, killed, stopped, continued and restarted at every
// step of the order of effects while the simulated HostUp API loses answers,
// and then the only question that matters, asked of the simulator's invoices
// and of the event stream, never of a worker: was anything bought twice, lost
// or kept from its requester?
//
// `make crash` runs it (minutes), `make crash-short` a short form. What a round
// does is drawn from a seed and the round's number alone and printed with a
// violation, so SEED, FIRST and ROUNDS run it again; its timing is the
// machine's. -about runs rounds about some failpoints only. Without -rounds only
// the suite's own tests run.
//
// `make cluster` and `make cluster-short` ask the same of a cluster of three
// nats-servers, workers and the simulator, all in containers, while nodes are
// cut off, killed, paused, restarted and stopped.
//
// The files: plan_test.go draws a round, round_test.go runs it with the
// processes of workers_test.go and internal/proctest, pulse_test.go watches the
// machine meanwhile, witness_test.go collects
// what is known of it from outside, judge_test.go finds what is wrong with
// that, and tally_test.go counts what was done. Of the cluster, clusterrun_test.go
// is the run, scenario_test.go one scenario of it, acts_test.go what it does to
// the nodes, load_test.go the requests meanwhile, cluster_test.go what they run
// on, containers_test.go the containers, and api_test.go asks the simulator.
package crash

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/proctest"
)

// suite is what one call of the suite is asked for.
type suite struct {
	rounds, first, parallel, blind int

	seed      uint64
	allowHeld bool
	race      bool
	coverage  bool
	unsafe    string
	about     string

	// Of the cluster scenarios.
	cluster, short bool
	scenarios      string

	out      io.Writer
	dir      string // of everything that is built
	children proctest.Children
	pulse    pulse
}

func TestMain(m *testing.M) {
	s := suite{out: os.Stdout}
	flag.IntVar(&s.rounds, "rounds", 0, "rounds to run; 0 runs the suite's own tests instead")
	flag.IntVar(&s.first, "first", 0, "number of the first round; 0 lets the seed decide")
	flag.Uint64Var(&s.seed, "seed", 0, "seed of all draws; 0 draws one")
	flag.IntVar(&s.parallel, "at-once", 4, "rounds in work at once")
	flag.IntVar(&s.blind, "blind", 0, "afterwards so many rounds each with workers that make a known mistake, and as many again until they are caught")
	flag.BoolVar(&s.allowHeld, "allow-held", false, "a request that is held has ended, and what it bought is announced: for a worker without look-ups")
	flag.BoolVar(&s.race, "race-worker", false, "build the worker with the race detector")
	flag.BoolVar(&s.coverage, "coverage", false, "fail when an action was never taken at the first or second time of a failpoint")
	flag.StringVar(&s.about, "about", "", "only rounds about these failpoints, separated by commas, as gate or row.before")
	flag.StringVar(&s.unsafe, "unsafe", "", "WORKER_FAILPOINTS_UNSAFE of all workers")
	flag.BoolVar(&s.cluster, "cluster", false, "run the cluster scenarios in containers; with -short some of them, and shorter")
	flag.StringVar(&s.scenarios, "scenarios", "", "names of the cluster scenarios to run, separated by commas; all unless set")
	flag.Parse()
	s.short = testing.Short()
	switch {
	case s.cluster:
		os.Exit(s.clusterMain())
	case s.rounds > 0:
		os.Exit(s.main())
	default:
		os.Exit(m.Run())
	}
}

// main runs the suite and returns its exit code.
func (s *suite) main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := s.drawSeed()
	if err != nil {
		s.printf("crash: %v\n", err)
		return 1
	}
	if s.first == 0 {
		s.first = 1 + int(s.seed)%len(strikes())
	}
	defer os.RemoveAll(s.dir)
	defer s.children.KillAll()
	err = s.build(ctx)
	if err == nil {
		err = s.refuses(ctx)
	}
	if err != nil {
		s.printf("crash: %v\n", err)
		return 1
	}
	go s.pulse.run(ctx)
	started := time.Now()
	rounds := s.chosenRounds()
	if len(rounds) == 0 {
		s.printf("crash: no round is about %q\n", s.about)
		return 2
	}
	s.printf("crash: seed %d, %d rounds from %d to %d, %d at once\n", s.seed, len(rounds), rounds[0], rounds[len(rounds)-1], s.parallel)
	all := newTally()
	s.play(ctx, all, slices.Values(rounds), s.unsafe, s.out)
	if s.coverage {
		s.cover(ctx, all)
	}
	all.print(s.out, time.Since(started))
	s.printf("this machine kept the simulated API from running for at most %s; the rounds' times have room for %s\n", s.pulse.worst(started).Round(time.Millisecond), room)
	code := all.verdict(s)
	if code == 0 && s.blind > 0 && ctx.Err() == nil {
		code = s.mustFail(ctx)
	}
	if ctx.Err() != nil {
		s.printf("crash: interrupted\n")
		return 130
	}
	return code
}

// drawSeed draws the seed, unless one was given, and makes the directory of
// what is built.
func (s *suite) drawSeed() (err error) {
	if s.seed == 0 {
		s.seed = uint64(rand.Uint32()) + 1
	}
	s.dir, err = os.MkdirTemp("", "crash-")
	return err
}

// mustFail shows that the suite can fail: workers that retry what they do not
// know, and workers whose look-ups are switched off, have to be caught buying
// twice. One round in three has nothing in it that a blind retry buys twice, so
// the rounds go on until one has, for a bounded time.
func (s *suite) mustFail(ctx context.Context) int {
	code := 0
	for _, unsafe := range []string{"blind-retry", "no-lookup"} {
		s.printf("\ncrash: %d rounds and up to %d with WORKER_FAILPOINTS_UNSAFE=%s: it has to be caught\n", s.blind, s.blind*blindTries, unsafe)
		all, doubles := newTally(), 0
		for try := 0; try < blindTries && doubles == 0 && ctx.Err() == nil; try++ {
			s.play(ctx, all, count(s.first+try*s.blind, s.blind), unsafe, io.Discard)
			doubles = all.violations[tooManyServers]
		}
		s.printf("crash: caught: %d keys with more than one paid server; violations in %d of %d rounds\n", doubles, all.failed, all.rounds)
		if doubles == 0 && ctx.Err() == nil {
			s.printf("crash: FAILED: the suite did not notice a worker that buys twice\n")
			code = 1
		}
	}
	return code
}

// blindTries bounds how often as many rounds again are played when nothing was
// bought twice in those before.
const blindTries = 8

// coverTries bounds how often a strike that was not taken gets another round.
const coverTries = 8

// cover gives each strike that was not taken further rounds whose main one it
// is: what is armed is reached by chance, for another worker may come first.
func (s *suite) cover(ctx context.Context, all *tally) {
	next := s.first + s.rounds
	for range coverTries {
		var more []int
		for n := range count(next, len(strikes())) {
			if all.done[mainStrike(n)] == 0 {
				more = append(more, n)
			}
		}
		if len(more) == 0 || ctx.Err() != nil {
			return
		}
		next += len(strikes())
		s.play(ctx, all, slices.Values(more), s.unsafe, s.out)
	}
}

// chosenRounds are the numbers of the rounds to run: as many as asked for, about
// some failpoints only if that was asked for.
func (s *suite) chosenRounds() []int {
	var chosen []int
	points := strings.Split(s.about, ",")
	for n := range count(s.first, s.rounds*len(strikes())) {
		at := mainStrike(n).point + "."
		if len(chosen) < s.rounds && (s.about == "" || slices.ContainsFunc(points, func(p string) bool { return strings.HasPrefix(at, p+".") })) {
			chosen = append(chosen, n)
		}
	}
	return chosen
}

// count gives n numbers from first on.
func count(first, n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(first + i) {
				return
			}
		}
	}
}

// play runs rounds, several at once, reports what went wrong to out and adds up
// what they did.
func (s *suite) play(ctx context.Context, all *tally, rounds iter.Seq[int], unsafe string, out io.Writer) {
	var mu sync.Mutex
	var working sync.WaitGroup
	var inWork atomic.Int64
	numbers := make(chan int)
	for range s.parallel {
		working.Go(func() {
			for n := range numbers {
				inWork.Add(1)
				r := s.playOne(ctx, n, unsafe)
				inWork.Add(-1)
				mu.Lock()
				if ctx.Err() == nil {
					all.add(r)
					r.report(out)
					if all.rounds%50 == 0 {
						_, _ = fmt.Fprintf(out, "crash: %d rounds done, %d with violations\n", all.rounds, all.failed)
					}
				}
				mu.Unlock()
			}
		})
	}
	for n := range rounds {
		s.pulse.breathe(ctx, &inWork)
		select {
		case numbers <- n:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(numbers)
	working.Wait()
}

// playOne runs one round. A panic in it is a failed round, not the end of the
// suite with processes left behind.
func (s *suite) playOne(ctx context.Context, n int, unsafe string) (r *round) {
	r = newRound(s, drawPlan(s.seed, n, s.allowHeld), unsafe)
	defer func() {
		if p := recover(); p != nil {
			r.violate(harnessBroke, "", fmt.Sprintf("%v\n%s", p, debug.Stack()))
		}
		r.end()
	}()
	r.play(ctx)
	return r
}

// build makes the programs: the worker with failpoints and as it ships, and the
// nats-server that go.mod pins.
func (s *suite) build(ctx context.Context) error {
	const path = "github.com/hostup/deploy-worker/cmd/worker"
	flags, env := []string{"-tags", "failpoints"}, []string(nil)
	if s.race {
		flags, env = append(flags, "-race"), []string{"CGO_ENABLED=1"}
	}
	return errors.Join(
		proctest.Compile(ctx, env, s.program("worker"), path, flags...),
		proctest.Compile(ctx, nil, s.program("shipped"), path),
		proctest.Compile(ctx, nil, s.program("nats-server"), "github.com/nats-io/nats-server/v2"),
	)
}

// refuses checks that the worker as it ships does not start when it is asked to
// fail on purpose, nor when it is asked to be careless.
func (s *suite) refuses(ctx context.Context) error {
	for _, variable := range []string{"WORKER_FAILPOINTS=handle.before:1=kill", "WORKER_FAILPOINTS_UNSAFE=blind-retry"} {
		cmd := exec.CommandContext(ctx, s.program("shipped"), "run")
		cmd.Env = []string{variable, "HOSTUP_API_TOKEN=x", "HOME=" + s.dir, "NATS_URL=nats://127.0.0.1:1"}
		out, err := cmd.CombinedOutput()
		name, _, _ := strings.Cut(variable, "=")
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), name) {
			return fmt.Errorf("a worker without failpoints must refuse %s with exit code 2: %w\n%s", variable, err, out)
		}
	}
	return nil
}

func (s *suite) program(name string) string { return filepath.Join(s.dir, name) }

func (s *suite) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format, args...) }
