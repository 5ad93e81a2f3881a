package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/provision"
)

const (
	// oneByOne asks for the next event only when the one before was taken. What
	// nobody waits for any more would come again when its ack is overdue, behind
	// newer ones.
	oneByOne = jetstream.PullMaxMessages(1)
	// takenTimeout bounds the wait for the broker to confirm an ack.
	takenTimeout = 5 * time.Second
	// soonQuiet is how long nothing comes before it is asked whether that was all.
	soonQuiet = 500 * time.Millisecond
	// giveBackTimeout bounds the wait for what was on its way at the end.
	giveBackTimeout = time.Second
)

// resume finds the durable consumer. It asks for nothing else of the stream: who
// reads outcomes may see no more than that.
func (f *following) resume(ctx context.Context, js jetstream.JetStream) (err error) {
	if f.cons, err = js.Consumer(ctx, f.Stream, f.Reader); err != nil {
		return err
	}
	info := f.cons.CachedInfo()
	if info.Config.AckPolicy != jetstream.AckExplicitPolicy {
		return fmt.Errorf("the consumer %s does not remember single events: its ack_policy is %s, wanted %s", f.Reader, info.Config.AckPolicy, jetstream.AckExplicitPolicy)
	}
	f.unconfirmed = make(map[uint64]bool)
	return nil
}

// takeOnce gives an event to each and tells the broker that it was taken, or
// that it was not.
func (f *following) takeOnce(ctx context.Context, m jetstream.Msg, e Followed) error {
	var end error
	wanted := len(f.Kinds) == 0 || slices.ContainsFunc(f.Kinds, func(k provision.Kind) bool { return e.Subject == f.subject(k) })
	if wanted && !f.unconfirmed[e.Sequence] {
		end = f.each(e)
	}
	if end != nil && !errors.Is(end, ErrEnough) {
		return errors.Join(end, m.Nak()) // so that who reads next gets it at once
	}
	// It was taken, also if that is to be the end.
	acking, cancel := context.WithTimeout(context.WithoutCancel(ctx), takenTimeout)
	defer cancel()
	err := m.DoubleAck(acking)
	switch {
	case err == nil:
		delete(f.unconfirmed, e.Sequence)
		return end
	case end != nil:
		return f.cannot(fmt.Errorf("event %d was given and will be again, as its ack was not confirmed: %w", e.Sequence, err))
	default:
		f.unconfirmed[e.Sequence] = true
		return nil
	}
}

// patience is how long next waits before it is asked again whether that was all:
// the second time long enough for a lost question to be noticed.
func (f *following) patience() time.Duration {
	if f.quiet {
		return followExpiry
	}
	return soonQuiet
}

// nothingLeft reports whether every event was taken, when nothing comes. The
// broker counts what is new a moment after it has stored it, so its number alone
// says too little: it has to have our question as well, and no answer. An event
// that somebody else has in hand comes to us if he does not take it.
func (f *following) nothingLeft(ctx context.Context) bool {
	info, err := f.cons.Info(ctx)
	return err == nil && info.NumWaiting > 0 && info.NumPending == 0 && info.NumAckPending == 0
}

// gone says that a durable consumer was removed, for whoever waits for it to say
// something.
func (f *following) gone(ctx context.Context) error {
	if f.Reader == "" {
		return nil
	}
	if _, err := f.cons.Info(ctx); errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	return nil
}

// giveBack ends the reading. What the broker sent meanwhile is the next event
// that anybody gets.
func (f *following) giveBack() {
	f.messages.Drain()
	for {
		m, err := f.messages.Next(jetstream.NextMaxWait(giveBackTimeout))
		if err != nil {
			return // that was all
		}
		_ = m.Nak() // without it, it comes when its ack is overdue
	}
}
