package consumer

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// crowd is what a lane knows of its waiting requests.
type crowd struct {
	waiting atomic.Int64
	queued  atomic.Int64
	full    bool
}

// watchPause is the shortest time between two looks at how many requests wait;
// the longest is twice that.
const watchPause = 2 * time.Second

// A consumer is about to be full when its waiting requests reach nearly of what
// it may hold, and no longer when they fall below relieved, in percent.
const (
	nearly   = 90
	relieved = 80
)

// watch keeps the number of waiting requests known. One that is some seconds
// old only makes the pace a little wrong.
func (l *lane) watch(ctx context.Context) {
	blind := 0
	for sleep(ctx, watchPause+rand.N(watchPause)) {
		if blind--; l.kind == single && blind < 0 && !l.age(ctx) {
			blind = blindLooks
		}
		look, cancel := context.WithTimeout(ctx, pullExpiry)
		cons, err := l.c.ports.JetStream.Consumer(look, l.c.cfg.Stream, l.name)
		cancel()
		if err == nil { // else pulling fails as well, and says so
			l.count(ctx, cons.CachedInfo())
		}
	}
}

// blindLooks is how many looks at the stream are left out after one that failed:
// a worker may do without the permission for it.
const blindLooks = 60

// age takes note of the oldest request in the stream, and reports whether it
// could be asked for.
func (l *lane) age(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, pullExpiry)
	defer cancel()
	stream, err := l.c.ports.JetStream.Stream(ctx, l.c.cfg.Stream)
	if err != nil {
		l.c.meter.queues.oldest.Store(-1)
		return false
	}
	l.c.meter.queues.stream(stream.CachedInfo())
	return true
}

// count takes note of what the broker says. A message in hand is pending too;
// those in other hands are few beside what makes this number matter.
func (l *lane) count(ctx context.Context, info *jetstream.ConsumerInfo) {
	n := max(0, info.NumAckPending-len(l.inHand.all()))
	l.crowd.waiting.Store(int64(n))
	l.crowd.queued.Store(int64(n) + int64(info.NumPending))
	l.c.meter.queue(ctx, l.name, info, n)
	room := info.Config.MaxAckPending
	switch {
	case room <= 0: // unlimited
	case !l.crowd.full && 100*n >= nearly*room:
		l.crowd.full = true
		l.c.ports.Log.WarnContext(ctx, "so many requests wait that new ones will soon not be delivered any more: raise max_ack_pending of the consumer, or make room in the account",
			"consumer", l.name, "waiting", n, "max_ack_pending", room)
	case l.crowd.full && 100*n < relieved*room:
		l.crowd.full = false
		l.c.ports.Log.InfoContext(ctx, "there is room for waiting requests again", "consumer", l.name, "waiting", n, "max_ack_pending", room)
	}
}
