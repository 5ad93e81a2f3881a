package ledger_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/ledger/ledgertest"
	"github.com/hostup/deploy-worker/internal/provision"
)

// lossy is a JetStream whose answers to asynchronous publishes can be replaced.
type lossy struct {
	jetstream.JetStream

	mu    sync.Mutex
	twist func(m *nats.Msg, send func() (jetstream.PubAckFuture, error)) (jetstream.PubAckFuture, error)
}

func (l *lossy) PublishMsgAsync(m *nats.Msg, opts ...jetstream.PublishOpt) (jetstream.PubAckFuture, error) {
	l.mu.Lock()
	twist := l.twist
	l.mu.Unlock()
	send := func() (jetstream.PubAckFuture, error) { return l.JetStream.PublishMsgAsync(m, opts...) }
	if twist == nil {
		return send()
	}
	return twist(m, send)
}

// failed is a future that ends with an error.
type failed struct {
	jetstream.PubAckFuture
	err chan error
}

func failedWith(err error) failed {
	f := failed{err: make(chan error, 1)}
	f.err <- err
	return f
}

func (f failed) Ok() <-chan *jetstream.PubAck { return nil }
func (f failed) Err() <-chan error            { return f.err }

// silent is a future that never ends.
type silent struct{ jetstream.PubAckFuture }

func (silent) Ok() <-chan *jetstream.PubAck { return nil }
func (silent) Err() <-chan error            { return nil }

func open(t *testing.T) (*lossy, *ledger.Ledger) {
	t.Helper()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	const name = "ledger"
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"}, MaxMsgsPerSubject: 1,
		Discard: jetstream.DiscardNew, AllowMsgTTL: true,
	}); err != nil {
		t.Fatalf("create the bucket: %v", err)
	}
	l := &lossy{JetStream: js}
	return l, ledger.New(l, ledger.Config{Bucket: name, AnswerTimeout: 500 * time.Millisecond, Timeout: 20 * time.Second})
}

func (l *lossy) set(twist func(*nats.Msg, func() (jetstream.PubAckFuture, error)) (jetstream.PubAckFuture, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.twist = twist
}

// An answer is no verdict: what is stored decides.
func TestAmbiguousAnswers(t *testing.T) {
	t.Parallel()
	revisionMismatch := &jetstream.APIError{Code: 400, ErrorCode: 10071, Description: "wrong last sequence: 1"}
	inFlight := &jetstream.APIError{Code: 400, ErrorCode: 10164, Description: "wrong last sequence"}
	cases := map[string]struct {
		stored bool // whether the write reaches the broker
		answer func() jetstream.PubAckFuture
	}{
		"stored, answer lost":              {true, func() jetstream.PubAckFuture { return silent{} }},
		"stored, refused by revision":      {true, func() jetstream.PubAckFuture { return failedWith(revisionMismatch) }},
		"stored, refused as in flight":     {true, func() jetstream.PubAckFuture { return failedWith(inFlight) }},
		"stored, connection lost":          {true, func() jetstream.PubAckFuture { return failedWith(nats.ErrDisconnected) }},
		"not stored, answer lost":          {false, func() jetstream.PubAckFuture { return silent{} }},
		"not stored, refused as in flight": {false, func() jetstream.PubAckFuture { return failedWith(inFlight) }},
		"not stored, connection lost":      {false, func() jetstream.PubAckFuture { return failedWith(nats.ErrDisconnected) }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js, l := open(t)
			js.set(func(_ *nats.Msg, send func() (jetstream.PubAckFuture, error)) (jetstream.PubAckFuture, error) {
				if c.stored {
					f, err := send()
					if err != nil {
						return f, err
					}
					<-f.Ok()
				}
				return c.answer(), nil
			})
			r := ledgertest.Record("k", "web-01")
			for step := range 3 { // a create and two updates
				if err := l.Store(t.Context(), r); err != nil {
					t.Fatalf("write %d: %v", step, err)
				}
			}
			reader := ledger.New(js, ledger.Config{Bucket: "ledger", AnswerTimeout: time.Minute})
			got, err := reader.Load(t.Context(), "k")
			if err != nil || got.Revision != r.Revision {
				t.Errorf("the ledger is at %+v (%v), the writer at %d", got, err, r.Revision)
			}
		})
	}
}

// A lost answer does not turn somebody else's write into ours.
func TestLostAnswerAndRival(t *testing.T) {
	t.Parallel()
	js, l := open(t)
	r := ledgertest.Record("k", "web-01")
	if err := l.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	js.set(func(*nats.Msg, func() (jetstream.PubAckFuture, error)) (jetstream.PubAckFuture, error) {
		js.set(nil)
		rival := *r
		rival.CausationID = "rival"
		if err := l.Store(context.Background(), &rival); err != nil {
			t.Errorf("the rival's write: %v", err)
		}
		return silent{}, nil
	})
	if err := l.Store(t.Context(), r); !errors.Is(err, provision.ErrConflict) {
		t.Errorf("Store = %v, want ErrConflict", err)
	}
	reader := ledger.New(js, ledger.Config{Bucket: "ledger", AnswerTimeout: time.Minute})
	if got, err := reader.Load(t.Context(), "k"); err != nil || got.CausationID != "rival" {
		t.Errorf("the rival's write is gone: %+v (%v)", got, err)
	}
}

// A cell that was deleted or has expired leaves a marker with a revision; it
// is absent all the same.
func TestMarkersAreAbsent(t *testing.T) {
	t.Parallel()
	js, l := open(t)
	r := ledgertest.Record("k", "web-01")
	if err := l.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg("$KV.ledger.rec." + provision.KeyHash("k"))
	m.Header.Set("KV-Operation", "DEL")
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Load(t.Context(), "k"); got != nil || err != nil {
		t.Fatalf("Load of a deleted record = %+v, %v", got, err)
	}
	again := ledgertest.Record("k", "web-01")
	if err := l.Store(t.Context(), again); err != nil {
		t.Errorf("create after a delete: %v", err)
	}
}

// With the broker away a write ends in an error in bounded time, not in a
// verdict.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)
	srv := brokertest.Start(t)
	_, js := brokertest.Connect(t, srv)
	l := ledger.New(js, ledger.Config{Bucket: "ledger", AnswerTimeout: 20 * time.Millisecond, Timeout: 100 * time.Millisecond})
	srv.Stop()
	err := l.Store(t.Context(), ledgertest.Record("k", "web-01"))
	if err == nil || errors.Is(err, provision.ErrConflict) {
		t.Errorf("Store without a broker = %v, want an error that is no verdict", err)
	}
}
