package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// inHand is the set of messages that are in work. One goroutine tells the
// broker about all of them, rather than one each.
type inHand struct {
	mu  sync.Mutex
	set map[jetstream.Msg]struct{}
}

func (h *inHand) add(m jetstream.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.set == nil {
		h.set = make(map[jetstream.Msg]struct{})
	}
	h.set[m] = struct{}{}
}

func (h *inHand) remove(m jetstream.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.set, m)
}

func (h *inHand) all() []jetstream.Msg {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]jetstream.Msg, 0, len(h.set))
	for m := range h.set {
		all = append(all, m)
	}
	return all
}

// keepAlive resets the ack wait of everything in hand at every interval. A
// heartbeat that is lost costs a redelivery, which the ledger makes harmless,
// so its error is nobody's business.
func (h *inHand) keepAlive(ctx context.Context, every time.Duration) {
	t := time.NewTicker(max(every, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			for _, m := range h.all() {
				_ = m.InProgress()
			}
		case <-ctx.Done():
			return
		}
	}
}
