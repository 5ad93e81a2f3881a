package crash

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// scenario is one way to trouble a cluster under load.
type scenario struct {
	name, about string
	inShort     bool
	act         func(context.Context, *stage) error
	// heldEnds is for workers whose look-ups are switched off: what they hold
	// stays held.
	heldEnds bool
}

// scenarios in the order in which they run. The cluster is whole when one
// begins.
var scenarios = []scenario{
	{name: "leader", about: "kill the node that leads", inShort: true, act: killLeaders},
	{name: "cut", about: "cut a node off the network", inShort: true, act: cutOff},
	{name: "rolling", about: "restart the nodes one after the other", act: restartAll},
	{name: "pause", about: "pause a node and let it go on", act: pauseNodes},
	{name: "two-of-three", about: "stop two of three nodes", inShort: true, act: stopTwo},
}

// Times of the acts.
const (
	// storming is how long a scenario may take until its load ends.
	storming = 15 * time.Minute
	// healing is how long a cluster may take to be whole again, and work to go
	// on.
	healing = 90 * time.Second
	// finishing is how long everything may take to end once all is well.
	finishing = 3 * time.Minute
	// between is for work before, between and after the troubles.
	between = 2 * time.Second
)

// stage is one scenario in work.
type stage struct {
	*cluster

	scenario scenario
	witness  *witness
	load     *load
	started  time.Time
	first    uint64 // sequence of the last request before

	mu         sync.Mutex
	violations []violation
	facts      *facts
	messages   uint64
}

func (s *stage) sayf(format string, args ...any) {
	s.suite.printf("%7.1f s  %s\n", time.Since(s.started).Seconds(), fmt.Sprintf(format, args...))
}

func (s *stage) violatef(kind breach, key, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = append(s.violations, violation{kind, key, fmt.Sprintf(format, args...)})
}

// play runs a scenario under load to its judgement.
func (s *stage) play(ctx context.Context) {
	s.started = time.Now()
	if err := s.perform(ctx); err != nil {
		s.violatef(harnessBroke, "", "%v", err)
	}
	s.judgeWorkers(ctx)
}

func (s *stage) perform(ctx context.Context) error {
	info, err := s.js.Stream(ctx, requestStream)
	if err != nil {
		return err
	}
	s.first = info.CachedInfo().State.LastSeq
	if err := s.api.misbehave(ctx, s.load.rules()); err != nil {
		return err
	}
	patience, done := context.WithTimeout(ctx, storming)
	defer done()
	loading, unload := context.WithCancel(ctx)
	defer unload()
	s.load.sending.Go(func() { s.load.run(loading, patience) })
	if s.watch(ctx, between); ctx.Err() != nil {
		return ctx.Err()
	}
	err = s.scenario.act(ctx, s)
	if err == nil {
		s.watch(ctx, between)
	}
	unload()
	if err != nil {
		done()
	}
	s.load.sending.Wait()
	if err != nil {
		return err
	}
	s.await(ctx)
	return s.testify(ctx)
}

// watch lets time pass and collects events meanwhile, as far as there is
// somebody to ask.
func (s *stage) watch(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	_ = until(ctx, d, func() bool {
		_ = s.witness.poll(ctx)
		return false
	})
}

// heal waits until the cluster is whole again.
func (s *stage) heal(ctx context.Context) error {
	began := time.Now()
	if !until(ctx, healing, func() bool { return s.whole(ctx) }) {
		return fmt.Errorf("the cluster is not whole %s after its nodes came back", healing)
	}
	s.sayf("the cluster is whole again after %.1f s", time.Since(began).Seconds())
	return nil
}

// await waits until every key has ended and no request is left.
func (s *stage) await(ctx context.Context) {
	began := time.Now()
	orders := s.load.sent()
	ended := until(ctx, finishing, func() bool {
		if s.witness.poll(ctx) != nil || len(unended(orders, s.witness.events, s.scenario.heldEnds)) > 0 {
			return false
		}
		left, err := s.witness.requestsLeft(ctx)
		return err == nil && (left == 0 || s.scenario.heldEnds)
	})
	if ended {
		s.sayf("everything has ended %.1f s after the last request", time.Since(began).Seconds())
		return
	}
	left, err := s.witness.requestsLeft(ctx)
	s.violatef(notEnded, "", "after %s: %d keys without an outcome, %d messages left in the request stream (%v)",
		finishing, len(unended(orders, s.witness.events, false)), left, err)
}

// testify collects what is known of the scenario's own orders, and judges.
func (s *stage) testify(ctx context.Context) error {
	all, err := s.known(ctx, s.load.sent())
	if err != nil {
		return err
	}
	s.facts = all.only(s.load.name + "-")
	for _, v := range s.facts.judge() {
		s.violatef(v.kind, v.key, "%s", v.text)
	}
	info, err := s.js.Stream(ctx, requestStream)
	if err != nil {
		return err
	}
	s.messages = info.CachedInfo().State.LastSeq - s.first
	return nil
}

// known is what the API and the event stream tell.
func (s *stage) known(ctx context.Context, orders []order) (*facts, error) {
	if err := s.witness.poll(ctx); err != nil {
		return nil, fmt.Errorf("read the events: %w", err)
	}
	f := &facts{orders: orders, events: s.witness.events}
	var err error
	if f.creates, err = s.api.creates(ctx); err != nil {
		return nil, err
	}
	f.invoices, err = s.api.invoices(ctx)
	return f, err
}

// only is what is known of names that begin the same.
func (f *facts) only(prefix string) *facts {
	mine := *f
	mine.creates = slices.DeleteFunc(slices.Clone(f.creates), func(c simulator.Create) bool { return !strings.HasPrefix(c.Name, prefix) })
	mine.invoices = slices.DeleteFunc(slices.Clone(f.invoices), func(i simulator.Invoice) bool { return !strings.HasPrefix(i.Name, prefix) })
	mine.events = slices.DeleteFunc(slices.Clone(f.events), func(e event) bool { return !strings.HasPrefix(e.Key, "key-"+prefix) })
	return &mine
}

// judgeWorkers: no trouble of the cluster is a reason for a worker to end or to
// break.
func (s *stage) judgeWorkers(ctx context.Context) {
	for _, w := range s.workers {
		running, code, err := w.state(ctx)
		if err != nil || !running {
			s.violatef(workerBroke, "", "%s ended by itself with code %d (%v)", w.name, code, err)
		}
		for line := range strings.SplitSeq(w.tail(100_000), "\n") {
			if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
				s.violatef(workerBroke, "", "%s: %s", w.name, line)
			}
		}
	}
}
