package crash

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// breathless is a stop of this process after which no further round is begun
	// for a while, as long as some are in work.
	breathless    = 150 * time.Millisecond
	breathingTime = 2 * time.Second
	fewRounds     = 2
)

// breathe waits until the machine has room for one round more.
func breathe(ctx context.Context, worst func(since time.Time) time.Duration, inWork *atomic.Int64) {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for inWork.Load() >= fewRounds && worst(time.Now().Add(-breathingTime)) >= breathless {
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

func TestBreathe(t *testing.T) {
	t.Parallel()
	worst := func(time.Time) time.Duration { return breathless }
	var inWork atomic.Int64
	breathe(t.Context(), worst, &inWork) // the first rounds wait for nothing
	inWork.Store(fewRounds)
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		breathe(ctx, worst, &inWork)
	}()
	select {
	case <-waited:
		t.Error("a further round begins on a machine that stands still")
	default:
	}
	cancel()
	<-waited
}
