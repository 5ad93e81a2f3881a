package consumer_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/provision"
)

// What a consumer has passed over without an answer is handled all the same,
// and leaves the stream when it is done; what waits to be delivered, and what
// has only just been passed over, is left alone.
func TestDeliverStranded(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 2)
	r.publish("done", "waits", "undecodable", "next")
	if _, err := r.js.ResetConsumerToSequence(t.Context(), "DEPLOY", "worker", 4); err != nil {
		t.Fatal(err)
	}
	r.h.reply = func(_ context.Context, m provision.Message) provision.Disposition {
		switch m.Request.Key {
		case "waits":
			return provision.Disposition{Action: provision.Retry, After: time.Hour}
		case "undecodable":
			return provision.Disposition{Action: provision.Dead, Defect: &provision.Defect{Reason: provision.DeadUndecodable}}
		}
		return provision.Disposition{}
	}
	look := func(handled int, left uint64) {
		t.Helper()
		n, err := r.c.DeliverStranded(t.Context())
		if err != nil || n != handled || r.queued() != left {
			t.Errorf("%d handled, %v, %d left; want %d and %d", n, err, r.queued(), handled, left)
		}
	}
	look(0, 4) // the first look only remembers
	look(3, 2)
	look(1, 2)
	if keys := r.keys(); slices.Contains(keys, "next") || len(keys) != 4 {
		t.Errorf("handled %q", keys)
	}
	if n := len(r.dead()); n != 1 {
		t.Errorf("%d dead letters", n)
	}
	for _, m := range r.h.seen {
		if m.Stream != "DEPLOY" || m.Sequence == 0 || m.StoredAt.IsZero() || m.Deliveries < 2 {
			t.Errorf("handled as %+v", m)
		}
	}
}

// lame is a broker that does not answer for one consumer.
type lame struct {
	jetstream.JetStream
}

type lameStream struct {
	jetstream.Stream
}

func (l lame) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	s, err := l.JetStream.Stream(ctx, name)
	return lameStream{s}, err
}

func (l lameStream) Consumer(ctx context.Context, name string) (jetstream.Consumer, error) {
	if name == "worker" {
		return nil, errDeaf
	}
	return l.Stream.Consumer(ctx, name)
}

// A lane that cannot be looked at does not keep the other's messages.
func TestDeliverStrandedOfTheOtherLane(t *testing.T) {
	t.Parallel()
	r := newRigs(t, time.Minute, 2)
	r.publishBatch(3)
	if _, err := r.js.ResetConsumerToSequence(t.Context(), "DEPLOY", "worker-batch", 4); err != nil {
		t.Fatal(err)
	}
	r.js = lame{r.js}
	r.c = r.consumer(2, patience, r.h)
	for _, want := range []int{0, 3} {
		if n, err := r.c.DeliverStranded(t.Context()); n != want || !errors.Is(err, errDeaf) {
			t.Errorf("%d handled, %v; want %d", n, err, want)
		}
	}
}
