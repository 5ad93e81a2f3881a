package provision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/admission"
)

// Config bounds the core in time. The zero value of a field is not a default:
// cmd/worker sets every one, and Validate refuses what cannot work.
type Config struct {
	// CreateTimeout is the hard deadline of one create call.
	CreateTimeout time.Duration
	// Deadline is the longest a request may go unanswered.
	Deadline time.Duration
	// BackoffInitial and BackoffMax bound the core's own backoff.
	BackoffInitial time.Duration
	BackoffMax     time.Duration
	// InlineWait is how long, in sum, one delivery may wait in hand.
	InlineWait time.Duration
	// LimitsTTL is how old facts may be that admit a request.
	LimitsTTL time.Duration
	// StoreTimeout is how long the result of a create call is offered to a
	// ledger that does not take it.
	StoreTimeout time.Duration
	// HeldPoll is how often a held request looks for a decision.
	HeldPoll time.Duration
	// SettleAnswered and SettleUnanswered are how long absence must be observed
	// before a create whose outcome is unknown is tried again: after HostUp
	// itself said that it failed, and after anything else. SettleReads is how
	// many looks must find nothing in that time.
	SettleAnswered   time.Duration
	SettleUnanswered time.Duration
	SettleReads      int
	// HoldUnknown puts a proved absence before a person instead of trying
	// again.
	HoldUnknown bool
	// LimitWait waits for room in a full account instead of failing.
	LimitWait bool
	// BreakerUnknowns is how many unknown verdicts in a row close the gate; 0
	// is never.
	BreakerUnknowns int
	// Caps put the brake on when they are reached. They need Ports.Controls.
	Caps admission.Caps
	// AuthHold holds the queue when the key is refused instead of failing.
	AuthHold bool
}

// Reserve is how long an open name row that does not change reserves room:
// facts that were asked for later contain whatever its owner bought.
func (c Config) Reserve() time.Duration { return c.CreateTimeout + c.SettleUnanswered }

// Validate reports every setting that cannot work.
func (c Config) Validate() error {
	var errs []error
	positive := map[string]time.Duration{
		"create timeout": c.CreateTimeout, "deadline": c.Deadline, "initial backoff": c.BackoffInitial,
		"maximum backoff": c.BackoffMax, "limits ttl": c.LimitsTTL, "store timeout": c.StoreTimeout, "held poll": c.HeldPoll,
		"settle time after an answer": c.SettleAnswered, "settle time without one": c.SettleUnanswered,
	}
	for name, d := range positive {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s must be positive, not %s", name, d))
		}
	}
	if c.SettleReads < 1 {
		errs = append(errs, fmt.Errorf("settle reads must be at least 1, not %d", c.SettleReads))
	}
	if c.BreakerUnknowns < 0 || c.Caps.CreatesPerHour < 0 || c.Caps.HourlyCost < 0 {
		errs = append(errs, fmt.Errorf("breaker %d and caps %+v must not be negative", c.BreakerUnknowns, c.Caps))
	}
	if c.InlineWait < 0 {
		errs = append(errs, fmt.Errorf("inline wait must not be negative, not %s", c.InlineWait))
	}
	if c.BackoffMax < c.BackoffInitial {
		errs = append(errs, fmt.Errorf("maximum backoff %s is below the initial %s", c.BackoffMax, c.BackoffInitial))
	}
	return errors.Join(errs...)
}

// Ports are the edges that the core drives.
type Ports struct {
	Ledger  Ledger
	Names   Names
	API     API
	Account Account
	// Inventory is where lost answers are looked up.
	Inventory Inventory
	Events    Publisher
	// Controls are the rows that the fleet shares.
	Controls Controls
}

// Provisioner drives requests. It is safe for concurrent use.
type Provisioner struct {
	cfg   Config
	ports Ports
	gate  *Gate
	book  *admission.Book
	log   *slog.Logger
	meter *instruments
	// tracer is nil while nobody gets the spans.
	tracer trace.Tracer
	seen   sightings
	// reads is the account that cannot be read, keys the creates that were
	// refused for their key.
	reads patience
	keys  patience
	// tail bounds the work that an ack does not wait for.
	tail    chan struct{}
	tailing sync.WaitGroup
}

// maxTail is how many finished requests may have their last ledger writes
// outstanding; beyond it the writes are waited for.
const maxTail = 1024

// New returns a Provisioner. gate is shared with whoever pulls messages.
func New(cfg Config, ports Ports, gate *Gate, log *slog.Logger, tel Telemetry) (*Provisioner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("core settings: %w", err)
	}
	meter, err := newInstruments(tel)
	if err != nil {
		return nil, fmt.Errorf("core metrics: %w", err)
	}
	if err := meter.watch(tel.Meter, gate, cfg.Caps); err != nil {
		return nil, fmt.Errorf("core metrics: %w", err)
	}
	return &Provisioner{
		cfg: cfg, ports: ports, gate: gate, log: log, meter: meter, tracer: tel.Tracer,
		tail: make(chan struct{}, maxTail),
		book: admission.NewBook(cfg.Reserve(), KeyHash),
	}, nil
}

// Wait returns when the writes that no ack waited for have ended, or with the
// error of ctx. Call it after the last Handle has returned.
func (p *Provisioner) Wait(ctx context.Context) error {
	idle := make(chan struct{})
	go func() {
		p.tailing.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the last ledger writes: %w", ctx.Err())
	}
}

