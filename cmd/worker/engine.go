package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/hostup"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/telemetry"
)

// engine is the worker put together: edges around the core.
type engine struct {
	settings workerSettings
	// name is this process in what the fleet shares.
	name     string
	log      *slog.Logger
	tel      *telemetry.Telemetry
	nc       *nats.Conn
	js       jetstream.JetStream
	tokens   *hostup.TokenSource
	client   *hostup.Client
	gate     *provision.Gate
	reads    *provision.ReadGate
	core     *provision.Provisioner
	consumer *consumer.Consumer
	book     *ledger.Ledger
	sweeper  *consumer.Sweeper
}

// What no variable sets.
const (
	// storeTimeout is how long a paid answer is offered to a ledger that does
	// not take it; a drain ends it earlier.
	storeTimeout = 5 * time.Minute
	// heldPoll is how often a held request looks for a decision.
	heldPoll = 15 * time.Second
	// keepNames is how much longer than a deadline the servers finished under a
	// name are remembered.
	keepNames = 10 * time.Minute
	// sweepFactor is how many ack waits there are between two sweeps.
	sweepFactor = 10
	// keyPoll is how often a changed key file is looked for while creates are
	// held for it.
	keyPoll = time.Second
	// flushTimeout bounds the flushing of telemetry and of the connection.
	flushTimeout = 5 * time.Second
)

// newEngine puts the worker together on an open connection. It sends nothing.
func newEngine(s workerSettings, nc *nats.Conn, js jetstream.JetStream, tel *telemetry.Telemetry, log *slog.Logger) (*engine, error) {
	tokens, err := s.tokens()
	if err != nil {
		return nil, usageError{err}
	}
	points, err := arm(nc)
	if err != nil {
		return nil, err
	}
	e := &engine{settings: s, name: replica(), log: log, tel: tel, nc: nc, js: js, tokens: tokens}
	core := s.core()
	e.book = ledger.New(js, ledger.Config{
		Bucket: s.Ledger, KeepNames: s.Deadline + keepNames, Reserve: core.Reserve(), Step: points.step,
	})
	// A probe may take as long as its call and the storing around it.
	e.gate = provision.NewFleetGate(e.book, e.name, 2*s.CreateTimeout)
	e.reads = provision.NewReadGate(e.book, e.gate, 2*s.ReadTimeout, func(n int) time.Duration {
		return provision.Backoff(s.BackoffInitial, s.BackoffMax, n)
	}, log)
	e.client, err = hostup.New(hostup.Config{
		BaseURL: s.APIURL, AllowHTTP: s.AllowHTTP, Token: tokens, ReadTimeout: s.ReadTimeout,
		UserAgent: "deploy-worker/" + version, RetryAfterMax: s.RetryAfterMax,
		TracerProvider: tel.Tracers, MeterProvider: tel.Meters, Reads: e.reads,
	})
	if err != nil {
		return nil, usageError{err}
	}
	at := &peer{nc: nc, client: e.name}
	ports := points.ports(withSpans(provision.Ports{
		Ledger: e.book, Names: e.book, API: e.client, Account: hostup.NewAccount(e.client),
		Inventory: hostup.NewInventory(e.client),
		Events: events.NewPublisher(events.PublisherConfig{
			JetStream: js, Stream: s.EventsStream, Prefix: s.SubjectPrefix,
			Tracer: tel.Tracer(), Peer: at.attributes, Meter: tel.Meter(),
		}),
		Controls: e.book,
	}, tel.Tracer()))
	e.core, err = provision.New(core, ports, e.gate, log, provision.Telemetry{Meter: tel.Meter(), Tracer: tel.Tracer()})
	if err != nil {
		return nil, err
	}
	e.consumer, err = consumer.New(consumer.Config{
		Stream: s.Stream, Consumer: s.Consumer, Batches: s.topology().BatchConsumer(),
		DeadSubject: s.topology().DeadSubject(), DeadStream: s.DeadStream,
		Concurrency: s.Concurrency, DrainTimeout: s.DrainTimeout, LinkTraces: s.TraceRelationship == "link",
	}, points.input(consumer.Ports{
		JetStream: js, Handler: e.core, Gate: e.gate, Decode: events.Decode,
		Log: log, Tracer: tel.Tracer(), Peer: at.attributes, Meter: tel.Meter(),
	}))
	if err != nil {
		return nil, err
	}
	e.sweeper = e.newSweeper(points.sweep)
	return e, nil
}

