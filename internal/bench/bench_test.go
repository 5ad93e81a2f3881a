// Package bench has no code, only the benchmark of the whole worker: what it
// costs beside the durable writes that it cannot do without.
//
// Two programs do the same work in turns, in one run, on one nats-server process
// and one answerer in the place of the HostUp API:
//
//   - the floor is the raw chain on nats.go with nothing else: receive, KV
//     create, POST, KV update, publish with a message id, ack. It has no safety
//     at all. It comes in two forms: with kept-alive connections, by which the
//     worker is judged, and with a connection for each call, as the worker's
//     creates must have (ARCHITECTURE.md, the create channel).
//   - the worker is `worker run` as it ships, with its default settings but for
//     the concurrency.
//
// `make bench` runs all scenarios but million, `make bench-million` that one and
// `make bench-short` a small form of all, which judges correctness and no time;
// SCENARIO=name runs one. Ratios within a run are what counts: absolute figures
// are those of a noisy machine. Each goal is printed as met or missed by how
// much; a miss fails the run with -judge only, because it may be the machine's.
// A run in which a key has not exactly one create and one event always fails.
//
// The files: bench_test.go chooses what runs, suite_test.go prints and judges,
// figures_test.go is the arithmetic, stage_test.go the broker, the answerer and
// the programs, tally_test.go places requests and counts their events,
// turn_test.go is one program's turn, floor_test.go and answerer_test.go are the
// processes that this package provides itself; one file a scenario has the rest.
// docs/performance.md has what was measured.
package bench

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

type scenario struct {
	name string
	// long says that it only runs when it is named.
	long bool
	run  func(context.Context, *suite)
}

var scenarios = []scenario{
	{"chain", false, chain},
	{"pace", false, pace},
	{"startup", false, startup},
	{"million", true, million},
}

func TestMain(m *testing.M) {
	s := suite{concurrency: list[int]{parse: strconv.Atoi}, latency: list[time.Duration]{parse: time.ParseDuration}}
	names := flag.String("scenario", "", `scenarios to run, separated by commas, or "all" for those that take minutes; none runs the suite's own tests instead`)
	role := flag.String("role", "", "what the suite starts itself as: floor or answerer")
	task := flag.String("task", "", "what that process is told")
	flag.Var(&s.concurrency, "concurrency", "of the scenario chain, separated by commas")
	flag.Var(&s.latency, "latency", "of the API in the scenario chain, separated by commas")
	flag.IntVar(&s.reps, "reps", 3, "how often each turn is taken")
	flag.DurationVar(&s.length, "length", defaultLength, "of one turn, about")
	flag.IntVar(&s.backlog, "backlog", 1_000_000, "requests of the scenario million")
	flag.BoolVar(&s.judge, "judge", false, "fail when a goal is missed")
	flag.StringVar(&s.beside, "beside", "", "another program of the worker that takes turns in the scenario chain as well, to compare the two")
	flag.StringVar(&s.profiles, "profile", "", "directory for profiles of the worker's turns, which cost time themselves")
	flag.Parse()
	if *role != "" {
		os.Exit(child(*role, *task))
	}
	if *names == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := s.play(ctx, *names)
	stop()
	os.Exit(code)
}

// play runs the scenarios and returns the exit code.
func (s *suite) play(ctx context.Context, names string) int {
	s.out, s.short = os.Stdout, testing.Short()
	if s.short {
		s.shrink()
	}
	wanted := strings.Split(names, ",")
	for _, name := range wanted {
		if name != "all" && !slices.ContainsFunc(scenarios, func(c scenario) bool { return c.name == name }) {
			s.printf("bench: no scenario %q\n", name)
			return 2
		}
	}
	defer s.end()
	if err := s.begin(ctx); err != nil {
		s.printf("bench: %v\n", err)
		return 1
	}
	for _, c := range scenarios {
		all := slices.Contains(wanted, "all") && (s.short || !c.long)
		if ctx.Err() == nil && (all || slices.Contains(wanted, c.name)) {
			s.in(ctx, c)
		}
	}
	if ctx.Err() != nil {
		s.printf("bench: interrupted\n")
		return 130
	}
	return s.verdict()
}
