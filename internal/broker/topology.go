package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Topology names what the worker needs on the broker (contract section 2).
type Topology struct {
	Stream       string
	Consumer     string
	EventsStream string
	DeadStream   string
	Bucket       string
	Prefix       string
	// Readers are durable consumers of the events, each the memory of somebody
	// who reads outcomes. Only setup knows of them.
	Readers   []string
	Replicas  int
	AckWait   time.Duration
	LedgerTTL time.Duration
}

// Settings that the worker relies on; design section 11 gives the reasons.
const (
	// MaxAckPending bounds how many requests of one consumer may be in work or
	// waiting; beyond it the broker delivers no new ones. Measured with
	// nats-server 2.15 and messages of 300 bytes that were given back with a
	// delay: 20 000 take 15 MB of the broker's memory, 100 000 take 60 to 90,
	// and no processor time while they wait. At the pace at which the core is
	// asked about them (200 a second in sum) they cost 8 and 28 % of one core,
	// because the broker looks through all of them for those that are due.
	MaxAckPending = 100_000
	// MaxRequestSize is the largest message the request stream takes, in bytes.
	MaxRequestSize = 512 << 10
	// EventWindow is how long a repeated event is dropped by its id.
	EventWindow = time.Hour
	// requestWindow and ledgerWindow are NATS's own default.
	requestWindow = 2 * time.Minute
	// lookTimeout bounds one look at all streams.
	lookTimeout = 10 * time.Second
	// markerTTL keeps the marker of an expired ledger cell for watchers.
	markerTTL = time.Minute
)

// RequestSubject is the subject of the requests.
func (t Topology) RequestSubject() string { return t.Prefix + ".requested" }

// BatchSubject is the subject of requests that may let single orders go first.
func (t Topology) BatchSubject() string { return t.RequestSubject() + ".batch" }

// BatchConsumer is the durable consumer of the batches.
func (t Topology) BatchConsumer() string { return t.Consumer + "-batch" }

// DeadSubject is the subject of the dead letters.
func (t Topology) DeadSubject() string { return t.Prefix + ".dead" }

// Streams returns the wanted configuration of the four streams; the ledger's
// bucket is the stream KV_<Bucket>.
func (t Topology) Streams() []jetstream.StreamConfig {
	base := func(name, description string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: description, Subjects: subjects,
			Storage: jetstream.FileStorage, Replicas: t.Replicas,
			// A full stream refuses its publisher instead of dropping an order.
			Discard:  jetstream.DiscardNew,
			MaxMsgs:  -1,
			MaxBytes: -1, MaxMsgSize: -1, MaxMsgsPerSubject: -1,
		}
	}
	requests := base(t.Stream, "deploy requests", t.RequestSubject(), t.BatchSubject())
	// With work-queue retention an ack removes the message for good, also when
	// the broker is killed right after it.
	requests.Retention = jetstream.WorkQueuePolicy
	requests.MaxMsgSize = MaxRequestSize
	requests.Duplicates = requestWindow

	events := base(t.EventsStream, "outcomes of deploy requests", t.Prefix+".provisioning", t.Prefix+".failed", t.Prefix+".held")
	events.Duplicates = EventWindow

	dead := base(t.DeadStream, "deploy requests that cannot be answered", t.DeadSubject())
	dead.Duplicates = EventWindow

	ledger := base("KV_"+t.Bucket, "memory of every idempotency key", "$KV."+t.Bucket+".>")
	ledger.MaxMsgsPerSubject = 1
	ledger.MaxAge = t.LedgerTTL
	ledger.Duplicates = min(requestWindow, t.LedgerTTL)
	ledger.AllowRollup, ledger.DenyDelete = true, true
	ledger.AllowMsgTTL, ledger.SubjectDeleteMarkerTTL = true, markerTTL
	// Reads must come from the leader: a follower may not have our last write.
	ledger.AllowDirect = false
	return []jetstream.StreamConfig{requests, events, dead, ledger}
}

// Consumers returns the wanted configuration of the durable consumers: that of
// the single orders and that of the batches. One consumer hands its messages
// out in their order, whatever their subjects.
func (t Topology) Consumers() []jetstream.ConsumerConfig {
	base := func(name, subject string) jetstream.ConsumerConfig {
		return jetstream.ConsumerConfig{
			Durable: name, Description: "deploy-worker",
			AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
			FilterSubject: subject,
			AckWait:       t.AckWait,
			// The ledger counts attempts; a waiting message must not be given up.
			MaxDeliver:    -1,
			MaxAckPending: MaxAckPending,
			// No BackOff: it would replace AckWait and break NakWithDelay.
		}
	}
	return []jetstream.ConsumerConfig{base(t.Consumer, t.RequestSubject()), base(t.BatchConsumer(), t.BatchSubject())}
}

