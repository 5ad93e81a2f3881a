package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// errSkipped says that the run was left out and may be.
var errSkipped = errors.New("SKIPPED")

// clusterMain runs the cluster scenarios and returns the exit code.
func (s *suite) clusterMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := s.drawSeed()
	if err == nil {
		defer os.RemoveAll(s.dir)
		err = s.runCluster(ctx)
	}
	switch {
	case errors.Is(err, errSkipped):
		s.printf("cluster: %v (REQUIRE_DOCKER=1 makes this a failure)\n", err)
		return 0
	case ctx.Err() != nil:
		s.printf("cluster: interrupted\n")
		return 130
	case err != nil:
		s.printf("cluster: FAILED: %v\n", err)
		return 1
	}
	return 0
}

// chosen are the scenarios that were asked for.
func (s *suite) chosen() ([]scenario, error) {
	wanted := slices.DeleteFunc(strings.Split(s.scenarios, ","), func(name string) bool { return name == "" })
	var found []scenario
	for _, sc := range scenarios {
		asked := slices.Contains(wanted, sc.name)
		wanted = slices.DeleteFunc(wanted, func(name string) bool { return name == sc.name })
		if asked || s.scenarios == "" && (sc.inShort || !s.short) {
			found = append(found, sc)
		}
	}
	if len(wanted) > 0 || len(found) == 0 {
		return nil, fmt.Errorf("there is no scenario %q", wanted)
	}
	return found, nil
}

func (s *suite) runCluster(ctx context.Context) (err error) {
	plays, err := s.chosen()
	if err != nil {
		return err
	}
	started := time.Now()
	d, err := openDocker(ctx)
	if errors.Is(err, brokertest.ErrNoDocker) && s.short && !requireDocker() {
		return fmt.Errorf("%w: %w", errSkipped, err)
	}
	if err != nil {
		return err
	}
	c := &cluster{suite: s, docker: d}
	defer func() { err = errors.Join(err, c.close()) }()
	workers, programs, every := 3, []string{shippedWorker, carelessWorker}, 40*time.Millisecond
	if s.short {
		workers, programs, every = 2, programs[:1], 60*time.Millisecond
	}
	if err := c.build(ctx, programs...); err != nil {
		return err
	}
	built := time.Since(started)
	if err := c.start(ctx, workers); err != nil {
		return err
	}
	s.printf("cluster: seed %d, %d nodes, streams with %d replicas, %d workers at %d at once; images after %.1f s, ready after %.1f s\n",
		s.seed, len(c.nodes), replicas, len(c.workers), workerConcurrency, built.Seconds(), time.Since(started).Seconds())
	run := &clusterRun{cluster: c, every: every}
	if err := run.playAll(ctx, plays); err != nil {
		return err
	}
	if !s.short && s.scenarios == "" {
		if err := run.mustFail(ctx); err != nil {
			return err
		}
	}
	s.printf("\ncluster: %d scenarios passed in %s\n", len(plays), time.Since(started).Round(time.Second))
	return nil
}

// clusterRun is the scenarios that share a cluster.
type clusterRun struct {
	*cluster

	witness *witness
	every   time.Duration
	orders  []order
}

