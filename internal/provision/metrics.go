package provision

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
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
	}
	if err := errors.Join(errs...); err != nil {
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
