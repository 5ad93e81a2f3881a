package provision

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hostup/deploy-worker/internal/admission"
)

// gauges are what is looked at when somebody asks for the metrics.
type gauges struct {
	meter metric.Meter
	errs  []error
}

// whole makes a gauge of whole numbers, share one of another unit.
func (g *gauges) whole(name, description string, look func(observe func(int64, ...attribute.KeyValue))) {
	_, err := g.meter.Int64ObservableGauge(name, metric.WithDescription(description), metric.WithInt64Callback(
		func(_ context.Context, o metric.Int64Observer) error {
			look(func(v int64, labels ...attribute.KeyValue) { o.Observe(v, metric.WithAttributes(labels...)) })
			return nil
		}))
	g.errs = append(g.errs, err)
}

func (g *gauges) share(name, unit, description string, look func(observe func(float64, ...attribute.KeyValue))) {
	_, err := g.meter.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description), metric.WithFloat64Callback(
		func(_ context.Context, o metric.Float64Observer) error {
			look(func(v float64, labels ...attribute.KeyValue) { o.Observe(v, metric.WithAttributes(labels...)) })
			return nil
		}))
	g.errs = append(g.errs, err)
}

// watch shows the gate, the brake, the account and who waits, whenever somebody
// looks.
func (i *instruments) watch(m metric.Meter, g *Gate, caps admission.Caps) error {
	look := &gauges{meter: m}
	look.whole("hostup_worker.gate_closed", "1 while nobody may call HostUp", func(observe func(int64, ...attribute.KeyValue)) {
		_, closed := g.Closed()
		observe(oneIf(closed))
	})
	look.whole("hostup_worker.paused", "1 while the brake is on", func(observe func(int64, ...attribute.KeyValue)) {
		_, on := g.Braked()
		observe(oneIf(on))
	})
	look.whole("hostup_worker.waits", "Requests that wait now, by what for", func(observe func(int64, ...attribute.KeyValue)) {
		counts := i.waits.counts()
		for _, reason := range waitReasons {
			observe(counts[reason], attribute.String("reason", reason))
		}
	})
	_, err := m.Float64ObservableCounter("hostup_worker.gate_closed_seconds", metric.WithUnit("s"),
		metric.WithDescription("How long this process was not allowed to call HostUp, by reason"),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			sums := g.closedFor()
			for _, reason := range closedReasons {
				o.Observe(sums[reason].Seconds(), metric.WithAttributes(attribute.String("reason", reason)))
			}
			return nil
		}))
	i.watchStanding(look)
	i.watchAccount(look, caps)
	return errors.Join(append(look.errs, err)...)
}

// watchStanding shows what the last survey found.
func (i *instruments) watchStanding(look *gauges) {
	last := func() standing {
		if s := i.standing.Load(); s != nil {
			return *s
		}
		return standing{}
	}
	age := func(since time.Time) float64 {
		if since.IsZero() {
			return 0
		}
		return max(time.Since(since).Seconds(), 0)
	}
	look.whole("hostup_worker.unknown_requests", "Requests of the fleet that may have bought a server which is being looked for", func(observe func(int64, ...attribute.KeyValue)) {
		observe(last().unknown)
	})
	look.share("hostup_worker.unknown_oldest", "s", "How long ago the oldest unanswered create call began", func(observe func(float64, ...attribute.KeyValue)) {
		observe(age(last().unknownSince))
	})
	look.whole("hostup_worker.held_requests", "Requests of the fleet that wait for a person now", func(observe func(int64, ...attribute.KeyValue)) {
		observe(last().held)
	})
	look.share("hostup_worker.held_oldest", "s", "How long the oldest held request has been held", func(observe func(float64, ...attribute.KeyValue)) {
		observe(age(last().heldSince))
	})
}

// watchAccount shows what the account still allows, once it has been read, and
// how much of the caps is used.
func (i *instruments) watchAccount(look *gauges, caps admission.Caps) {
	limits := func(of func(admission.Facts) admission.Resources) func(observe func(int64, ...attribute.KeyValue)) {
		return func(observe func(int64, ...attribute.KeyValue)) {
			facts := i.facts.Load()
			if facts == nil {
				return
			}
			for _, l := range of(*facts).Limits() {
				observe(l.Amount, attribute.String("limit", l.Name))
			}
		}
	}
	look.whole("hostup_worker.limit_remaining", "What is left of each limit of the account", limits(func(f admission.Facts) admission.Resources { return f.Remaining }))
	look.whole("hostup_worker.limit_max", "Each limit of the account", limits(func(f admission.Facts) admission.Resources { return f.Max }))
	look.share("hostup_worker.limits_timestamp", "s", "When the limits were read", func(observe func(float64, ...attribute.KeyValue)) {
		if facts := i.facts.Load(); facts != nil {
			observe(float64(facts.AskedAt.UnixMilli()) / 1e3)
		}
	})
	look.share("hostup_worker.cap_used", "1", "How much of a cap of the fleet is used, from 0 to 1", func(observe func(float64, ...attribute.KeyValue)) {
		var spend admission.Spend
		if s := i.spend.Load(); s != nil {
			spend = *s
		}
		creates, cost := spend.Within(time.Now())
		if caps.CreatesPerHour > 0 {
			observe(creates/float64(caps.CreatesPerHour), attribute.String("cap", "creates-per-hour"))
		}
		if caps.HourlyCost > 0 {
			observe(cost/caps.HourlyCost, attribute.String("cap", "hourly-cost"))
		}
	})
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