// playAll runs scenarios and then judges all of them together: what happened
// after the end of its own scenario shows only there.
func (r *clusterRun) playAll(ctx context.Context, plays []scenario) (err error) {
	if r.witness, err = newWitness(r.nc); err != nil {
		return err
	}
	failed := 0
	var last *stage
	for _, sc := range plays {
		r.suite.printf("\n=== %s: %s\n", sc.name, sc.about)
		last = r.play(ctx, sc)
		r.orders = append(r.orders, last.load.sent()...)
		missing := last.missing()
		last.report(missing)
		if len(last.violations)+len(missing) > 0 {
			failed++
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d scenarios", failed, len(plays))
	}
	// The last answers of the workers are part of it.
	if err := r.stopWorkers(ctx); err != nil {
		return err
	}
	all, err := last.known(ctx, r.orders)
	if err != nil {
		return err
	}
	found := all.judge()
	r.suite.printf("\ncluster: all scenarios together: %d keys, %d creates, %d servers billed, %d events; violations %d\n",
		len(all.orders), len(all.creates), len(all.invoices), len(all.events), len(found))
	if len(found) > 0 {
		return fmt.Errorf("%v", found)
	}
	return nil
}

func (r *clusterRun) play(ctx context.Context, sc scenario) *stage {
	s := &stage{
		cluster: r.cluster, scenario: sc, witness: r.witness,
		load: &load{name: sc.name, every: r.every, witness: r.witness},
	}
	s.play(ctx)
	return s
}

// mustFail shows that the witness sees what is to be seen: workers that look
// and find nothing have to be caught buying twice.
func (r *clusterRun) mustFail(ctx context.Context) error {
	const unsafe = "no-lookup"
	if err := r.startWorkers(ctx, 2, carelessWorker, unsafe); err != nil {
		return err
	}
	r.suite.printf("\n=== %s: kill the node that leads, with WORKER_FAILPOINTS_UNSAFE=%s: it has to be caught\n", unsafe, unsafe)
	r.suite.short = true
	s := r.play(ctx, scenario{name: unsafe, act: killLeaders, heldEnds: true})
	doubles := 0
	for _, v := range s.violations {
		if v.kind == harnessBroke {
			return fmt.Errorf("%s: %s", v.kind, v.text)
		}
		if v.kind == tooManyServers {
			doubles++
		}
	}
	r.suite.printf("caught: %d keys with more than one paid server, %d violations\n", doubles, len(s.violations))
	if doubles == 0 {
		return errors.New("a cluster of workers that buy twice was not noticed")
	}
	return nil
}

// missing are the figures without which the scenario shows nothing.
func (s *stage) missing() []string {
	if s.facts == nil {
		return nil
	}
	t := newTally()
	t.addFacts(s.facts)
	var all []string
	for _, figure := range []struct {
		what string
		n    int
	}{
		{"servers billed", t.invoices},
		{"adopted after a lost answer", t.adopted},
		{"re-created after one that created nothing", t.recreated},
		{"refused", t.failures},
	} {
		if figure.n == 0 {
			all = append(all, figure.what)
		}
	}
	if t.held > 0 || t.unknown > 0 {
		all = append(all, "an end without a person, for all of them")
	}
	return all
}

// report prints the figures, and what is known of the keys of violations.
func (s *stage) report(missing []string) {
	out := s.suite.out
	if s.facts != nil {
		t := newTally()
		t.addFacts(s.facts)
		var creates, events []time.Time
		for _, c := range s.facts.creates {
			creates = append(creates, c.At)
		}
		for _, e := range s.facts.events {
			events = append(events, e.at)
		}
		s.suite.printf(`%d keys in %d messages; %d creates, %d servers billed, %d adopted, %d re-created, %d held
%d provisioned, %d failed, %d events stored twice
longest gap between two creates %.1f s, between two events %.1f s
`,
			len(s.facts.orders), s.messages, t.creates, t.invoices, t.adopted, t.recreated, t.held,
			t.provisioned, t.failures, t.repeated, longestGap(creates).Seconds(), longestGap(events).Seconds())
	}
	for _, what := range missing {
		s.suite.printf("NOT MET: %s\n", what)
	}
	s.suite.printf("violations %d\n", len(s.violations))
	if len(s.violations) == 0 {
		return
	}
	keys := make(map[string]bool)
	for _, v := range s.violations {
		s.suite.printf("VIOLATION %s: %s %s\n", v.kind, v.key, v.text)
		if v.key != "" && len(keys) < 10 {
			keys[v.key] = true
		}
	}
	if s.facts != nil {
		s.facts.tell(out, keys)
	}
	for _, b := range s.workers {
		s.suite.printf("--- what %s said of trouble\n%s\n", b.name, troubles(b.tail(20_000)))
	}
	for _, b := range s.nodes {
		s.suite.printf("--- the end of the log of %s\n%s\n", b.name, b.tail(60))
	}
}

// troubles is the end of a worker's log without what it did for its requests.
func troubles(log string) string {
	var lines []string
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"key":`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-60):], "")
}

// longestGap is the longest time between neighbours.
func longestGap(at []time.Time) time.Duration {
	slices.SortFunc(at, time.Time.Compare)
	var longest time.Duration
	for i := range len(at) - 1 {
		longest = max(longest, at[i+1].Sub(at[i]))
	}
	return longest
}
