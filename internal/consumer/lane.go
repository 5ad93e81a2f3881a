package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// lane is one durable consumer: that of the single orders, or that of the
// batches.
type lane struct {
	c    *Consumer
	kind kind
	name string

	cons   jetstream.Consumer
	met    atomic.Bool
	bound  atomic.Bool
	inHand inHand
	crowd  crowd
	// hurry is whether the last pull was answered with redeliveries only, as
	// many as it asked for.
	hurry bool
}

// A pull that was lost with its leader is noticed after two missed heartbeats,
// so both are short (measured: the default of 30 s left a consumer deaf for
// 25 s). Pulls end regularly, so that the gate is looked at.
const (
	pullExpiry    = 5 * time.Second
	pullHeartbeat = time.Second
)

// While the gate is closed a process takes this many messages a second: each
// can do little but wait, and costs a delivery and a ledger write. The broker
// hands out what comes back before what is new.
const (
	closedRate          = 50
	shortestClosedPause = 100 * time.Millisecond
	longestClosedPause  = time.Second
)

// closedPause is the time between two pulls for so many slots while the gate is
// closed.
func closedPause(slots int) time.Duration {
	return min(max(time.Duration(slots)*time.Second/closedRate, shortestClosedPause), longestClosedPause)
}

// The longest pause between two looks for a durable consumer, and for that of
// the batches, which a broker that was set up earlier does not have.
const (
	bindPause      = 5 * time.Second
	bindPauseBatch = 30 * time.Second
)

// run pulls until ctx ends. beat ends later, with the last message in hand.
func (l *lane) run(ctx, beat context.Context, beating *sync.WaitGroup) error {
	if err := l.bind(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	every := l.cons.CachedInfo().Config.AckWait / 3
	beating.Go(func() { l.inHand.keepAlive(beat, every) })
	l.c.meter.meet(ctx, l.name, l.cons.CachedInfo().Config)
	l.count(ctx, l.cons.CachedInfo())
	var watching sync.WaitGroup
	watching.Go(func() { l.watch(ctx) })
	defer watching.Wait()
	for ctx.Err() == nil {
		l.waitAtGate(ctx)
		if err := l.pull(ctx); err != nil && ctx.Err() == nil {
			l.c.ports.Log.WarnContext(ctx, "pulling messages was interrupted, trying again", "consumer", l.name, "error", err)
			l.rebind(ctx)
		}
	}
	return nil
}

// waitAtGate returns when the gate is open, or after a while; at once while all
// that comes has waited before, because its deadline may have brought it.
func (l *lane) waitAtGate(ctx context.Context) {
	if l.hurry {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closedPause(l.c.cfg.Concurrency))
	defer cancel()
	_ = l.c.ports.Gate.Wait(ctx)
}

// bind looks the durable consumer up until the broker answers. That the one of
// the single orders does not exist is an answer; that of the batches may be
// made later.
func (l *lane) bind(ctx context.Context) error {
	longest := bindPause
	if l.kind == batch {
		longest = bindPauseBatch
	}
	said := false
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, longest) {
		err := l.lookUp(ctx)
		missing := errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound)
		switch {
		case err == nil:
			return nil
		case missing && l.kind == single:
			return fmt.Errorf("%w: stream %s, consumer %s: create them with `worker setup`, or run with --provision", ErrMissing, l.c.cfg.Stream, l.name)
		case missing && !said:
			said = true
			l.c.ports.Log.InfoContext(ctx, "there is no consumer for batches, only single orders are consumed; `worker setup` creates it", "stream", l.c.cfg.Stream, "consumer", l.name)
		case !missing && !said && pause > time.Second:
			// Without the permission to look for it, that of the batches would
			// never fall silent.
			said = l.kind == batch
			l.c.ports.Log.WarnContext(ctx, "the durable consumer cannot be reached yet", "stream", l.c.cfg.Stream, "consumer", l.name, "error", err)
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

func (l *lane) lookUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pullExpiry)
	defer cancel()
	cons, err := l.c.ports.JetStream.Consumer(ctx, l.c.cfg.Stream, l.name)
	l.bound.Store(err == nil)
	if err == nil {
		l.cons = cons
		l.met.Store(true)
	}
	return err
}

// rebind looks again after a pull failed, until the consumer is found or ctx
// ends.
func (l *lane) rebind(ctx context.Context) {
	for pause := 250 * time.Millisecond; sleep(ctx, pause); pause = min(2*pause, bindPause) {
		err := l.lookUp(ctx)
		if err == nil {
			return
		}
		l.c.ports.Log.WarnContext(ctx, "the durable consumer cannot be reached", "stream", l.c.cfg.Stream, "consumer", l.name, "error", err)
	}
}

// pull starts work on what is there, for the slots it may have. When nothing is
// there it waits for one message without a slot: a lane that has nothing to do
// must not keep the other from working.
func (l *lane) pull(ctx context.Context) error {
	n := l.c.slots.take(ctx, l.kind, l.c.cfg.Concurrency)
	if n == 0 {
		return nil
	}
	began := time.Now()
	there, err := l.cons.FetchNoWait(n)
	if err != nil {
		l.c.slots.give(l.kind, n)
		l.c.meter.pulled(ctx, l.name, began, err)
		return fmt.Errorf("pull %d messages: %w", n, err)
	}
	left, again := n, 0
	for m := range there.Messages() {
		left--
		if meta := l.take(ctx, m); meta != nil && meta.NumDelivered > 1 {
			again++
		}
		l.c.hands.take(work{ctx, l, m})
	}
	l.c.meter.pulled(ctx, l.name, began, there.Error())
	l.hurry = again == n
	l.c.slots.give(l.kind, left)
	if err := there.Error(); err != nil {
		return fmt.Errorf("pull messages: %w", err)
	}
	if left < n {
		return nil
	}
	return l.await(ctx)
}

// await waits for one message, and then in hand for a slot.
func (l *lane) await(ctx context.Context) error {
	pull, cancel := context.WithTimeout(ctx, pullExpiry)
	defer cancel()
	next, err := l.cons.Fetch(1, jetstream.FetchContext(pull), jetstream.FetchHeartbeat(pullHeartbeat))
	if err != nil {
		return fmt.Errorf("wait for a message: %w", err)
	}
	for m := range next.Messages() {
		l.take(ctx, m)
		if l.c.slots.take(ctx, l.kind, 1) == 0 {
			l.handBack(ctx, m)
			continue
		}
		l.c.hands.take(work{ctx, l, m})
	}
	if err := next.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
		return fmt.Errorf("wait for messages: %w", err)
	}
	return nil
}

// take keeps a message alive from now on, and returns what its delivery says;
// nil when it says nothing.
func (l *lane) take(ctx context.Context, m jetstream.Msg) *jetstream.MsgMetadata {
	l.inHand.add(m)
	meta, err := m.Metadata()
	if err != nil {
		meta = nil
	}
	l.c.meter.delivered(ctx, l.name, m.Subject(), meta)
	return meta
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
