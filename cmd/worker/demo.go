package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sync/errgroup"

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

	Report    string `name:"report" env:"WORKER_DEMO_REPORT" placeholder:"FILE" help:"Write a page about the run to this HTML file: every order's timeline, latencies, gate, limits, bill. It needs no network and runs no script."`
	TraceFile string `name:"trace-file" env:"WORKER_DEMO_TRACE_FILE" placeholder:"FILE" help:"Write the spans of the run to this file, as OTLP JSON lines."`
}

// Help is printed below the flags' summary.
func (*demoCmd) Help() string {
	return `Examples:
  worker demo                   40 orders in some seconds
  worker demo --requests 500    more of them
  worker demo -v                with the worker's own log
  worker demo --report out.html --trace-file spans.jsonl

Starts NATS with JetStream on disk, the simulated HostUp API and the worker in one process, places
orders (some twice, some invalid, some throttled, some whose answer gets lost), and compares every
outcome with the one it should have. Exit code 0 when all are right. Nothing leaves this machine.

The report is one file that a browser opens without a network. The spans are one JSON object a line, as
OpenTelemetry's file exporter writes them: Jaeger opens the file, a collector reads it, jq shows it:
  jq -r '.resourceSpans[].scopeSpans[].spans[] | [.traceId, .name] | @tsv' spans.jsonl`
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
func (c *demoCmd) Run(ctx context.Context, t *terminal) (err error) {
	var page *wholeFile
	if c.Report != "" {
		if page, err = createWhole("--report", c.Report); err != nil {
			return usageError{err}
		}
		defer page.discard()
	}
	spans, err := createSpanFile(c.TraceFile)
	if err != nil {
		return usageError{err}
	}
	defer func() { err = errors.Join(err, spans.close()) }()
	s := demoSettings()
	dev, err := startDev(ctx, &s, "")
	if err != nil {
		return err
	}
	defer dev.stop()
	limits, err := demoAccount(dev.sim, c.Requests)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	if c.Verbose {
		log = s.logger(t.err)
	}
	show, saw := newShow(t.err, demoOrders(c.Requests)), &witness{}
	unfinished := c.perform(bounded, s, log, show, saw, spans)
	faults := show.faults(dev.sim)
	if page != nil && saw.records != nil && ctx.Err() == nil {
		told := faults
		if unfinished != nil {
			told = append([]string{unfinished.Error()}, faults...)
		}
		if err := show.writeReport(page, saw, dev.sim, limits, told); err != nil {
			return errors.Join(unfinished, err)
		}
		_, _ = fmt.Fprintf(t.err, "the report is in %s\n", c.Report)
	}
	if unfinished != nil {
		return unfinished
	}
	return show.report(t.out, dev.sim, faults)
}

// demoAccount sets the simulated account up, with room for all but the order
// that is too large, and a server that looks like one of those ordered.
func demoAccount(sim *simulator.Server, plain int) (limits simulator.Limits, err error) {
	if err := sim.Update(func(cfg *simulator.Config) {
		cfg.Latency = 20 * time.Millisecond
		cfg.Limits = demoLimits(cfg.Limits, plain)
		limits = cfg.Limits
	}); err != nil {
		return limits, fmt.Errorf("set up the simulated account: %w", err)
	}
	if _, err := sim.Plant(simulator.VPS{
		Name: demoNamesake, Resources: simulator.Resources{CPUCores: demoCores, MemoryGB: demoMemory, StorageGB: demoDisk},
		Region: "stockholm", IsPayg: true, CreatedAt: time.Now(),
	}); err != nil {
		return limits, fmt.Errorf("make a namesake: %w", err)
	}
	return limits, nil
}

// perform runs a worker of its own beside the show.
func (c *demoCmd) perform(ctx context.Context, s workerSettings, log *slog.Logger, show *show, saw *witness, spans *spanFile) error {
	tel, err := telemetry.Start(ctx, spans.into(telemetry.Options{Version: version}))
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
	var beside errgroup.Group
	beside.Go(func() error { return e.run(working) })
	beside.Go(func() error { saw.watch(working, e.book, log); return nil })
	if show.tracer = tel.Tracer(); show.tracer == nil {
		show.tracer = noop.Tracer{}
	}
	err = show.play(ctx, s, js)
	stopWork()
	if ended := beside.Wait(); err == nil {
		err = ended
	}
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	err = errors.Join(err, tel.Shutdown(rest))
	if c.Report != "" {
		err = errors.Join(err, saw.gather(rest, js, e.book, s.DeadStream))
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
			if err := o.place(ctx, js, s.topology().RequestSubject(), w.tracer); err != nil {
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

// place publishes an order as often as it says, as an ordering system that
// traces what it does.
func (o *demoOrder) place(ctx context.Context, js jetstream.JetStream, subject string, tracer trace.Tracer) error {
	o.placedAt = time.Now()
	ctx, span := tracer.Start(ctx, "send "+subject, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		semconv.MessagingSystemKey.String("nats"), semconv.MessagingOperationName("send"), semconv.MessagingOperationTypeSend,
		semconv.MessagingDestinationName(subject), semconv.MessagingMessageConversationID(o.key),
	))
	defer span.End()
	if span.IsRecording() {
		o.trace = span.SpanContext().TraceID().String()
	}
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
		propagation.TraceContext{}.Inject(ctx, events.Carrier(m.Header))
		stored, err := js.PublishMsg(ctx, m)
		if err != nil {
			return fmt.Errorf("place %s: %w", o.key, err)
		}
		o.sequence = stored.Sequence
	}
	return nil
}
