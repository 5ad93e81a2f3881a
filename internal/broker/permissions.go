package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Need is something that run does on the broker, and a message that shows
// whether the connection may do it without doing it.
type Need struct {
	// Subject is published on, What says what for.
	Subject string
	What    string
	// Optional needs are those that run does without.
	Optional bool

	header nats.Header
	data   string
}

// TryHeader marks the messages that only try. Whoever listens on a subject of
// events without JetStream sees them, with an empty body; no stream keeps them.
const TryHeader = "deploy-doctor"

// Bodies that change nothing. The broker has to read the first as JSON and
// cannot; without the brace a pull would count as one for a message. The second
// says that work goes on, on a message that no stream will ever have.
const (
	noJSON    = "{doctor"
	working   = "+WPI"
	noMessage = ".1.9223372036854775807.1.0.0"
)

// StreamInfo is the subject on which a stream is looked at.
func StreamInfo(stream string) string { return jetstream.DefaultAPIPrefix + "STREAM.INFO." + stream }

// ConsumerInfo is the subject on which a consumer is looked at.
func ConsumerInfo(stream, consumer string) string {
	return jetstream.DefaultAPIPrefix + "CONSUMER.INFO." + stream + "." + consumer
}

// Needs lists what run does on the broker, with tries that leave nothing
// behind. Messages for a stream name another one as that which they expect, and
// are refused by the one they reach. Reads ask for what does not exist. What
// would change something has a body that the broker cannot read.
func (t Topology) Needs() []Need {
	const api = jetstream.DefaultAPIPrefix
	bucket := "KV_" + t.Bucket
	needs := []Need{{Subject: api + "INFO", What: "ask whether JetStream is on", Optional: true}}
	for _, stream := range []string{t.Stream, t.EventsStream, t.DeadStream, bucket} {
		needs = append(needs, Need{Subject: StreamInfo(stream), What: "look at the stream " + stream, Optional: stream != t.Stream})
	}
	for _, consumer := range []string{t.Consumer, t.BatchConsumer()} {
		at := t.Stream + "." + consumer
		needs = append(needs,
			Need{Subject: ConsumerInfo(t.Stream, consumer), What: "look at the consumer " + consumer},
			Need{Subject: api + "CONSUMER.MSG.NEXT." + at, What: "take orders from " + consumer, data: noJSON},
			Need{Subject: "$JS.ACK." + at + noMessage, What: "answer orders of " + consumer + " ($JS.ACK." + at + ".>)", data: working})
	}
	needs = append(needs,
		Need{Subject: api + "STREAM.MSG.GET." + t.Stream, What: "read orders that the broker passed over", data: noJSON},
		Need{Subject: api + "STREAM.MSG.DELETE." + t.Stream, What: "remove orders that the broker passed over", data: noJSON})
	elsewhere := nats.Header{jetstream.ExpectedStreamHeader: {"doctor-stores-nothing"}, TryHeader: {"true"}}
	for _, event := range []string{"provisioning", "failed", "held"} {
		needs = append(needs, Need{Subject: t.Prefix + "." + event, What: "publish outcomes", header: elsewhere})
	}
	return append(needs,
		Need{Subject: t.DeadSubject(), What: "store dead letters", header: elsewhere},
		Need{Subject: "$KV." + t.Bucket + ".rec.doctor", What: "write records ($KV." + t.Bucket + ".>)", header: elsewhere},
		Need{Subject: api + "STREAM.MSG.GET." + bucket, What: "read records", data: `{"last_by_subj":"$KV.` + t.Bucket + `.rec.doctor"}`},
		Need{Subject: api + "CONSUMER.CREATE." + bucket + ".doctor.$KV." + t.Bucket + ".doctor", What: "follow the ledger (" + api + "CONSUMER.CREATE." + bucket + ".>)", data: noJSON},
		Need{Subject: ConsumerInfo("KV_"+t.Bucket, "doctor"), What: "follow the ledger (" + api + "CONSUMER.INFO." + bucket + ".>)"},
		Need{Subject: api + "CONSUMER.MSG.NEXT." + bucket + ".doctor", What: "follow the ledger (" + api + "CONSUMER.MSG.NEXT." + bucket + ".>)", data: noJSON},
	)
}

// ErrDenied says that the broker does not permit a subject.
var ErrDenied = errors.New("the broker does not permit it")

// tryTimeout bounds one try. A refusal comes as an error beside the request,
// which itself gets no answer.
const tryTimeout = 4 * time.Second

// Try makes the tries of needs and returns what was wrong with each: nil,
// ErrDenied, or that there was no answer. It takes over the connection's error
// handler.
func Try(ctx context.Context, nc *nats.Conn, needs []Need) []error {
	refusals := newRefusals(needs)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refusals.hear(err) })
	results := make([]error, len(needs))
	var tries errgroup.Group
	for i, n := range needs {
		tries.Go(func() error {
			results[i] = refusals.try(ctx, nc, n)
			return nil
		})
	}
	_ = tries.Wait() // each has its own result
	return results
}

// refusals are the subjects that the broker said it does not permit.
type refusals struct {
	mu     sync.Mutex
	denied map[string]chan struct{} // closed once it is
	// inbox is closed when answers cannot be received at all.
	inbox chan struct{}
}

func newRefusals(needs []Need) *refusals {
	r := &refusals{denied: make(map[string]chan struct{}, len(needs)), inbox: make(chan struct{})}
	for _, n := range needs {
		r.denied[n.Subject] = make(chan struct{})
	}
	return r
}

func (r *refusals) hear(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	text := strings.ToLower(err.Error())
	if strings.Contains(text, "for subscription to") {
		shut(r.inbox)
	}
	for subject, denied := range r.denied {
		if strings.Contains(text, `"`+strings.ToLower(subject)+`"`) {
			shut(denied)
		}
	}
}

func shut(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

func (r *refusals) try(ctx context.Context, nc *nats.Conn, n Need) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	answered := make(chan error, 1)
	var asking sync.WaitGroup
	asking.Go(func() {
		_, err := nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: n.Subject, Header: n.header, Data: []byte(n.data)})
		answered <- err
	})
	defer asking.Wait()
	defer cancel()
	select {
	case <-r.denied[n.Subject]:
		return ErrDenied
	case <-r.inbox:
		return fmt.Errorf("%w to receive answers: allow subscribing to _INBOX.>", ErrDenied)
	case err := <-answered:
		// That nobody answers means that there is no such stream or consumer,
		// which is looked at elsewhere: asking was permitted.
		if err == nil || errors.Is(err, nats.ErrNoResponders) {
			return nil
		}
		return fmt.Errorf("no answer on %s: %w", n.Subject, err)
	}
}
