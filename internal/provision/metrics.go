package provision

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hostup/deploy-worker/internal/admission"
)

// Telemetry is where the core reports to. Both are the API's types; cmd/worker
// decides whether anything listens.
type Telemetry struct {
	Meter metric.Meter
}

type instruments struct {
	requests metric.Int64Counter
	attempts metric.Int64Counter
	holdings metric.Int64Counter
	lookups  metric.Int64Counter
	adopted  metric.Int64Counter
	closures metric.Int64Counter
	findings metric.Int64Gauge
}

func newInstruments(t Telemetry) (*instruments, error) {
	var errs []error
	counter := func(name, description string) metric.Int64Counter {
		c, err := t.Meter.Int64Counter(name, metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	i := &instruments{
		requests: counter("hostup_worker.requests", "Deliveries answered, by result and reason"),
		attempts: counter("hostup_worker.attempts", "Create calls, by verdict"),
		holdings: counter("hostup_worker.held", "Requests put before a person"),
		lookups:  counter("hostup_worker.lookups", "Looks at the account for a server whose answer was lost, by what they found"),
		adopted:  counter("hostup_worker.adopted", "Servers found after a lost answer and announced"),
		closures: counter("hostup_worker.gate_closures", "Times this process closed the fleet's gate, by reason"),
	}
	var err error
	i.findings, err = t.Meter.Int64Gauge("hostup_worker.audit_findings", metric.WithDescription("Differences between ledger and account at the last audit, by kind"))
	if err := errors.Join(append(errs, err)...); err != nil {
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
		i.attempts.Add(ctx, 0, metric.WithAttributes(attribute.String("verdict", string(v))))
	}
	for _, r := range []Result{ResultProvisioning, ResultDuplicate} {
		i.requests.Add(ctx, 0, metric.WithAttributes(attribute.String("result", string(r)), attribute.String("reason", "")))
	}
	for reason := range reasons {
		i.requests.Add(ctx, 0, metric.WithAttributes(attribute.String("result", string(ResultFailed)), attribute.String("reason", string(reason))))
	}
	i.holdings.Add(ctx, 0)
	i.adopted.Add(ctx, 0)
	for _, r := range []admission.GateReason{admission.ReasonThrottled, admission.ReasonUnknowns} {
		i.closures.Add(ctx, 0, metric.WithAttributes(attribute.String("reason", string(r))))
	}
	for _, r := range []string{lookedEmpty, lookedFound, lookedFailed} {
		i.lookups.Add(ctx, 0, metric.WithAttributes(attribute.String("result", r)))
	}
}

func (i *instruments) handled(ctx context.Context, d Disposition) {
	reason := d.Reason
	if d.Result == ResultDuplicate || d.Result == ResultProvisioning {
		reason = ""
	}
	i.requests.Add(ctx, 1, metric.WithAttributes(attribute.String("result", string(d.Result)), attribute.String("reason", reason)))
}

func (i *instruments) attempted(ctx context.Context, a Answer) {
	i.attempts.Add(ctx, 1, metric.WithAttributes(attribute.String("verdict", string(a.Verdict))))
}

func (i *instruments) heldOne(ctx context.Context) { i.holdings.Add(ctx, 1) }

// Results of a look-up.
const (
	lookedEmpty  = "empty"
	lookedFound  = "found"
	lookedFailed = "failed"
)

func (i *instruments) looked(ctx context.Context, f found) {
	result := lookedEmpty
	if len(f.ours)+len(f.doubtful) > 0 {
		result = lookedFound
	}
	i.lookups.Add(ctx, 1, metric.WithAttributes(attribute.String("result", result)))
}

func (i *instruments) lookFailed(ctx context.Context) {
	i.lookups.Add(ctx, 1, metric.WithAttributes(attribute.String("result", lookedFailed)))
}

func (i *instruments) gateClosed(ctx context.Context, reason admission.GateReason) {
	i.closures.Add(ctx, 1, metric.WithAttributes(attribute.String("reason", string(reason))))
}

func (i *instruments) adoptedOne(ctx context.Context) { i.adopted.Add(ctx, 1) }

func (i *instruments) audited(ctx context.Context, counts map[FindingKind]int64) {
	for kind, n := range counts {
		i.findings.Record(ctx, n, metric.WithAttributes(attribute.String("finding", string(kind))))
	}
}

// watch shows the gate and the brake whenever somebody looks.
func (i *instruments) watch(m metric.Meter, g *Gate) error {
	observe := func(name, description string, on func() bool) error {
		_, err := m.Int64ObservableGauge(name, metric.WithDescription(description), metric.WithInt64Callback(
			func(_ context.Context, o metric.Int64Observer) error {
				v := int64(0)
				if on() {
					v = 1
				}
				o.Observe(v)
				return nil
			}))
		return err
	}
	return errors.Join(
		observe("hostup_worker.gate_closed", "1 while nobody may call HostUp", func() bool { _, closed := g.Closed(); return closed }),
		observe("hostup_worker.paused", "1 while the brake is on", func() bool { _, on := g.Braked(); return on }),
	)
}
