package consumer

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// hands are the goroutines that handle messages. One that is done takes the next
// message, because its stack has grown already: to grow one for each message
// costs some 4 % of all processor time (docs/performance.md). There are as many
// as have ever been at work at one time, and the collector gives back what idle
// ones do not use of their stacks.
type hands struct {
	do   func(work)
	next chan work
	busy sync.WaitGroup
}

// work is a message in hand in a slot that was taken for it.
type work struct {
	ctx  context.Context //nolint:containedctx // handed from goroutine to goroutine, and not kept
	lane *lane
	m    jetstream.Msg
}

func newHands(do func(work)) *hands { return &hands{do: do, next: make(chan work)} }

// take hands work to somebody idle, or to somebody new. It does not wait.
func (h *hands) take(w work) {
	h.busy.Add(1)
	select {
	case h.next <- w:
	default:
		go h.run(w)
	}
}

func (h *hands) run(w work) {
	for more := true; more; w, more = <-h.next {
		h.do(w)
		h.busy.Done()
	}
}

// end sends everybody home who is or will be done. Nothing may be taken after.
func (h *hands) end() { close(h.next) }

// handle does the work and gives its slot back.
func handle(w work) {
	defer w.lane.c.slots.give(w.lane.kind, 1)
	defer w.lane.inHand.remove(w.m)
	w.lane.deliver(w.ctx, w.m)
}
