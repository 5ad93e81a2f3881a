package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// surveyEvery is how often unknown and held requests are counted. A held one is
// looked at about as often anyway.
const surveyEvery = 10 * time.Second

// survey keeps the count of unknown and held requests. The ledger's being away
// is told by whoever needs it more.
func (e *engine) survey(ctx context.Context) {
	for pause(ctx, surveyEvery) {
		if err := e.core.Survey(ctx, e.book, surveyEvery); err != nil && ctx.Err() == nil {
			e.log.DebugContext(ctx, "the unknown and held requests could not be counted", "error", err)
		}
	}
}

// observe exports what this process is and whether it is ready, as /readyz says.
func (e *engine) observe(draining <-chan struct{}) error {
	m := e.tel.Meter()
	_, err1 := m.Int64ObservableGauge("hostup_worker.build_info", metric.WithDescription("1, with what this binary is"), metric.WithInt64Callback(
		func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(1, metric.WithAttributes(attribute.String("version", version), attribute.String("commit", revision()), attribute.String("go_version", runtime.Version())))
			return nil
		}))
	_, err2 := m.Int64ObservableGauge("hostup_worker.ready", metric.WithDescription("1 for each check of /readyz that is well"), metric.WithInt64Callback(
		func(_ context.Context, o metric.Int64Observer) error {
			for _, c := range e.readiness(draining) {
				v := int64(0)
				if c.OK {
					v = 1
				}
				o.Observe(v, metric.WithAttributes(attribute.String("check", c.Name)))
			}
			return nil
		}))
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("metrics of the process: %w", err)
	}
	return nil
}
