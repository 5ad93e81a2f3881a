package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/provision"
)

// FollowConfig says which events of a stream are followed, and from where on.
type FollowConfig struct {
	// Stream is the events stream, Prefix the first tokens of its subjects.
	Stream string
	Prefix string
	// Kinds are the events wanted; none means all.
	Kinds []provision.Kind
	// From is the first sequence, Since the first time; without both only what
	// is published from now on is given.
	From  uint64
	Since time.Time
	// Ended, if set, is asked when everything stored so far has been given; true
	// ends Follow without an error.
	Ended func() bool
}

// Followed is one stored event.
type Followed struct {
	provision.Event

	Subject  string
	Sequence uint64
	StoredAt time.Time
	// Unreadable says why the message is no event that this version knows; of
	// the event only what its headers say is set then.
	Unreadable error
}

// Times of a follower: a leader that died is noticed by its heartbeats.
const (
	followExpiry    = 5 * time.Second
	followHeartbeat = time.Second
)

// Follow gives stored events in their order until ctx ends, each returns an
// error, or c.Ended says so. It outlives a broker that goes away and comes
// back. The error is that of each, of ctx, or says why the stream cannot be
// followed at all. ready, if set, is called once what is published from then on
// is sure to be given.
func Follow(ctx context.Context, js jetstream.JetStream, c FollowConfig, ready func(), each func(Followed) error) error {
	if c.From == 0 && c.Since.IsZero() {
		// By number: a consumer that is made anew before its first event must
		// not begin with what is new by then.
		s, err := js.Stream(ctx, c.Stream)
		if err != nil {
			return fmt.Errorf("follow the events in %s: %w", c.Stream, err)
		}
		c.From = s.CachedInfo().State.LastSeq + 1
	}
	cons, err := js.OrderedConsumer(ctx, c.Stream, c.ordered())
	if err != nil {
		return fmt.Errorf("follow the events in %s: %w", c.Stream, err)
	}
	info, err := cons.Info(ctx)
	if err != nil {
		return fmt.Errorf("follow the events in %s: %w", c.Stream, err)
	}
	if ready != nil {
		ready()
	}
	if info.NumPending == 0 && c.Ended != nil && c.Ended() {
		return nil
	}
	messages, err := cons.Messages(jetstream.PullExpiry(followExpiry), jetstream.PullHeartbeat(followHeartbeat))
	if err != nil {
		return fmt.Errorf("follow the events in %s: %w", c.Stream, err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			continue // the consumer is made anew behind the last event
		case err != nil:
			return fmt.Errorf("follow the events in %s: %w", c.Stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("follow the events in %s: %w", c.Stream, err)
		}
		f := Followed{Subject: m.Subject(), Sequence: meta.Sequence.Stream, StoredAt: meta.Timestamp}
		f.Event, f.Unreadable = DecodeEvent(m.Headers(), m.Data())
		if f.Unreadable != nil {
			f.ID, f.Key = ceAttribute(m.Headers(), headerID), ceAttribute(m.Headers(), headerSubject)
		}
		if err := each(f); err != nil {
			return err
		}
		if meta.NumPending == 0 && c.Ended != nil && c.Ended() {
			return nil
		}
	}
}

func (c FollowConfig) ordered() jetstream.OrderedConsumerConfig {
	o := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: c.From}
	if c.From == 0 {
		o = jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &c.Since}
	}
	kinds := c.Kinds
	if len(kinds) == 0 {
		kinds = []provision.Kind{provision.KindProvisioning, provision.KindFailed, provision.KindHeld}
	}
	for _, k := range kinds {
		o.FilterSubjects = append(o.FilterSubjects, c.Prefix+"."+string(k))
	}
	return o
}
