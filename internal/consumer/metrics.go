package consumer

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hostup/deploy-worker/internal/provision"
)

type instruments struct {
	working metric.Int64UpDownCounter
	letters metric.Int64Counter
	crashes metric.Int64Counter
	waiting metric.Int64Gauge
}

func newInstruments(m metric.Meter) (*instruments, error) {
	working, err1 := m.Int64UpDownCounter("hostup_worker.in_work", metric.WithDescription("Messages in work"))
	letters, err2 := m.Int64Counter("hostup_worker.dead_letters", metric.WithDescription("Messages moved to the dead letters, by reason"))
	crashes, err3 := m.Int64Counter("hostup_worker.panics", metric.WithDescription("Panics while handling a message"))
	waiting, err4 := m.Int64Gauge("hostup_worker.waiting_requests", metric.WithDescription("Requests that were handed back to wait, by consumer"))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	i := &instruments{working: working, letters: letters, crashes: crashes, waiting: waiting}
	ctx := context.Background()
	i.working.Add(ctx, 0)
	i.crashes.Add(ctx, 0)
	for _, r := range []provision.DeadReason{
		provision.DeadUndecodable, provision.DeadNoKey, provision.DeadInvalidKey, provision.DeadTooLarge, provision.DeadPanic,
	} {
		i.letters.Add(ctx, 0, metric.WithAttributes(attribute.String("reason", string(r))))
	}
	return i, nil
}

func (i *instruments) inWork(ctx context.Context, n int64) { i.working.Add(ctx, n) }

func (i *instruments) dead(ctx context.Context, r provision.DeadReason) {
	i.letters.Add(ctx, 1, metric.WithAttributes(attribute.String("reason", string(r))))
}

func (i *instruments) panicked(ctx context.Context) { i.crashes.Add(ctx, 1) }

func (i *instruments) waits(ctx context.Context, consumer string, n int) {
	i.waiting.Record(ctx, int64(n), metric.WithAttributes(attribute.String("consumer", consumer)))
}
