package consumer

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Unfinished is a request that the ledger does not have as done.
type Unfinished struct {
	// Hash is provision.KeyHash of its key.
	Hash string
	// StoredAt is when the broker stored its record last.
	StoredAt time.Time
	// Origin is the message it came from; the zero one where the ledger tells
	// only with the record itself.
	Origin Origin
}

// SweepPorts are what a Sweeper works with.
type SweepPorts struct {
	JetStream jetstream.JetStream
	// Consumers are the durable consumers of the requests.
	Consumers []string
	// Unfinished gives every request that is not done; it must be cheap beside
	// millions that are.
	Unfinished func(ctx context.Context, each func(Unfinished)) error
	// Load reads one of them; nil when it is gone.
	Load func(ctx context.Context, hash string) (*provision.Record, error)
	// Resume drives one.
	Resume func(ctx context.Context, key string) provision.Disposition
	// OpenNames lists the name rows that have been open and unchanged for so
	// long; Mend closes one whose owner has no use for it.
	OpenNames func(quiet time.Duration) []string
	Mend      func(ctx context.Context, hash string) (bool, error)
	// Stranded handles the messages that the broker has passed over.
	Stranded func(ctx context.Context) (int, error)
	Log      *slog.Logger
	// Tracer makes a span of each request that is driven; nil for none.
	Tracer trace.Tracer
}

// Sweeper drives requests whose message nobody will deliver any more: a purge, a
// stream made anew, a dead letter by panic, an ack that outran its outcome.
// Their record is all that is left of them. It also gives back names that their
// owner did not (an open row reserves room for the whole fleet), and handles
// messages that the broker will not deliver. It is safe beside any number of
// workers and sweepers: the ledger decides who moves a record.
type Sweeper struct {
	ports SweepPorts
	// Every is the time between sweeps, Quiet how long a record must not have
	// changed: a younger one is somebody's work.
	Every time.Duration
	Quiet time.Duration
	// turn is whose turn it is to be looked for: the next hash from here on.
	turn string
}

// NewSweeper returns a Sweeper. Each begins with somebody else's turn.
func NewSweeper(ports SweepPorts, every, quiet time.Duration) *Sweeper {
	return &Sweeper{ports: ports, Every: every, Quiet: quiet, turn: provision.KeyHash(rand.Text())}
}

// Run sweeps until ctx ends.
func (s *Sweeper) Run(ctx context.Context) {
	for sleep(ctx, s.Every) {
		for what, sweep := range map[string]func(context.Context) (int, error){
			"requests without a message": s.Sweep, "names that were not given back": s.SweepNames,
			"messages that the broker passed over": s.ports.Stranded,
		} {
			n, err := sweep(ctx)
			switch {
			case err != nil && ctx.Err() == nil:
				s.ports.Log.WarnContext(ctx, "some could not be swept; they are tried again", "what", what, "swept", n, "error", err)
			case n > 0:
				s.ports.Log.InfoContext(ctx, "swept", "what", what, "count", n)
			}
		}
	}
}

// atOnce is how many requests a sweep drives at a time.
const atOnce = 8

// maxLooks is how many messages a sweep looks for that seem to be in their queue.
// Each has its turn: that of a request that was buried while an older one waits
// leaves no other trace.
const maxLooks = 256

