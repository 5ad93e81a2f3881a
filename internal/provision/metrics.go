package provision

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/series"
)

// Telemetry is where the core reports to. Both are the API's types; cmd/worker
// decides whether anything listens.
type Telemetry struct {
	Meter metric.Meter
	// Tracer makes the core's spans below that of a delivery; nil for none.
	Tracer trace.Tracer
}

type instruments struct {
	requests metric.Int64Counter
	attempts metric.Int64Counter
	holdings metric.Int64Counter
	lookups  metric.Int64Counter
	adopted  metric.Int64Counter
	closures metric.Int64Counter
	findings metric.Int64Gauge
	audits   metric.Float64Gauge
	refusals metric.Int64Counter
	cost     metric.Float64Counter
	duration metric.Float64Histogram

	answered  *series.By[answered]
	byResult  *series.By[Result]
	byVerdict *series.By[Verdict]
	byLook    *series.By[string]

	waits    waits
	standing atomic.Pointer[standing]
	facts    atomic.Pointer[admission.Facts]
	spend    atomic.Pointer[admission.Spend]
}

func newInstruments(t Telemetry) (*instruments, error) {
	var errs []error
	counter := func(name, description string) metric.Int64Counter {
		c, err := t.Meter.Int64Counter(name, metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	i := &instruments{
		answered: series.New(answered.attributes),
		byResult: series.Label[Result]("result"), byVerdict: series.Label[Verdict]("verdict"), byLook: series.Label[string]("result"),
		requests: counter("hostup_worker.requests", "Deliveries answered, by result and reason"),
		attempts: counter("hostup_worker.attempts", "Create calls, by verdict"),
		holdings: counter("hostup_worker.held", "Requests put before a person"),
		lookups:  counter("hostup_worker.lookups", "Looks at the account for a server whose answer was lost, by what they found"),
		adopted:  counter("hostup_worker.adopted", "Servers found after a lost answer and announced"),
		closures: counter("hostup_worker.gate_closures", "Times this process closed the fleet's gate, by reason"),
		refusals: counter("hostup_worker.key_refusals", "Answers that refused the API key"),
	}
	var err1, err2, err3, err4 error
	i.findings, err1 = t.Meter.Int64Gauge("hostup_worker.audit_findings", metric.WithDescription("Differences between ledger and account at the last audit, by kind"))
	i.audits, err2 = t.Meter.Float64Gauge("hostup_worker.audit_timestamp", metric.WithUnit("s"), metric.WithDescription("When this process last learned what an audit found"))
	i.cost, err3 = t.Meter.Float64Counter("hostup_worker.hourly_cost_created", metric.WithDescription("Price per hour of the servers created or adopted, in the account's currency"))
	i.duration, err4 = t.Meter.Float64Histogram("hostup_worker.request.duration", metric.WithUnit("s"), metric.WithDescription("From the storing of a request to its answer, by result"))
	if err := errors.Join(append(errs, err1, err2, err3, err4)...); err != nil {
		return nil, err
	}
	i.zero()
	return i, nil
}

// zero makes the series exist before the first event, so that an alert on a
// rate sees the first one.
func (i *instruments) zero() {
	ctx := context.Background()
	for _, v := range []Verdict{VerdictCreated, VerdictRefused, VerdictThrottled, VerdictNeverSent, VerdictUnknown} {
		i.attempts.Add(ctx, 0, i.byVerdict.Of(v))
	}
	for result, reasons := range answers() {
		for _, reason := range reasons {
			i.requests.Add(ctx, 0, i.answered.Of(answered{result, reason}))
		}
	}
	for kind := range countFindings(nil) {
		i.findings.Record(ctx, 0, metric.WithAttributes(attribute.String("finding", string(kind))))
	}
	i.audits.Record(ctx, 0)
	i.refusals.Add(ctx, 0)
	i.holdings.Add(ctx, 0)
	i.adopted.Add(ctx, 0)
	i.cost.Add(ctx, 0)
	for _, r := range []admission.GateReason{admission.ReasonThrottled, admission.ReasonUnknowns} {
		i.closures.Add(ctx, 0, metric.WithAttributes(attribute.String("reason", string(r))))
	}
	for _, r := range []string{lookedEmpty, lookedFound, lookedFailed} {
		i.lookups.Add(ctx, 0, i.byLook.Of(r))
	}
}

// answers are the results of a delivery with the reasons that each can have.
func answers() map[Result][]string {
	all := map[Result][]string{
		ResultProvisioning: {""}, ResultDuplicate: {""}, ResultWaiting: waitReasons,
		ResultRejected: {string(ReasonInvalidRequest), string(ReasonIdempotencyConflict), string(ReasonUndecodable)},
		ResultDead:     {string(DeadUndecodable), string(DeadNoKey), string(DeadInvalidKey), string(DeadTooLarge)},
	}
	for reason := range reasons {
		all[ResultFailed] = append(all[ResultFailed], string(reason))
	}
	return all
}

// answered is what tells the answers to deliveries apart.
type answered struct {
	result Result
	reason string
}

func (a answered) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("result", string(a.result)), attribute.String("reason", a.reason)}
}

