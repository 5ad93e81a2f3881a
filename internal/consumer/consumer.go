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
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Config says what to consume and how much of it at once.
type Config struct {
	Stream   string
	Consumer string
	// Batches is the durable consumer of the batches, "" for none. It need not
	// exist.
	Batches string
	// DeadSubject and DeadStream are where dead letters go.
	DeadSubject string
	DeadStream  string
	// Concurrency is how many messages may be in work, 1 or more.
	Concurrency int
	// DrainTimeout bounds the end of Run after its context was cancelled.
	DrainTimeout time.Duration
	// LinkTraces makes the span of a first delivery a root that is linked to
	// the requester's span, instead of its child.
	LinkTraces bool
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
	// Tracer makes the spans of deliveries; nil for none. Peer, if set, gives
	// their attributes of the connection.
	Tracer trace.Tracer
	Peer   func() []attribute.KeyValue
	Meter  metric.Meter
}

// Consumer pulls and answers messages. Run it once.
type Consumer struct {
	cfg   Config
	ports Ports
	meter *instruments

	slots  *slots
	lanes  []*lane
	panics panics
	hands  *hands
	// passedOver are the messages that the last look found below an ack floor.
	passedOver map[uint64]time.Time
}

// New returns a Consumer.
func New(cfg Config, ports Ports) (*Consumer, error) {
	if cfg.Concurrency < 1 {
		return nil, fmt.Errorf("concurrency must be at least 1, not %d", cfg.Concurrency)
	}
	meter, err := newInstruments(ports.Meter, cfg.DeadSubject)
	if err != nil {
		return nil, fmt.Errorf("consumer metrics: %w", err)
	}
	c := &Consumer{cfg: cfg, ports: ports, meter: meter, slots: newSlots(cfg.Concurrency), hands: newHands(handle)}
	c.lanes = []*lane{{c: c, kind: single, name: cfg.Consumer}}
	if cfg.Batches != "" {
		c.lanes = append(c.lanes, &lane{c: c, kind: batch, name: cfg.Batches})
	}
	return c, nil
}

// Bound reports whether the last look found the durable consumers in place.
// That of the batches counts from when it was met.
func (c *Consumer) Bound() bool {
	for _, l := range c.lanes {
		if !l.bound.Load() && (l.kind == single || l.met.Load()) {
			return false
		}
	}
	return true
}

// ErrMissing is returned by Run when the stream or the consumer does not
// exist when it starts.
var ErrMissing = errors.New("the stream or the durable consumer does not exist")

// ErrDrain is returned by Run when work was still going on at DrainTimeout.
var ErrDrain = errors.New("work was still going on when the drain timeout ended")

// Run consumes until ctx is cancelled, then pulls no more and returns when
// everything in hand has been answered, or with ErrDrain.
func (c *Consumer) Run(ctx context.Context) error {
	beat, stopBeat := context.WithCancel(context.WithoutCancel(ctx))
	var beating sync.WaitGroup
	defer func() {
		stopBeat()
		beating.Wait()
	}()
	pulling, ctx := errgroup.WithContext(ctx)
	for _, l := range c.lanes {
		pulling.Go(func() error { return l.run(ctx, beat, &beating) })
	}
	// A lane only fails before it has pulled anything; what the other one has in
	// hand is finished all the same.
	err := pulling.Wait()
	c.hands.end()
	return errors.Join(err, c.drain())
}

// drain waits for what is in hand.
func (c *Consumer) drain() error {
	idle := make(chan struct{})
	go func() {
		c.hands.busy.Wait()
		close(idle)
	}()
	t := time.NewTimer(c.cfg.DrainTimeout)
	defer t.Stop()
	select {
	case <-idle:
		return nil
	case <-t.C:
		return fmt.Errorf("%w: %d messages after %s; they will be redelivered", ErrDrain, c.slots.inUse(), c.cfg.DrainTimeout)
	}
}