// Sweep looks once and drives what it finds. It returns how many it drove, and
// what kept it from others: one record that is broken is nobody else's.
//
// What waits in the queue costs nothing but its label, however much there is:
// where the queue ends and what its consumers have passed is asked once.
func (s *Sweeper) Sweep(ctx context.Context) (int, error) {
	var quiet []Unfinished
	now := time.Now()
	err := s.ports.Unfinished(ctx, func(u Unfinished) {
		if now.Sub(u.StoredAt) >= s.Quiet {
			quiet = append(quiet, u)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("find unfinished requests: %w", err)
	}
	var driven atomic.Int64
	var broken faults
	broker := &queues{js: s.ports.JetStream, consumers: s.ports.Consumers}
	var work errgroup.Group // without a context: nobody ends another's work
	work.SetLimit(atOnce)
	for _, u := range s.suspects(ctx, broker, quiet) {
		if ctx.Err() != nil {
			break
		}
		work.Go(func() error {
			did, err := s.drive(ctx, broker, u)
			if did {
				driven.Add(1)
			}
			if err != nil {
				broken.add(fmt.Errorf("request %s: %w", u.Hash, err))
			}
			return nil
		})
	}
	_ = work.Wait() // it has no errors of its own
	return int(driven.Load()), broken.join()
}

// suspects are the requests whose message may be gone, and of the others those
// whose turn it is.
func (s *Sweeper) suspects(ctx context.Context, broker *queues, quiet []Unfinished) []Unfinished {
	var suspects, rest []Unfinished
	for _, u := range quiet {
		if u.Origin.known() {
			if at, err := broker.look(ctx, u.Origin.Stream); err == nil && at.hint(u.Origin) == hintWaits {
				rest = append(rest, u)
				continue
			}
		}
		suspects = append(suspects, u)
	}
	if len(rest) == 0 {
		return suspects
	}
	slices.SortFunc(rest, func(a, b Unfinished) int { return cmp.Compare(a.Hash, b.Hash) })
	from, _ := slices.BinarySearchFunc(rest, s.turn, func(u Unfinished, turn string) int { return cmp.Compare(u.Hash, turn) })
	n := min(maxLooks, len(rest))
	for i := range n {
		suspects = append(suspects, rest[(from+i)%len(rest)])
	}
	s.turn = rest[(from+n)%len(rest)].Hash
	return suspects
}

// maxFaults is how many errors of one sweep are told; a broker that is away
// would give one for each request.
const maxFaults = 10

// faults collects what went wrong beside each other.
type faults struct {
	mu   sync.Mutex
	told []error
	more int
}

func (f *faults) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.told) < maxFaults {
		f.told = append(f.told, err)
		return
	}
	f.more++
}

func (f *faults) join() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.more > 0 {
		return errors.Join(append(f.told, fmt.Errorf("and %d more", f.more))...)
	}
	return errors.Join(f.told...)
}

// SweepNames gives back the names that have been open for long and whose owner
// is not between intent and result. It returns how many those were.
func (s *Sweeper) SweepNames(ctx context.Context) (int, error) {
	mended := 0
	var errs []error
	for _, hash := range s.ports.OpenNames(s.Quiet) {
		if ctx.Err() != nil {
			break
		}
		did, err := s.ports.Mend(ctx, hash)
		if errs = append(errs, err); did {
			mended++
		}
	}
	return mended, errors.Join(errs...)
}

// drive drives one request if its message is gone. A panic is that request's
// fault: it would otherwise end one replica after the other.
func (s *Sweeper) drive(ctx context.Context, broker *queues, u Unfinished) (driven bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.ports.Log.ErrorContext(ctx, "driving a request panicked", "panic", fmt.Sprint(p), "hash", u.Hash, "stack", string(debug.Stack()))
			driven, err = false, fmt.Errorf("driving it panicked: %v", p)
		}
	}()
	var r *provision.Record
	origin := u.Origin
	if !origin.known() {
		if r, err = s.ports.Load(ctx, u.Hash); r == nil || err != nil {
			return false, err
		}
		origin = Origin{r.Stream, r.Sequence, r.RequestedAt}
	}
	gone, err := broker.gone(ctx, origin)
	if err != nil || !gone {
		return false, err
	}
	if r == nil {
		r, err = s.ports.Load(ctx, u.Hash)
	}
	if err != nil || r == nil || r.State == provision.StateDone {
		return false, err
	}
	ctx, span := s.begin(ctx, r)
	defer span.End()
	d := s.ports.Resume(ctx, r.Key)
	tellResult(span, d)
	logAnswer(ctx, s.ports.Log, d, "stream_sequence", r.Sequence, "without", "message")
	return true, nil
}

// begin starts the span of a request that is driven without a message, linked
// to whoever made the request long ago.
func (s *Sweeper) begin(ctx context.Context, r *provision.Record) (context.Context, trace.Span) {
	if s.ports.Tracer == nil {
		return remote(ctx, r.Trace), noSpan
	}
	ctx, opts := detached(ctx, r.Trace)
	ctx, span := s.ports.Tracer.Start(ctx, "resume", opts...)
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingMessageConversationID(r.Key), attrStream.String(r.Stream), attrSequence.Int64(int64(r.Sequence)))
	}
	return ctx, span
}