// handled counts one delivery of a request that was stored at the given time.
func (i *instruments) handled(ctx context.Context, d Disposition, storedAt time.Time) {
	reason := d.Reason
	if d.Result == ResultDuplicate || d.Result == ResultProvisioning {
		reason = ""
	}
	i.requests.Add(ctx, 1, i.answered.Of(answered{d.Result, reason}))
	switch d.Result {
	case ResultWaiting:
		i.waits.handBack(reason, d.After)
	case ResultProvisioning, ResultFailed, ResultRejected:
		if !storedAt.IsZero() {
			i.duration.Record(ctx, max(time.Since(storedAt).Seconds(), 0), i.byResult.Of(d.Result))
		}
	case ResultDuplicate, ResultDead:
	}
}

func (i *instruments) attempted(ctx context.Context, a Answer) {
	i.attempts.Add(ctx, 1, i.byVerdict.Of(a.Verdict))
}

func (i *instruments) heldOne(ctx context.Context) { i.holdings.Add(ctx, 1) }

// Results of a look-up.
const (
	lookedEmpty  = "empty"
	lookedFound  = "found"
	lookedFailed = "failed"
)

func (i *instruments) looked(ctx context.Context, f found) {
	i.lookups.Add(ctx, 1, i.byLook.Of(f.result()))
}

func (i *instruments) lookFailed(ctx context.Context) {
	i.lookups.Add(ctx, 1, i.byLook.Of(lookedFailed))
}

func (i *instruments) gateClosed(ctx context.Context, reason admission.GateReason) {
	i.closures.Add(ctx, 1, metric.WithAttributes(attribute.String("reason", string(reason))))
}

func (i *instruments) adoptedOne(ctx context.Context) { i.adopted.Add(ctx, 1) }

// keyRefused counts an answer that refused the key.
func (i *instruments) keyRefused(ctx context.Context) { i.refusals.Add(ctx, 1) }

// bought counts what a server costs per hour, at the prices that are known.
func (i *instruments) bought(ctx context.Context, size admission.Resources) {
	if facts := i.facts.Load(); facts != nil {
		i.cost.Add(ctx, facts.Prices.PerHour(size))
	}
}

// know takes note of facts that somebody has read.
func (i *instruments) know(facts admission.Facts) { i.facts.Store(&facts) }

func (i *instruments) audited(ctx context.Context, counts map[FindingKind]int64) {
	i.audits.Record(ctx, float64(time.Now().UnixMilli())/1e3)
	for kind, n := range counts {
		i.findings.Record(ctx, n, metric.WithAttributes(attribute.String("finding", string(kind))))
	}
}