// core is what the settings say about the work itself.
func (s workerSettings) core() provision.Config {
	return provision.Config{
		CreateTimeout: s.CreateTimeout, Deadline: s.Deadline,
		BackoffInitial: s.BackoffInitial, BackoffMax: s.BackoffMax, InlineWait: s.InlineWait,
		LimitsTTL: s.LimitsTTL, StoreTimeout: storeTimeout, HeldPoll: heldPoll,
		SettleAnswered: s.SettleAnswered, SettleUnanswered: s.SettleUnanswered, SettleReads: s.SettleReads,
		HoldUnknown: s.UnknownPolicy == "hold",
		LimitWait:   s.LimitPolicy == "wait", AuthHold: s.AuthPolicy == "hold",
		BreakerUnknowns: s.BreakerUnknowns, Caps: admission.Caps{CreatesPerHour: s.MaxCreates, HourlyCost: s.MaxHourlyCost},
	}
}

// newSweeper makes the one who drives requests whose message is gone. Its times
// follow the consumer's: what is in work changes more often than that.
func (e *engine) newSweeper(around func(consumer.SweepPorts) consumer.SweepPorts) *consumer.Sweeper {
	every := sweepFactor * e.settings.AckWait
	roll := e.book.NewRoll(every)
	return consumer.NewSweeper(around(consumer.SweepPorts{
		JetStream: e.js, Consumers: []string{e.settings.Consumer, e.settings.topology().BatchConsumer()}, Log: e.log,
		Stranded: e.consumer.DeliverStranded, Load: e.book.LoadHash, Resume: e.core.Resume, Tracer: e.tel.Tracer(),
		OpenNames: e.core.OpenNames, Mend: e.book.Mend,
		Unfinished: func(ctx context.Context, each func(consumer.Unfinished)) error {
			return roll.Unfinished(ctx, func(u ledger.Unfinished) {
				each(consumer.Unfinished{Hash: u.Hash, StoredAt: u.StoredAt, Origin: consumer.Origin(u.Origin)})
			})
		},
	}), every, 2*max(e.settings.AckWait, e.settings.CreateTimeout))
}

// replica names this process in what the fleet shares.
func replica() string {
	host, err := os.Hostname()
	if err != nil {
		host = unknown
	}
	return host + "/" + rand.Text()[:8]
}

// run works until ctx is cancelled and everything in hand is answered.
func (e *engine) run(ctx context.Context) error {
	defer e.client.Close()
	keys := make(chan struct{}, 1)
	var beside sync.WaitGroup
	watching, stopWatching := context.WithCancel(ctx)
	beside.Go(func() { e.core.WatchAuth(watching, keys) })
	beside.Go(func() { e.pollKey(watching, keys) })
	beside.Go(func() { e.sweeper.Run(watching) })
	beside.Go(func() { e.auditEvery(watching, e.settings.AuditEvery) })
	beside.Go(func() { e.survey(watching) })
	// What is in hand at the end still needs the gate.
	sharing, stopSharing := context.WithCancel(context.WithoutCancel(ctx))
	beside.Go(func() { e.gate.Run(sharing) })
	beside.Go(func() { e.reads.Run(sharing) })
	beside.Go(func() { e.watch(sharing) })
	err := e.complete(ctx)
	if err == nil {
		err = e.consumer.Run(ctx)
	}
	stopWatching()
	stopSharing()
	beside.Wait()
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	return errors.Join(err, e.core.Wait(rest))
}