// ReaderConsumers returns the wanted configuration of the durable consumers of
// the events.
func (t Topology) ReaderConsumers() []jetstream.ConsumerConfig {
	var all []jetstream.ConsumerConfig
	for _, name := range slices.Compact(slices.Sorted(slices.Values(t.Readers))) {
		all = append(all, jetstream.ConsumerConfig{
			Durable: name, Description: "reader of outcomes",
			AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
			AckWait: t.AckWait,
			// An outcome is never given up.
			MaxDeliver: -1,
			// Only so do events come in their order, whatever ends a reader: the
			// next one is handed out when the one before cannot come again.
			MaxAckPending: 1,
		})
	}
	return all
}

// Action is what a Change does.
type Action string

// The three actions.
const (
	Create Action = "create"
	Update Action = "update"
	Keep   Action = "keep"
)

// Change is the difference between one wanted object and the broker.
type Change struct {
	// Kind is stream, bucket or consumer.
	Kind   string  `json:"kind"`
	Name   string  `json:"name"`
	Action Action  `json:"action"`
	Fields []Field `json:"fields,omitempty"`
	// Err is why it could not be looked at; see Topology.Survey.
	Err error `json:"-"`

	apply func(context.Context) error
	// after is set when it can only be made after an update in the same plan.
	after bool
}

// Field is one setting that differs. The rest is empty for what does not exist
// yet.
type Field struct {
	Name string `json:"name"`
	Have string `json:"have,omitempty"`
	Want string `json:"want"`
	// Why is what comes of the setting as it is. Unsafe is set when an order may
	// be lost, be bought twice or never be taken because of it.
	Why    string `json:"why,omitempty"`
	Unsafe bool   `json:"unsafe,omitempty"`
	// Weakens is what the change gives up; empty when it gives up nothing.
	Weakens string `json:"weakens,omitempty"`
	// Fixed is what a person has to do, when the broker does not change this on
	// what exists. Apply leaves such a setting as it is.
	Fixed string `json:"fixed,omitempty"`
}

// Plan compares the broker with the topology and changes nothing.
func (t Topology) Plan(ctx context.Context, js jetstream.JetStream) ([]Change, error) {
	plan := t.Survey(ctx, js, nil)
	for _, c := range plan {
		if c.Err != nil {
			return nil, c.Err
		}
	}
	return plan, nil
}

// Survey is Plan that goes on behind what cannot be looked at, which has an Err,
// and leaves out what would be looked at on a subject that is denied (see Try).
func (t Topology) Survey(ctx context.Context, js jetstream.JetStream, denied map[string]bool) []Change {
	var plan []Change
	for _, want := range t.Streams() {
		if denied[StreamInfo(want.Name)] {
			continue
		}
		c, err := t.planStream(ctx, js, want)
		c.Err = err
		plan = append(plan, c)
	}
	for _, want := range t.Consumers() {
		if denied[ConsumerInfo(t.Stream, want.Durable)] {
			continue
		}
		c, err := t.planConsumer(ctx, js, t.Stream, want)
		c.Err = err
		// The broker refuses it while the stream does not take its subject, or
		// while another consumer of a work queue does.
		c.after = want.Durable == t.BatchConsumer() && slices.ContainsFunc(plan, Change.moves)
		plan = append(plan, c)
	}
	for _, want := range t.ReaderConsumers() {
		c, err := t.planConsumer(ctx, js, t.EventsStream, want)
		c.Err = err
		plan = append(plan, c)
	}
	return plan
}

// moves reports whether a change is about who takes which subject.
func (c Change) moves() bool {
	return c.Action == Update && slices.ContainsFunc(c.Fields, func(f Field) bool {
		return f.Name == fieldSubjects || f.Name == fieldFilter
	})
}

