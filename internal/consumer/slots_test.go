package consumer

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric/noop"
)

func TestSlotsAreShared(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		total  int
		held   [2]int
		wanted [2]bool
		open   [2]int
	}{
		"all free":                        {16, [2]int{}, [2]bool{}, [2]int{16, 12}},
		"batches leave a quarter":         {16, [2]int{0, 12}, [2]bool{}, [2]int{4, 0}},
		"single orders may take all":      {16, [2]int{12, 0}, [2]bool{}, [2]int{4, 4}},
		"batches take what is not needed": {16, [2]int{10, 2}, [2]bool{}, [2]int{4, 4}},
		"single orders come first":        {4, [2]int{2, 1}, [2]bool{true, true}, [2]int{1, 0}},
		"batches keep one":                {4, [2]int{3, 0}, [2]bool{true, true}, [2]int{0, 1}},
		"batches want no more than one":   {4, [2]int{1, 0}, [2]bool{true, true}, [2]int{2, 1}},
		"two slots":                       {2, [2]int{}, [2]bool{}, [2]int{2, 1}},
		"one slot":                        {1, [2]int{}, [2]bool{}, [2]int{1, 1}},
		"one slot, both want it":          {1, [2]int{}, [2]bool{true, true}, [2]int{1, 0}},
		"one slot, taken":                 {1, [2]int{0, 1}, [2]bool{true, true}, [2]int{0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSlots(tc.total)
			s.held, s.wanted = tc.held, tc.wanted
			for _, k := range []kind{single, batch} {
				if got := max(0, s.open(k)); got != tc.open[k] {
					t.Errorf("kind %d may take %d, want %d", k, got, tc.open[k])
				}
			}
		})
	}
}

// With one slot a batch that never ends gives way to a single order after one
// message, and single orders that never end keep no batch from several slots.
func TestSlotsAreHandedOver(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		total         int
		floods, waits kind
	}{
		"single order": {1, batch, single},
		"batch":        {2, single, batch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSlots(tc.total)
				s.take(t.Context(), tc.floods, tc.total)
				got := make(chan int, 1)
				go func() { got <- s.take(t.Context(), tc.waits, 1) }()
				synctest.Wait()
				s.give(tc.floods, 1)
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				if n := s.take(ended, tc.floods, 1); n != 0 {
					t.Errorf("the flood got the slot again")
				}
				if n := <-got; n != 1 {
					t.Errorf("got %d slots", n)
				}
			})
		})
	}
}

func TestTakingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	s := newSlots(1)
	s.take(t.Context(), single, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n := s.take(ctx, batch, 1); n != 0 || s.wanted[batch] || s.inUse() != 1 {
		t.Errorf("took %d, wants %v, %d in use", n, s.wanted[batch], s.inUse())
	}
}

// A consumer that fills up is told of once, until it has emptied.
func TestNearlyFullIsSaidOncePerEpisode(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	c, err := New(Config{Consumer: "worker", Concurrency: 1}, Ports{
		Meter: noop.NewMeterProvider().Meter(""), Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	l := c.lanes[0]
	count := func(waiting, room int) {
		l.count(t.Context(), &jetstream.ConsumerInfo{NumAckPending: waiting, Config: jetstream.ConsumerConfig{MaxAckPending: room}})
	}
	said := func() int { return strings.Count(log.String(), "level=WARN") }
	for i, step := range []struct{ waiting, room, said int }{
		{1000, -1, 0}, {89, 100, 0}, {90, 100, 1}, {100, 100, 1}, {85, 100, 1}, {95, 100, 1}, {79, 100, 1}, {95, 100, 2},
	} {
		count(step.waiting, step.room)
		if said() != step.said || l.crowd.waiting.Load() != int64(step.waiting) {
			t.Errorf("step %d: said %d times, want %d; waiting %d", i, said(), step.said, l.crowd.waiting.Load())
		}
	}
}
