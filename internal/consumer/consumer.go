// Package consumer is the JetStream side of the worker's input: it pulls
// messages for free slots only, keeps those in work alive on the broker, gives
// each to the core, and turns the core's answer into an ack, a nak or a dead
// letter, in one switch.
//
// It decides nothing about a request. It imports provision and no other
// package of this module; how a message is read comes in as a function.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Config says what to consume and how much of it at once.
type Config struct {
	Stream   string
	Consumer string
	// DeadSubject and DeadStream are where dead letters go.
	DeadSubject string
	DeadStream  string
	// Concurrency is how many messages may be in work, 1 or more.
	Concurrency int
	// DrainTimeout bounds the end of Run after its context was cancelled.
	DrainTimeout time.Duration
}

// Handler is the core.
type Handler interface {
	// Handle answers one delivery. Cancelling ctx asks it to hand the message
	// back as soon as that is safe.
	Handle(ctx context.Context, m provision.Message) provision.Disposition
}

// Gate is closed while no create may be sent. Then messages are pulled slowly:
// most of them can only wait, but a deadline, a rejection or an outcome that
// was not published yet must not wait with them.
type Gate interface {
	// Wait returns nil when the gate is open, or the error of ctx.
	Wait(ctx context.Context) error
}

// Decode reads a message. It must not fail: what is wrong with a message is
// part of the result.
type Decode func(h nats.Header, data []byte) provision.Message

// Ports are what the consumer works with.
type Ports struct {
	JetStream jetstream.JetStream
	Handler   Handler
	Gate      Gate
	Decode    Decode
	Log       *slog.Logger
	Tracer    trace.Tracer
	Meter     metric.Meter
}

// Consumer pulls and answers messages. Run it once.
type Consumer struct {
	cfg   Config
	ports Ports
	meter *instruments

	slots  chan struct{}
	bound  atomic.Bool
	inHand inHand
	panics panics
	work   sync.WaitGroup
}

// A pull that was lost with its leader is noticed after two missed heartbeats,
// so both are short (measured: the default of 30 s left a consumer deaf for
// 25 s). Pulls end regularly, so that the gate is looked at.
const (
	pullExpiry    = 5 * time.Second
	pullHeartbeat = time.Second
)

// closedPause is the time between pulls while the gate is closed. The broker
// hands out what comes back before what is new.
const closedPause = time.Second

// New returns a Consumer.
func New(cfg Config, ports Ports) (*Consumer, error) {
	if cfg.Concurrency < 1 {
		return nil, fmt.Errorf("concurrency must be at least 1, not %d", cfg.Concurrency)
	}
	meter, err := newInstruments(ports.Meter)
	if err != nil {
		return nil, fmt.Errorf("consumer metrics: %w", err)
	}
	return &Consumer{cfg: cfg, ports: ports, meter: meter, slots: make(chan struct{}, cfg.Concurrency)}, nil
}

// Bound reports whether the last look found the durable consumer in place.
func (c *Consumer) Bound() bool { return c.bound.Load() }

// ErrMissing is returned by Run when the stream or the consumer does not
// exist when it starts.
var ErrMissing = errors.New("the stream or the durable consumer does not exist")

// ErrDrain is returned by Run when work was still going on at DrainTimeout.
var ErrDrain = errors.New("work was still going on when the drain timeout ended")

// Run consumes until ctx is cancelled, then pulls no more and returns when
// everything in hand has been answered, or with ErrDrain.
func (c *Consumer) Run(ctx context.Context) error {
	cons, err := c.bind(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	beat, stopBeat := context.WithCancel(context.WithoutCancel(ctx))
	var beating sync.WaitGroup
	every := cons.CachedInfo().Config.AckWait / 3
	beating.Go(func() { c.inHand.keepAlive(beat, every) })
	defer func() {
		stopBeat()
		beating.Wait()
	}()
	for ctx.Err() == nil {
		c.waitAtGate(ctx)
		if err := c.pull(ctx, cons); err != nil && ctx.Err() == nil {
			c.ports.Log.WarnContext(ctx, "pulling messages was interrupted, trying again", "error", err)
			cons = c.rebind(ctx, cons)
		}
	}
	return c.drain()
}

// waitAtGate returns when the gate is open, or after a while.
func (c *Consumer) waitAtGate(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closedPause)
	defer cancel()
	_ = c.ports.Gate.Wait(ctx)
}