// Handle answers one delivery. Cancelling ctx means: stop waiting and hand the
// message back as soon as that is safe. What follows a stored intent runs to
// its own end whatever happens to ctx, because it may have been paid for.
func (p *Provisioner) Handle(ctx context.Context, m Message) Disposition {
	d := p.handle(ctx, &m)
	if d.Key == "" {
		d.Key = m.Request.Key
	}
	p.meter.handled(ctx, d, m.StoredAt)
	return d
}

// handle answers one delivery. The message goes down by pointer and nobody changes
// it: by value it is in every frame, and a stack that has to double for it is
// doubled for everything that is in work.
func (p *Provisioner) handle(ctx context.Context, m *Message) Disposition {
	switch {
	case m.Defect != nil && m.Request.Key == "":
		return Disposition{Action: Dead, Defect: m.Defect, Result: ResultDead, Reason: string(m.Defect.Reason)}
	case m.Defect != nil:
		problem := newProblem(ReasonUndecodable, m.Defect.Detail)
		d := p.reject(ctx, m, ReasonUndecodable, problem)
		if d.Action == Done {
			d.Action, d.Defect = Dead, m.Defect
		}
		return d
	case len(m.Faults) > 0:
		return p.rejectInvalid(ctx, m, m.Faults)
	}
	return p.accept(ctx, m)
}

// maxTries is where a backoff stops growing, long after its maximum.
const maxTries = 32

// maxConflicts bounds how often one delivery starts over because the record
// moved; each time somebody else made progress.
const maxConflicts = 16

// accept finds or starts the record of a sound message and drives it.
func (p *Provisioner) accept(ctx context.Context, m *Message) Disposition {
	inHand := &budget{left: p.cfg.InlineWait, since: time.Now()}
	tries := int(min(m.Deliveries, maxTries))
	var lastErr error
	for range maxConflicts {
		r, err := p.load(ctx, m.Request.Key)
		if ctx.Err() != nil {
			return wait(0, WaitShutdown, nil)
		}
		if err != nil {
			return wait(p.backoff(tries), WaitLedger, fmt.Errorf("read the ledger: %w", err))
		}
		if r == nil {
			now := time.Now()
			r = newRecord(m, p.deadline(m, now), now)
		} else if d, answered := p.claimed(ctx, m, r); answered {
			return d
		}
		d, err := p.drive(ctx, r, inHand, m)
		if err == nil {
			return d
		}
		lastErr = err
	}
	return wait(p.backoff(tries), WaitLedger, fmt.Errorf("gave way %d times: %w", maxConflicts, lastErr))
}

// claimed answers a message whose key has a record already, unless the message
// is the very one that drives the record.
func (p *Provisioner) claimed(ctx context.Context, m *Message, r *Record) (Disposition, bool) {
	if r.Key != m.Request.Key || !r.Request.Same(m.Request) {
		problem := newProblem(ReasonIdempotencyConflict, "the key was used before for a different request; that one is not disturbed")
		return p.reject(ctx, m, ReasonIdempotencyConflict, problem), true
	}
	if r.acceptedFrom(m) {
		return Disposition{}, false
	}
	if r.State == StateCreated || r.State == StateFailed {
		if d := p.announce(ctx, r, m); d.Action != Done {
			return d, true
		}
	}
	return Disposition{Action: Done, Result: ResultDuplicate, Reason: string(r.State)}.of(r), true
}

// deadline is the earlier of the requester's deadline and the configured one.
func (p *Provisioner) deadline(m *Message, now time.Time) time.Time {
	from := m.StoredAt
	if from.IsZero() {
		from = now
	}
	latest := from.Add(p.cfg.Deadline)
	if d := m.Request.Deadline; !d.IsZero() && d.Before(latest) {
		return d
	}
	return latest
}

func (p *Provisioner) rejectInvalid(ctx context.Context, m *Message, faults []Fault) Disposition {
	problem := newProblem(ReasonInvalidRequest, fmt.Sprintf("the request has %d fault(s); see errors", len(faults)))
	problem.Errors = faults
	return p.reject(ctx, m, ReasonInvalidRequest, problem)
}

// reject answers a message that is not accepted. It leaves no record: the key
// stays free for a corrected message.
func (p *Provisioner) reject(ctx context.Context, m *Message, reason Reason, problem Problem) Disposition {
	// The time is the message's, so that the event is the same whenever it is
	// published.
	at := m.StoredAt
	if at.IsZero() {
		at = time.Now()
	}
	o := outcome(reason, problem.JSON(), at)
	e := Event{
		ID: RejectedID(m.Request.Key, m.BodyHash), Kind: KindFailed, Key: m.Request.Key, Encoding: m.Encoding,
		CausationID: m.CausationID, Trace: m.Trace, Request: m.Request,
		RequestedAt: m.StoredAt, OccurredAt: o.OccurredAt,
		Reason: reason, Billed: o.Billed, Retryable: o.Retryable, Rejected: true, Problem: o.Problem,
	}
	if err := p.ports.Events.Publish(ctx, e); err != nil {
		return wait(p.backoff(int(min(m.Deliveries, maxTries))), WaitPublish, fmt.Errorf("publish %s: %w", e.ID, err))
	}
	return Disposition{Action: Done, Result: ResultRejected, Reason: string(reason)}
}
