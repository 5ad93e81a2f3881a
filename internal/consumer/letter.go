package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Headers of a dead letter that was published again as a request.
const (
	// HeaderReplayOf is the letter's sequence in the dead stream.
	HeaderReplayOf   = "deploy-replay-of"
	headerReplayTime = "deploy-replay-time"
	headerReplayBy   = "deploy-replay-by"
)

// Letter is a dead letter: a request that could not be answered, and what is
// known of its end.
type Letter struct {
	// ID names the letter for good, Sequence within its stream.
	ID       string
	Sequence uint64
	Reason   provision.DeadReason
	Detail   string
	// Subject, Stream and Original say where the request was. Letters of
	// earlier versions have no Subject.
	Subject    string
	Stream     string
	Original   uint64
	Deliveries uint64
	Time       time.Time
	// Headers and Body are the request's own, Size is the body's as it is kept.
	// Without a body only its size is known.
	Headers nats.Header
	Body    []byte
	Size    int
	// Truncated is set when the body is only its beginning, HeadersDropped when
	// the request's headers are not there.
	Truncated      bool
	HeadersDropped bool
}

// letterOf reads what bury wrote. What cannot be read stays zero: a letter of
// somebody else is shown all the same.
func letterOf(sequence uint64, stored time.Time, h nats.Header, body []byte) Letter {
	number := func(name string) uint64 {
		n, _ := strconv.ParseUint(h.Get(name), 10, 64)
		return n
	}
	l := Letter{
		Sequence: sequence, Reason: provision.DeadReason(h.Get(headerReason)), Detail: h.Get(headerDetail),
		Subject: h.Get(headerSubject), Stream: h.Get(headerStream), Original: number(headerSequence), Deliveries: number(headerDeliveries),
		Headers: make(nats.Header), Body: body, Size: len(body),
		Truncated: h.Get(headerTruncated) != "", HeadersDropped: h.Get(headerDropped) != "",
	}
	var err error
	if l.Time, err = time.Parse(time.RFC3339Nano, h.Get(headerTime)); err != nil {
		l.Time = stored
	}
	l.ID = cmp.Or(h.Get(jetstream.MsgIDHeader), fmt.Sprintf("%s.%d.%d", l.Stream, sequence, stored.UnixNano()))
	for name, values := range h {
		kept, was := strings.CutPrefix(name, headerKept)
		if was {
			l.Headers[kept] = values
		} else if !strings.HasPrefix(name, "deploy-dead-") && !strings.HasPrefix(strings.ToLower(name), "nats-") {
			l.Headers[name] = values
		}
	}
	return l
}

// Request returns the request as it was, to be published again on subject where
// the letter does not say which. Its headers say whose replay it is; the trace
// context stays that of the requester. Headers that tell a broker what to do
// with a message are left out. The message id stays, since it may be the key of
// the request, but as it is written here the broker does not take it for an id:
// it would drop the replay as a repetition.
func (l Letter) Request(subject, by string, now time.Time) *nats.Msg {
	m := nats.NewMsg(cmp.Or(l.Subject, subject))
	m.Data = l.Body
	for name, values := range l.Headers {
		if lower := strings.ToLower(name); !strings.HasPrefix(lower, "nats-") || lower == strings.ToLower(jetstream.MsgIDHeader) {
			m.Header[name] = values
		}
	}
	maps.Copy(m.Header, nats.Header{
		HeaderReplayOf:   {strconv.FormatUint(l.Sequence, 10)},
		headerReplayTime: {now.UTC().Format(time.RFC3339Nano)},
		headerReplayBy:   {by},
	})
	return m
}

// ErrNoLetter says that there is no dead letter of a sequence.
var ErrNoLetter = errors.New("there is no such dead letter")

// Letters reads the dead letters of a stream.
type Letters struct {
	stream jetstream.Stream
}

// OpenLetters looks for the stream. The error is jetstream.ErrStreamNotFound
// when there is none.
func OpenLetters(ctx context.Context, js jetstream.JetStream, stream string) (*Letters, error) {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("look at the dead letters in %s: %w", stream, err)
	}
	return &Letters{stream: s}, nil
}

// Get returns one letter, or ErrNoLetter.
func (l *Letters) Get(ctx context.Context, sequence uint64) (Letter, error) {
	m, err := l.stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) || sequence == 0 {
		return Letter{}, fmt.Errorf("%w: sequence %d in %s", ErrNoLetter, sequence, l.stream.CachedInfo().Config.Name)
	}
	if err != nil {
		return Letter{}, fmt.Errorf("read the dead letter %d: %w", sequence, err)
	}
	return letterOf(m.Sequence, m.Time, m.Header, m.Data), nil
}

// letterTimeout bounds the wait for the next letter of those that are there.
const letterTimeout = 10 * time.Second

// Each gives the letters that are stored now, oldest first and without their
// bodies, until each returns an error, which Each returns.
func (l *Letters) Each(ctx context.Context, each func(Letter) error) error {
	cons, err := l.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{HeadersOnly: true})
	if err != nil {
		return fmt.Errorf("read the dead letters: %w", err)
	}
	info, err := cons.Info(ctx)
	if err != nil {
		return fmt.Errorf("read the dead letters: %w", err)
	}
	if info.NumPending == 0 {
		return nil
	}
	messages, err := cons.Messages()
	if err != nil {
		return fmt.Errorf("read the dead letters: %w", err)
	}
	defer messages.Stop()
	for left := info.NumPending; left > 0; left-- {
		next, cancel := context.WithTimeout(ctx, letterTimeout)
		m, err := messages.Next(jetstream.NextContext(next))
		cancel()
		if err != nil {
			return fmt.Errorf("read the dead letters: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read the dead letters: %w", err)
		}
		letter := letterOf(meta.Sequence.Stream, meta.Timestamp, m.Headers(), nil)
		letter.Size, _ = strconv.Atoi(m.Headers().Get(nats.MsgSize))
		if err := each(letter); err != nil {
			return err
		}
		if meta.NumPending == 0 {
			return nil
		}
	}
	return nil
}
