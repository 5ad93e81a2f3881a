package crash

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// killLeaders kills the node that leads the ledger, and in full also those that
// lead the requests, the events and the cluster, each with SIGKILL.
func killLeaders(ctx context.Context, s *stage) error {
	const meta = "the cluster"
	led := []string{ledgerStream}
	if !s.suite.short {
		led = append(led, requestStream, eventStream, meta)
	}
	for _, what := range led {
		who := func() *box {
			if what == meta {
				return s.metaLeader(ctx)
			}
			return s.leader(ctx, what)
		}
		node := who()
		if node == nil {
			return fmt.Errorf("nobody leads %s", what)
		}
		if err := node.kill(ctx); err != nil {
			return err
		}
		killed := time.Now()
		s.sayf("killed %s, which led %s", node.name, what)
		var next *box
		if !until(ctx, healing, func() bool { next = who(); return next != nil && next != node }) {
			return fmt.Errorf("nobody else leads %s after %s", what, healing)
		}
		s.sayf("%s leads %s %.1f s later", next.name, what, time.Since(killed).Seconds())
		s.watch(ctx, between)
		if err := node.start(ctx); err != nil {
			return err
		}
		if err := s.heal(ctx); err != nil {
			return err
		}
	}
	return nil
}

// cutOff takes the node that leads the requests off the network, and in full
// the one that most workers are connected to for longer than they take to
// notice.
func cutOff(ctx context.Context, s *stage) error {
	if err := s.away(ctx, s.leader(ctx, requestStream), 5*time.Second, "led the requests", (*box).cut, (*box).join); err != nil || s.suite.short {
		return err
	}
	node, workers := s.busiest(ctx)
	return s.away(ctx, node, 45*time.Second, fmt.Sprintf("had the connections of %d of %d workers", workers, len(s.workers)), (*box).cut, (*box).join)
}

// pauseNodes freezes the leader of the ledger, which takes itself for the
// leader when it wakes up, and then the node that most workers talk to.
func pauseNodes(ctx context.Context, s *stage) error {
	if err := s.away(ctx, s.leader(ctx, ledgerStream), 12*time.Second, "led the ledger", (*box).pause, (*box).unpause); err != nil {
		return err
	}
	node, workers := s.busiest(ctx)
	return s.away(ctx, node, 45*time.Second, fmt.Sprintf("had the connections of %d of %d workers", workers, len(s.workers)), (*box).pause, (*box).unpause)
}

// standstill is how long work may rest when a node goes away in silence: a
// worker that was connected to it has to notice and go to another one.
const standstill = 30 * time.Second

// away makes a node unreachable for a while, and tells what was done meanwhile.
func (s *stage) away(ctx context.Context, node *box, d time.Duration, why string, leave, back func(*box, context.Context) error) error {
	if node == nil {
		return fmt.Errorf("no node %s", why)
	}
	left := time.Now()
	if err := leave(node, ctx); err != nil {
		return err
	}
	s.sayf("%s %s, which %s", map[bool]string{true: "paused", false: "cut off"}[s.scenario.name == "pause"], node.name, why)
	s.watch(ctx, d)
	creates, err := s.api.creates(ctx)
	if err != nil {
		return err
	}
	meanwhile := []time.Time{left, time.Now()}
	for _, c := range creates {
		if c.At.After(left) {
			meanwhile = append(meanwhile, c.At)
		}
	}
	rest := longestGap(meanwhile)
	s.sayf("%s comes back after %s; %d creates meanwhile, none of them for %.1f s", node.name, d, len(meanwhile)-2, rest.Seconds())
	if rest > standstill {
		s.violatef(stoodStill, "", "for %s", rest)
	}
	if err := back(node, ctx); err != nil {
		return err
	}
	return s.heal(ctx)
}

// restartAll stops each node with SIGTERM and starts it again when the one
// before has everything.
func restartAll(ctx context.Context, s *stage) error {
	for _, node := range s.nodes {
		if err := node.stop(ctx); err != nil {
			return err
		}
		s.sayf("stopped %s", node.name)
		s.watch(ctx, between)
		if err := node.start(ctx); err != nil {
			return err
		}
		if err := s.heal(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stopTwo leaves the leader of the ledger alone: work has to stop, and to go on
// when there is a majority again. In full it happens twice, the second time
// with SIGKILL.
func stopTwo(ctx context.Context, s *stage) error {
	if err := s.leaveAlone(ctx, 6*time.Second, (*box).stop); err != nil || s.suite.short {
		return err
	}
	s.watch(ctx, between)
	return s.leaveAlone(ctx, 30*time.Second, (*box).kill)
}

func (s *stage) leaveAlone(ctx context.Context, alone time.Duration, end func(*box, context.Context) error) error {
	survivor := s.leader(ctx, ledgerStream)
	var others []*box
	for _, n := range s.nodes {
		if n != survivor {
			others = append(others, n)
		}
	}
	if err := together(others, func(b *box) error { return end(b, ctx) }); err != nil {
		return err
	}
	s.sayf("stopped all but %s", survivor.name)
	before, err := s.api.creates(ctx)
	if err != nil {
		return err
	}
	// Whoever had stored its intent makes its call, and nobody else.
	s.watch(ctx, clusterCreateLimit+time.Second)
	inFlight, err := s.api.creates(ctx)
	if err != nil {
		return err
	}
	stored := s.load.stored.Load()
	s.watch(ctx, alone)
	after, err := s.api.creates(ctx)
	if err != nil {
		return err
	}
	s.sayf("%d creates were in flight; then %d creates and %d stored requests in %s without a majority",
		len(inFlight)-len(before), len(after)-len(inFlight), s.load.stored.Load()-stored, alone)
	if len(after) > len(inFlight) {
		s.violatef(workedAlone, "", "%d creates", len(after)-len(inFlight))
	}
	if most := len(s.workers) * workerConcurrency; len(inFlight)-len(before) > most {
		s.violatef(workedAlone, "", "%d creates were in flight, at most %d can be", len(inFlight)-len(before), most)
	}
	if s.load.stored.Load() > stored {
		s.violatef(workedAlone, "", "%d requests were stored", s.load.stored.Load()-stored)
	}
	if err := together(others, func(b *box) error { return b.start(ctx) }); err != nil {
		return err
	}
	started := time.Now()
	if !until(ctx, healing, func() bool {
		now, err := s.api.creates(ctx)
		return err == nil && len(now) > len(after)
	}) {
		return fmt.Errorf("no create %s after the nodes came back", healing)
	}
	s.sayf("work goes on %.1f s after the nodes came back", time.Since(started).Seconds())
	return s.heal(ctx)
}

// together does the same to several containers at once.
func together(boxes []*box, do func(*box) error) error {
	errs := make(chan error, len(boxes))
	var doing sync.WaitGroup
	for _, b := range boxes {
		doing.Go(func() { errs <- do(b) })
	}
	doing.Wait()
	for range boxes {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}