// auditEvery compares the ledger with the account on a timer; 0 is off. Of
// several replicas one looks, and all report what it found.
func (e *engine) auditEvery(ctx context.Context, every time.Duration) {
	for every > 0 && pause(ctx, every) {
		if _, closed := e.gate.Closed(); closed {
			continue // its reads would draw on the same budget
		}
		if err := e.auditInTurn(ctx, every); err != nil && ctx.Err() == nil {
			e.log.WarnContext(ctx, "the audit was interrupted", "error", err)
		}
	}
}

func (e *engine) auditInTurn(ctx context.Context, every time.Duration) error {
	mine := false
	row, err := e.book.UpdateAudits(ctx, func(a provision.Audits) (next provision.Audits, changed bool) {
		next, mine = a.Turn(time.Now(), e.name, every)
		return next, mine
	})
	if err != nil {
		return fmt.Errorf("ask whose turn the audit is: %w", err)
	}
	if !mine {
		e.core.Audited(ctx, row.Findings)
		return nil
	}
	found, err := e.core.Audit(ctx, e.book)
	_, told := e.book.UpdateAudits(context.WithoutCancel(ctx), func(a provision.Audits) (provision.Audits, bool) { return a.Told(e.name, found, err) })
	if err := errors.Join(err, told); err != nil {
		return err
	}
	e.core.Suspect(ctx, found)
	for _, f := range found {
		e.log.WarnContext(ctx, "audit", "finding", f.Finding, "vps_id", f.VPSID, "key", f.IdempotencyKey, "name", f.Name,
			"price_per_hour", f.PricePerHour, "currency", f.Currency, "detail", f.Detail)
	}
	return nil
}

// complete looks whether everything that the worker writes to exists, and
// waits for a broker that cannot be reached yet. The consumer looks for the
// rest itself.
func (e *engine) complete(ctx context.Context) error {
	for {
		missing, err := e.settings.topology().MissingStores(ctx, e.js)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // stopped before it began
		case err == nil && len(missing) > 0:
			return fmt.Errorf("these do not exist: %s: create them with `worker setup`, or run with --provision", strings.Join(missing, ", "))
		case err == nil:
			return nil
		case e.nc.IsConnected() && errors.Is(err, context.DeadlineExceeded):
			// A request that is not permitted gets no answer. The worker can do
			// its work without this look.
			e.log.WarnContext(ctx, "the streams cannot be looked at with these NATS permissions; going on", "error", err)
			return nil
		}
		e.log.WarnContext(ctx, "the streams cannot be looked at yet", "error", err)
		if !pause(ctx, keyPoll) {
			return nil
		}
	}
}

// pollKey tells when the key has become a different one.
func (e *engine) pollKey(ctx context.Context, changed chan<- struct{}) {
	last := e.tokens.Generation()
	t := time.NewTicker(keyPoll)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		_, _ = e.tokens.Token() // looks at the file; without a key there is nothing new
		if now := e.tokens.Generation(); now != last {
			last = now
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}

// watch keeps gate, brake and reservations up to date with the fleet.
func (e *engine) watch(ctx context.Context) {
	broken := func(err error) {
		e.log.WarnContext(ctx, "the ledger's changes cannot be followed; no create is made until they can", "error", err)
	}
	var spend func(admission.Spend)
	if e.settings.MaxCreates > 0 || e.settings.MaxHourlyCost > 0 {
		spend = e.core.SpendChanged
	}
	e.book.Watch(ctx, ledger.Watch{
		Name: e.core.NameChanged, Broken: broken,
		Late: func(err error) {
			e.log.WarnContext(ctx, "names that have been open for long cannot be read yet; creates go on", "error", err)
		},
		Synced: func(live bool) {
			e.reads.Synced(live)
			e.gate.Synced(live)
			if live {
				e.log.InfoContext(ctx, "the ledger's changes are followed")
			}
		},
		Control: ledger.Control{
			Gate: e.gate.GateChanged, Reads: e.reads.GateChanged, Spend: spend, Broken: broken,
			Brake: func(b admission.Brake) { e.core.BrakeChanged(ctx, b) },
		}.Changed,
	})
}
