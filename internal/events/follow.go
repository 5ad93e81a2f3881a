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
	// Reader names a durable consumer that exists, to go on with in place of From
	// and Since. It remembers which events were taken: each is given at least
	// once, to one process or another.
	Reader string
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

// ErrEnough is what each returns with the last event that it wants. An event
// with any other error was not taken.
var ErrEnough = errors.New("as many events as were wanted")

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
	f := &following{FollowConfig: c, each: each}
	if err := f.open(ctx, js); err != nil {
		return f.cannot(err)
	}
	if ready != nil {
		ready()
	}
	if f.over(ctx) {
		return nil
	}
	if err := f.begin(); err != nil {
		return f.cannot(err)
	}
	defer f.stop()
	for {
		m, err := f.next(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return f.cannot(err)
		case m != nil:
			if err := f.take(ctx, m); err != nil {
				return err
			}
		}
		if f.over(ctx) {
			return nil
		}
	}
}

// following is a Follow under way.
type following struct {
	FollowConfig

	each     func(Followed) error
	cons     jetstream.Consumer
	messages jetstream.MessagesContext
	// pending is how many events are stored behind the last one, which only a
	// consumer of our own says for sure.
	pending uint64
	// quiet is set while nothing comes of a durable consumer.
	quiet bool
	// unconfirmed are events of a durable consumer that were taken, and come
	// again, because the broker did not confirm that it knows.
	unconfirmed map[uint64]bool
}

func (f *following) cannot(err error) error {
	return fmt.Errorf("follow the events in %s: %w", f.Stream, err)
}

// open finds the consumer, or makes one.
func (f *following) open(ctx context.Context, js jetstream.JetStream) (err error) {
	switch {
	case f.Reader != "":
		return f.resume(ctx, js)
	case f.From == 0 && f.Since.IsZero():
		// By number: a consumer that is made anew before its first event must
		// not begin with what is new by then.
		s, err := js.Stream(ctx, f.Stream)
		if err != nil {
			return err
		}
		f.From = s.CachedInfo().State.LastSeq + 1
	}
	if f.cons, err = js.OrderedConsumer(ctx, f.Stream, f.ordered()); err != nil {
		return err
	}
	info, err := f.cons.Info(ctx)
	if err != nil {
		return err
	}
	f.pending = info.NumPending
	return nil
}

// begin asks the broker for events.
func (f *following) begin() (err error) {
	pulls := []jetstream.PullMessagesOpt{jetstream.PullExpiry(followExpiry), jetstream.PullHeartbeat(followHeartbeat)}
	if f.Reader != "" {
		pulls = append(pulls, oneByOne)
	}
	f.messages, err = f.cons.Messages(pulls...)
	return err
}

// stop ends what begin began.
func (f *following) stop() {
	if f.Reader != "" {
		f.giveBack()
		return
	}
	f.messages.Stop()
}

// next waits for a message. It returns none when it is time to look whether
// there are any left.
func (f *following) next(ctx context.Context) (jetstream.Msg, error) {
	wait := ctx
	if f.Reader != "" && f.Ended != nil {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, f.patience())
		defer cancel()
	}
	for {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		m, err := f.messages.Next(jetstream.NextContext(wait))
		switch {
		case err == nil:
			f.quiet = false
			return m, nil
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			// An ordered consumer is made anew behind the last event.
			if err := f.gone(ctx); err != nil {
				return nil, err
			}
		case ctx.Err() == nil && wait.Err() != nil:
			f.quiet = true
			return nil, nil
		default:
			return nil, err
		}
	}
}

// take gives an event to each.
func (f *following) take(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return f.cannot(err)
	}
	f.pending = meta.NumPending
	e := Followed{Subject: m.Subject(), Sequence: meta.Sequence.Stream, StoredAt: meta.Timestamp}
	e.Event, e.Unreadable = DecodeEvent(m.Headers(), m.Data())
	if e.Unreadable != nil {
		e.ID, e.Key = ceAttribute(m.Headers(), headerID), ceAttribute(m.Headers(), headerSubject)
	}
	if f.Reader != "" {
		return f.takeOnce(ctx, m, e)
	}
	return f.each(e)
}

// over reports whether everything stored has been given, and no more is wanted.
func (f *following) over(ctx context.Context) bool {
	all := f.pending == 0
	if f.Reader != "" {
		all = f.quiet && f.nothingLeft(ctx)
	}
	return all && f.Ended != nil && f.Ended()
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
		o.FilterSubjects = append(o.FilterSubjects, c.subject(k))
	}
	return o
}

func (c FollowConfig) subject(k provision.Kind) string { return c.Prefix + "." + string(k) }
