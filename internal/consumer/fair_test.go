package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/provision"
)

// BenchmarkFair measures what JetStream offers against a batch of 10 000 that
// was there first: how many of it are handled before a single order that comes
// when a tenth is done.
//
//	go test -run '^$' -bench Fair -benchtime 1x ./internal/consumer
func BenchmarkFair(b *testing.B) {
	const size, slots = 10_000, 16
	for _, way := range []struct {
		name string
		make func(r *rig)
		run  func(r *rig, ctx context.Context) error
	}{
		{"OneConsumer", func(r *rig) { r.makeConsumer("worker", time.Minute) }, one("")},
		{"SeveralFilters", func(r *rig) { r.makeConsumer("worker", time.Minute, subject, batches) }, one("")},
		{"PriorityGroup", func(r *rig) { r.makePrioritized() }, one("orders")},
		{"SecondConsumer", func(r *rig) {
			r.makeConsumer("worker", time.Minute, subject)
			r.makeConsumer("worker-batch", time.Minute, batches)
		}, func(r *rig, ctx context.Context) error { return r.consumer(slots, patience, r.h).Run(ctx) }},
	} {
		b.Run(way.name, func(b *testing.B) {
			for range b.N {
				r := newRig(b, time.Minute, slots)
				if err := r.js.DeleteConsumer(b.Context(), "DEPLOY", "worker"); err != nil {
					b.Fatal(err)
				}
				way.make(r)
				var before, after atomic.Int64
				tenth, answered := make(chan struct{}), make(chan struct{})
				r.h.reply = func(_ context.Context, m provision.Message) provision.Disposition {
					if !isBatch(m) {
						after.Store(before.Load())
						close(answered)
					} else if before.Add(1) == size/10 {
						close(tenth)
					}
					return provision.Disposition{}
				}
				r.publishBatch(size)
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error, 1)
				go func() { ended <- way.run(r, ctx) }()
				<-tenth
				began, done := time.Now(), before.Load()
				r.publish("single")
				<-answered
				b.ReportMetric(float64(after.Load()-done), "batch-messages-before")
				b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-waited")
				cancel()
				if err := <-ended; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// makePrioritized makes a consumer whose pulls have a priority.
func (r *rig) makePrioritized() {
	r.t.Helper()
	if _, err := r.js.CreateConsumer(context.Background(), "DEPLOY", jetstream.ConsumerConfig{
		Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, FilterSubjects: []string{subject, batches},
		MaxAckPending: 100_000, PriorityPolicy: jetstream.PriorityPolicyPrioritized, PriorityGroups: []string{"orders"},
	}); err != nil {
		r.t.Fatalf("create the consumer: %v", err)
	}
}

// one is a worker with a single consumer. The priority belongs to who pulls,
// not to what is pulled: the best one is all it can ask for.
func one(group string) func(*rig, context.Context) error {
	return func(r *rig, ctx context.Context) error {
		cons, err := r.js.Consumer(ctx, "DEPLOY", "worker")
		if err != nil {
			return err
		}
		opts := []jetstream.FetchOpt{jetstream.FetchMaxWait(time.Second)}
		if group != "" {
			opts = append(opts, jetstream.FetchPriorityGroup(group), jetstream.FetchPrioritized(0))
		}
		for ctx.Err() == nil {
			there, err := cons.Fetch(16, opts...)
			if err != nil {
				return fmt.Errorf("pull: %w", err)
			}
			for m := range there.Messages() {
				r.h.Handle(ctx, provision.Message{Request: provision.Request{Key: string(m.Data())}})
				err = errors.Join(err, m.Ack())
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}
