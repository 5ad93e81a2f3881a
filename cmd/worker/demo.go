package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/simulator"
	"github.com/hostup/deploy-worker/internal/telemetry"
)

type demoCmd struct {
	Requests int           `name:"requests" env:"WORKER_DEMO_REQUESTS" default:"24" help:"How many plain orders to place beside the difficult ones."`
	Timeout  time.Duration `name:"timeout" env:"WORKER_DEMO_TIMEOUT" default:"2m" help:"Give up after this time."`
	Verbose  bool          `name:"verbose" short:"v" env:"WORKER_DEMO_VERBOSE" help:"Show the worker's own log."`
}

// Help is printed below the flags' summary.
func (*demoCmd) Help() string {
	return `Examples:
  worker demo                   40 orders in some seconds
  worker demo --requests 500    more of them
  worker demo -v                with the worker's own log

Starts NATS with JetStream on disk, the simulated HostUp API and the worker in one process, places
orders (some twice, some invalid, some throttled, some whose answer gets lost), and compares every
outcome with the one it should have. Exit code 0 when all are right. Nothing leaves this machine.`
}

// demoSettings are the worker's settings for a show: short pauses, no ports of
// its own choosing.
func demoSettings() workerSettings {
	return workerSettings{
		natsSettings:   natsSettings{NATSURL: "nats://127.0.0.1:0"},
		hostupSettings: hostupSettings{ReadTimeout: 5 * time.Second, CreateTimeout: 10 * time.Second},
		placeSettings: placeSettings{
			Stream: "DEPLOY", Consumer: "deploy-worker", EventsStream: "DEPLOY_EVENTS", DeadStream: "DEPLOY_DEAD",
			Ledger: "deploy-ledger", SubjectPrefix: "deploy", Replicas: 1, AckWait: 30 * time.Second, LedgerTTL: 24 * time.Hour,
		},
		workSettings: workSettings{
			Concurrency: 8, Deadline: time.Hour, BackoffInitial: 100 * time.Millisecond, BackoffMax: 2 * time.Second,
			RetryAfterMax: time.Minute, InlineWait: 5 * time.Second, LimitPolicy: "fail", AuthPolicy: "hold",
			SettleAnswered: time.Second, SettleUnanswered: 2 * time.Second, SettleReads: 3, UnknownPolicy: "retry",
			LimitsTTL: time.Second, DrainTimeout: 15 * time.Second,
		},
		logSettings: logSettings{LogLevel: "info"},
	}
}

// Run shows the main job.
func (c *demoCmd) Run(ctx context.Context, t *terminal) error {
	s := demoSettings()
	dev, err := startDev(ctx, &s, "")
	if err != nil {
		return err
	}
	defer dev.stop()
	if err := dev.sim.Update(func(cfg *simulator.Config) {
		cfg.Latency = 20 * time.Millisecond
		cfg.Limits.StorageGB = demoStorage(c.Requests)
	}); err != nil {
		return fmt.Errorf("set up the simulated account: %w", err)
	}
	if _, err := dev.sim.Plant(simulator.VPS{
		Name: demoNamesake, Resources: simulator.Resources{CPUCores: demoCores, MemoryGB: demoMemory, StorageGB: demoDisk},
		Region: "stockholm", IsPayg: true, CreatedAt: time.Now(),
	}); err != nil {
		return fmt.Errorf("make a namesake: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	if c.Verbose {
		log = s.logger(t.err)
	}
	show := newShow(t.err, demoOrders(c.Requests))
	if err := c.perform(ctx, s, log, show); err != nil {
		return err
	}
	return show.report(t.out, dev.sim)
}

// perform runs a worker of its own beside the show.
func (c *demoCmd) perform(ctx context.Context, s workerSettings, log *slog.Logger, show *show) error {
	tel, err := telemetry.Start(ctx, telemetry.Options{Version: version})
	if err != nil {
		return err
	}
	nc, js, err := broker.Connect(s.options())
	if err != nil {
		return err
	}
	defer nc.Close()
	e, err := newEngine(s, nc, js, tel, log)
	if err != nil {
		return err
	}
	if err := e.provision(ctx); err != nil {
		return err
	}
	working, stopWork := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.run(working) }()
	err = show.play(ctx, s, js)
	stopWork()
	if ended := <-ended; err == nil {
		err = ended
	}
	return err
}

// play places the orders and follows the outcomes until all are there.
func (w *show) play(ctx context.Context, s workerSettings, js jetstream.JetStream) error {
	w.begin()
	defer w.end()
	follow, err := js.OrderedConsumer(ctx, s.EventsStream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return fmt.Errorf("follow the events: %w", err)
	}
	arrived := make(chan provision.Event, 64)
	consuming, err := follow.Consume(func(m jetstream.Msg) {
		e, err := events.DecodeEvent(m.Headers(), m.Data())
		if err != nil {
			e = provision.Event{Key: "(unreadable event)", Reason: provision.Reason(err.Error())}
		}
		select {
		case arrived <- e:
		case <-ctx.Done():
		}
	})
	if err != nil {
		return fmt.Errorf("follow the events: %w", err)
	}
	defer consuming.Stop()
	for _, late := range []bool{false, true} {
		for _, o := range w.orders {
			if o.late != late {
				continue
			}
			if err := o.place(ctx, js, s.topology().RequestSubject()); err != nil {
				return err
			}
			w.draw()
		}
		if err := w.follow(ctx, s, js, arrived, late); err != nil {
			return err
		}
	}
	return nil
}

// follow collects events until every order that was placed has what it should
// have and the queue holds nothing but held requests.
func (w *show) follow(ctx context.Context, s workerSettings, js jetstream.JetStream, arrived <-chan provision.Event, late bool) error {
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case e := <-arrived:
			w.saw(e)
		case <-look.C:
			w.draw()
			if !w.complete(late) {
				continue
			}
			cons, err := js.Consumer(ctx, s.Stream, s.Consumer)
			if err != nil {
				return fmt.Errorf("look at the queue: %w", err)
			}
			dead, err := js.Stream(ctx, s.DeadStream)
			if err != nil {
				return fmt.Errorf("look at the dead letters: %w", err)
			}
			w.dead = dead.CachedInfo().State.Msgs
			info := cons.CachedInfo()
			if info.NumPending == 0 && info.NumAckPending == w.heldCount() && len(arrived) == 0 {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("the demo did not finish: %d of %d outcomes arrived: %w", w.answered(), len(w.orders), ctx.Err())
		}
	}
}

// place publishes an order as often as it says.
func (o *demoOrder) place(ctx context.Context, js jetstream.JetStream, subject string) error {
	o.placedAt = time.Now()
	for range max(o.times, 1) {
		m := nats.NewMsg(subject)
		m.Data = o.body
		if m.Data == nil {
			h, body, err := events.EncodeRequest(o.request, provision.JSON)
			if err != nil {
				return fmt.Errorf("encode %s: %w", o.key, err)
			}
			m.Header, m.Data = h, body
		}
		for name, value := range o.header {
			m.Header.Set(name, value)
		}
		if _, err := js.PublishMsg(ctx, m); err != nil {
			return fmt.Errorf("place %s: %w", o.key, err)
		}
	}
	return nil
}
