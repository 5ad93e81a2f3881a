// Package fleet has no code, only the fleet suite: several real worker
// processes on a real nats-server process have to behave as one careful client
// of the simulated HostUp API. It measures how much of a rate limit they use,
// how long after a 429, a pause or a failing API creates still arrive, what
// they do when the account is full, and what waiting costs. The witness is the
// simulator's own log beside the event stream; a worker is asked for /readyz
// only, and its memory is read from the kernel.
//
// `make fleet` runs all scenarios (minutes), `make fleet-short` a few of them in
// a short form, SCENARIO=name one. Each prints its figures with ok or FAILED,
// and one FAILED fails the run. Figures are counts, and ratios within one run:
// a slow machine makes it longer. Without -scenario only the suite's own tests
// run.
//
// The files: bench_test.go prints and judges, world_test.go makes a broker, an
// API and replicas, replica_test.go is one worker process, witness_test.go
// reads what requesters are told; one file a scenario has the rest.
package fleet

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// scenario is one way in which a fleet can be careless.
type scenario struct {
	name string
	// short says that it is part of the short form.
	short bool
	run   func(context.Context, *bench)
}

var scenarios = []scenario{
	{"throttle", true, throttle},
	{"stop", false, stopAll},
	{"breaker", false, breaker},
	{"admission", true, admission},
	{"waiting", false, waiting},
	{"brake", true, brake},
	{"auth", false, auth},
	{"fairness", false, fairness},
	{"deadlines", false, deadlines},
}

func TestMain(m *testing.M) {
	names := flag.String("scenario", "", `scenarios to run, separated by commas, or "all"; none runs the suite's own tests instead`)
	flag.Parse()
	if *names == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, *names)
	stop()
	os.Exit(code)
}

// run plays the scenarios and returns the exit code.
func run(ctx context.Context, names string) int {
	b := &bench{out: os.Stdout, short: testing.Short()}
	wanted := strings.Split(names, ",")
	for _, name := range wanted {
		if name != "all" && !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name }) {
			b.printf("fleet: no scenario %q\n", name)
			return 2
		}
	}
	if err := b.begin(ctx); err != nil {
		b.printf("fleet: %v\n", err)
		return 1
	}
	defer b.end()
	for _, s := range scenarios {
		all := slices.Contains(wanted, "all") && (s.short || !b.short)
		if ctx.Err() == nil && (all || slices.Contains(wanted, s.name)) {
			s.run(ctx, b)
		}
	}
	if ctx.Err() != nil {
		b.printf("fleet: interrupted\n")
		return 130
	}
	return b.verdict()
}