// MissingStores names the streams and the bucket that do not exist, as far as
// this connection may see.
func (t Topology) MissingStores(ctx context.Context, js jetstream.JetStream) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var missing []string
	for _, want := range t.Streams() {
		_, err := js.Stream(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound) && want.Name == "KV_"+t.Bucket:
			missing = append(missing, "bucket "+t.Bucket)
		case errors.Is(err, jetstream.ErrStreamNotFound):
			missing = append(missing, "stream "+want.Name)
		case err != nil:
			return nil, fmt.Errorf("look at the stream %s: %w", want.Name, err)
		}
	}
	return missing, nil
}

// Missing is the part of a plan that creates what does not exist and needs
// nothing else to be changed for it.
func Missing(plan []Change) []Change {
	var missing []Change
	for _, c := range plan {
		if c.Action == Create && !c.after {
			missing = append(missing, c)
		}
	}
	return missing
}

// Apply carries out a plan, in its order, but for what cannot be changed (see
// Field.Fixed). It is safe to repeat, and safe when several workers do it at
// once. It does not ask what is weakened: that is for whoever has the plan.
func Apply(ctx context.Context, plan []Change) error {
	for _, c := range plan {
		if c.Action == Keep {
			continue
		}
		if err := c.apply(ctx); err != nil {
			return fmt.Errorf("%s %s %s: %w", c.Action, c.Kind, c.Name, err)
		}
	}
	return nil
}

func (t Topology) planStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (Change, error) {
	c, role := Change{Kind: "stream", Name: want.Name, Action: Keep}, t.role(want.Name)
	if role == roleLedger {
		c.Kind, c.Name = "bucket", t.Bucket
	}
	s, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		c.Action, c.Fields = Create, streamFields(role, jetstream.StreamConfig{}, want)
		c.apply = func(ctx context.Context) error {
			_, err := js.CreateOrUpdateStream(ctx, want)
			return err
		}
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("look at the stream %s: %w", want.Name, err)
	}
	have := s.CachedInfo().Config
	want = respecting(have, want)
	if want.MaxAge == 0 && want.Name != t.Stream {
		// How long outcomes and dead letters are kept is the operator's choice.
		want.MaxAge = have.MaxAge
	}
	if want.MaxAge > 0 {
		// The broker refuses a window that is longer.
		want.Duplicates = min(want.Duplicates, want.MaxAge)
	}
	if c.Fields = streamFields(role, have, want); len(c.Fields) > 0 {
		c.Action = Update
		c.apply = func(ctx context.Context) error {
			_, err := js.UpdateStream(ctx, merged(role, have, want))
			return err
		}
	}
	return c, nil
}

// respecting keeps what setup must not take away from a stream that exists:
// replicas and a longer memory of ids that somebody chose, and subjects that
// somebody else uses.
func respecting(have, want jetstream.StreamConfig) jetstream.StreamConfig {
	want.Replicas = max(have.Replicas, want.Replicas)
	want.Duplicates = max(have.Duplicates, want.Duplicates)
	subjects := slices.Clone(have.Subjects)
	for _, s := range want.Subjects {
		if !slices.ContainsFunc(subjects, func(pattern string) bool { return covers(pattern, s) }) {
			subjects = append(subjects, s)
		}
	}
	want.Subjects = subjects
	return want
}

// covers reports whether a stream's subject pattern takes a literal subject or
// the same pattern.
func covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s), token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

func (t Topology) planConsumer(ctx context.Context, js jetstream.JetStream, stream string, want jetstream.ConsumerConfig) (Change, error) {
	c, role := Change{Kind: "consumer", Name: want.Durable, Action: Keep}, t.role(stream)
	apply := func(ctx context.Context) error {
		_, err := js.CreateOrUpdateConsumer(ctx, stream, want)
		return err
	}
	have, err := js.Consumer(ctx, stream, want.Durable)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		c.Action, c.Fields, c.apply = Create, consumerFields(role, jetstream.ConsumerConfig{}, want), apply
		return c, nil
	case err != nil:
		return c, fmt.Errorf("look at the consumer %s: %w", want.Durable, err)
	}
	current := have.CachedInfo().Config
	if fewer(want.MaxAckPending, current.MaxAckPending) {
		want.MaxAckPending = current.MaxAckPending // somebody made room for more
	}
	if role == roleOutput {
		want.AckWait = current.AckWait // how long he takes for an event is the reader's affair
	}
	if c.Fields = consumerFields(role, current, want); len(c.Fields) > 0 {
		c.Action, c.apply = Update, apply
		want = mergedConsumer(current, want)
	}
	return c, nil
}