// drain waits for what is in hand.
func (c *Consumer) drain() error {
	idle := make(chan struct{})
	go func() {
		c.work.Wait()
		close(idle)
	}()
	t := time.NewTimer(c.cfg.DrainTimeout)
	defer t.Stop()
	select {
	case <-idle:
		return nil
	case <-t.C:
		return fmt.Errorf("%w: %d messages after %s; they will be redelivered", ErrDrain, len(c.slots), c.cfg.DrainTimeout)
	}
}

// bind looks the durable consumer up until the broker answers. That it does
// not exist is an answer.
func (c *Consumer) bind(ctx context.Context) (jetstream.Consumer, error) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		cons, err := c.lookUp(ctx)
		switch {
		case err == nil:
			return cons, nil
		case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrConsumerNotFound):
			return nil, fmt.Errorf("%w: stream %s, consumer %s: create them with `worker setup`, or run with --provision", ErrMissing, c.cfg.Stream, c.cfg.Consumer)
		}
		if pause > time.Second {
			c.ports.Log.WarnContext(ctx, "the durable consumer cannot be reached yet", "stream", c.cfg.Stream, "consumer", c.cfg.Consumer, "error", err)
		}
		if !sleep(ctx, pause) {
			return nil, ctx.Err()
		}
	}
}

func (c *Consumer) lookUp(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, pullExpiry)
	defer cancel()
	cons, err := c.ports.JetStream.Consumer(ctx, c.cfg.Stream, c.cfg.Consumer)
	c.bound.Store(err == nil)
	return cons, err
}

// rebind looks again after a pull failed, until the consumer is found or ctx
// ends.
func (c *Consumer) rebind(ctx context.Context, old jetstream.Consumer) jetstream.Consumer {
	for pause := 250 * time.Millisecond; sleep(ctx, pause); pause = min(2*pause, 5*time.Second) {
		fresh, err := c.lookUp(ctx)
		if err == nil {
			return fresh
		}
		c.ports.Log.WarnContext(ctx, "the durable consumer cannot be reached", "stream", c.cfg.Stream, "consumer", c.cfg.Consumer, "error", err)
	}
	return old
}

// pull asks for as many messages as there are free slots and starts work on
// each as it comes.
func (c *Consumer) pull(ctx context.Context, cons jetstream.Consumer) error {
	n := c.takeSlots(ctx)
	if n == 0 {
		return nil
	}
	pull, cancel := context.WithTimeout(ctx, pullExpiry)
	defer cancel()
	batch, err := cons.Fetch(n, jetstream.FetchContext(pull), jetstream.FetchHeartbeat(pullHeartbeat))
	if err != nil {
		c.giveSlots(n)
		return fmt.Errorf("pull %d messages: %w", n, err)
	}
	for m := range batch.Messages() {
		n--
		c.inHand.add(m)
		c.work.Go(func() {
			defer c.giveSlots(1)
			defer c.inHand.remove(m)
			c.deliver(ctx, m)
		})
	}
	c.giveSlots(n)
	if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
		return fmt.Errorf("pull messages: %w", err)
	}
	return nil
}

// takeSlots waits for one free slot and takes all that are free.
func (c *Consumer) takeSlots(ctx context.Context) int {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	n := 1
	for {
		select {
		case c.slots <- struct{}{}:
			n++
		default:
			return n
		}
	}
}

func (c *Consumer) giveSlots(n int) {
	for range n {
		<-c.slots
	}
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
