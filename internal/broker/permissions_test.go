package broker_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// restricted is a broker with two users: one who may do everything, and one who
// may not do some of it.
func restricted(t *testing.T, deny, denySubscribe []string) *brokertest.Server {
	t.Helper()
	return brokertest.Start(t, brokertest.WithServerOptions(func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "all", Password: "p"},
			{Username: "worker", Password: "p", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Deny: deny},
				Subscribe: &server.SubjectPermission{Deny: denySubscribe},
			}},
		}
	}))
}

func as(t *testing.T, srv *brokertest.Server, user string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	return brokertest.Connect(t, srv, nats.UserInfo(user, "p"))
}

// Every need is tried, and only those that are denied are found to be.
func TestTryFindsWhatIsDenied(t *testing.T) {
	t.Parallel()
	top := topology()
	for _, n := range top.Needs() {
		t.Run(n.Subject, func(t *testing.T) {
			t.Parallel()
			srv := restricted(t, []string{n.Subject}, nil)
			_, js := as(t, srv, "all")
			apply(t, top, js)
			nc, _ := as(t, srv, "worker")
			for i, err := range broker.Try(t.Context(), nc, top.Needs()) {
				tried := top.Needs()[i]
				if denied := tried.Subject == n.Subject; errors.Is(err, broker.ErrDenied) != denied || err != nil && !denied {
					t.Errorf("%s: %v", tried.Subject, err)
				}
			}
		})
	}
}

func TestTryWithoutAnInbox(t *testing.T) {
	t.Parallel()
	nc, _ := as(t, restricted(t, nil, []string{"_INBOX.>"}), "worker")
	for i, err := range broker.Try(t.Context(), nc, topology().Needs()) {
		if !errors.Is(err, broker.ErrDenied) {
			t.Errorf("%s: %v", topology().Needs()[i].Subject, err)
		}
	}
}

// Trying leaves nothing behind: no message, no consumer, and what is waiting
// stays where it is.
func TestTryLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	nc, js := brokertest.Connect(t, brokertest.Start(t))
	top := topology()
	if slices.ContainsFunc(broker.Try(t.Context(), nc, top.Needs()), func(err error) bool { return err != nil }) {
		t.Error("an empty broker permits everything")
	}
	apply(t, top, js)
	// One order is in work, the other one waits for it.
	for _, order := range []string{"x", "y"} {
		if _, err := js.Publish(t.Context(), "deploy.requested", []byte(order)); err != nil {
			t.Fatal(err)
		}
	}
	cons, err := js.Consumer(t.Context(), "DEPLOY", "deploy-worker")
	if err != nil {
		t.Fatal(err)
	}
	taken, err := cons.Fetch(1, jetstream.FetchMaxWait(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := <-taken.Messages(); !ok || string(m.Data()) != "x" {
		t.Fatalf("took %v, %v", m, taken.Error())
	}
	type state struct {
		last      [4]uint64
		consumers [4]int
		pending   [2]int
		left      [2]uint64
		waiting   uint64
	}
	look := func() (s state) {
		for i, want := range top.Streams() {
			st, err := js.Stream(t.Context(), want.Name)
			if err != nil {
				t.Fatal(err)
			}
			s.last[i], s.consumers[i] = st.CachedInfo().State.LastSeq, st.CachedInfo().State.Consumers
		}
		for i, want := range top.Consumers() {
			c, err := js.Consumer(t.Context(), "DEPLOY", want.Durable)
			if err != nil {
				t.Fatal(err)
			}
			s.pending[i], s.left[i] = c.CachedInfo().NumAckPending, c.CachedInfo().NumPending
			s.waiting += uint64(c.CachedInfo().NumWaiting)
		}
		return s
	}
	before := look()
	for end := time.Now().Add(20 * time.Second); before.left[0] == 0 && time.Now().Before(end); {
		before = look() // a consumer counts a message a moment after it was stored
	}
	for i, err := range broker.Try(t.Context(), nc, top.Needs()) {
		if err != nil {
			t.Errorf("%s: %v", top.Needs()[i].Subject, err)
		}
	}
	if after := look(); after != before {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if before.pending[0] != 1 || before.left[0] != 1 || before.last[0] != 2 {
		t.Errorf("the witness sees nothing: %+v", before)
	}
}
