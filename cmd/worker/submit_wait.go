package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/hostup/deploy-worker/internal/batch"
	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/ledger"
)

const (
	// clockSlack is how far this machine's clock may be off the broker's: a
	// resumed submission reads the events from that much before it began.
	clockSlack = 5 * time.Minute
	// Looks into the ledger for orders without an answer: how many at once, and
	// the longest pause between two rounds.
	looksAtOnce  = 32
	longestPause = time.Minute
	// lookAfter is the pause for each order before the first round: what is new
	// is answered by an event in that time.
	lookAfter = 100 * time.Microsecond
)

// taken makes sure that somebody takes batches, before they are waited for.
func (s *submission) taken(ctx context.Context) error {
	top := s.topology()
	if s.subject() != top.BatchSubject() {
		return nil
	}
	_, err := s.js.Consumer(ctx, s.Stream, top.BatchConsumer())
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("nobody takes %s, the consumer %s does not exist: make it with `worker setup`, or send with --lane single", s.subject(), top.BatchConsumer())
	}
	// Whoever may not look can still send.
	return nil
}

// follow begins to take in events, and returns once none can be missed. The
// channel gives the error that ends it.
func (s *submission) follow(ctx context.Context) (<-chan error, error) {
	cfg := events.FollowConfig{Stream: s.EventsStream, Prefix: s.SubjectPrefix}
	if s.journal != nil {
		cfg.Since = s.journal.StartedAt.Add(-clockSlack)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- events.Follow(ctx, s.js, cfg, func() { close(ready) }, func(f events.Followed) error {
			if f.Unreadable == nil {
				return s.batch.Answer(f.Event)
			}
			return nil // of a later version; the ledger has the outcome
		})
	}()
	select {
	case <-ready:
		return ended, nil
	case err := <-ended:
		return nil, err
	}
}

// wait returns when every order has its outcome, when the time for it is over,
// and with ctx.
func (s *submission) wait(ctx, answers context.Context, broken <-chan error) error {
	p := s.progress("waiting", batch.Counts.Answered)
	defer p.stop()
	var looks sync.WaitGroup
	looking, stop := context.WithCancel(answers)
	looks.Go(func() { s.look(looking) })
	defer func() {
		stop()
		looks.Wait()
	}()
	var over <-chan time.Time
	if s.Timeout > 0 {
		t := time.NewTimer(s.Timeout)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-s.batch.Answered():
		return nil
	case err := <-broken:
		return fmt.Errorf("the outcomes cannot be followed any more: %w", err)
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// look asks the ledger again and again about orders without an answer: those
// that were answered before this submission get no event.
func (s *submission) look(ctx context.Context) {
	book := ledger.New(s.js, ledger.Config{Bucket: s.Ledger})
	next := time.Duration(s.batch.Counts().Orders) * lookAfter
	for between := time.Second; pause(ctx, next); between = min(2*between, longestPause) {
		round, within := errgroup.WithContext(ctx)
		round.SetLimit(looksAtOnce)
		s.batch.Open(func(i int, hash string) bool {
			round.Go(func() error {
				r, err := book.LoadHash(within, hash)
				if err != nil || r == nil {
					return err
				}
				return s.batch.Recorded(i, r, s.startedAt)
			})
			return within.Err() == nil
		})
		if err := round.Wait(); ctx.Err() == nil {
			s.lookErr = err
		}
		next = between
	}
}
