package brokertest_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

func TestMain(m *testing.M) { os.Exit(brokertest.Main(m)) }

// Two servers may run at the same time and hold the same stream names.
func TestStartIsIsolated(t *testing.T) {
	t.Parallel()

	for _, name := range []string{"one", "two", "three"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, js := brokertest.Connect(t, brokertest.Start(t))

			stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
			if err != nil {
				t.Fatalf("create stream: %v", err)
			}

			if _, err := js.Publish(t.Context(), "s", []byte(name)); err != nil {
				t.Fatalf("publish: %v", err)
			}

			info, err := stream.Info(t.Context())
			if err != nil {
				t.Fatalf("stream info: %v", err)
			}

			if info.State.Msgs != 1 {
				t.Errorf("the stream has %d messages, want 1", info.State.Msgs)
			}
		})
	}
}

func TestStartTakesLargeMessages(t *testing.T) {
	t.Parallel()

	nc, _ := brokertest.Connect(t, brokertest.Start(t))

	if got := nc.MaxPayload(); got != brokertest.DefaultMaxPayload {
		t.Errorf("max payload is %d, want %d", got, brokertest.DefaultMaxPayload)
	}
}

func TestWithMaxPayload(t *testing.T) {
	t.Parallel()

	const limit = 1024

	nc, _ := brokertest.Connect(t, brokertest.Start(t, brokertest.WithMaxPayload(limit)))

	err := nc.Publish("s", make([]byte, limit+1))
	if !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("publish of one byte more than the limit: %v, want %v", err, nats.ErrMaxPayload)
	}
}

func TestWithServerOptions(t *testing.T) {
	t.Parallel()

	srv := brokertest.Start(t, brokertest.WithServerOptions(func(o *server.Options) {
		o.Authorization = "secret"
	}))

	if _, err := nats.Connect(srv.URL, nats.Timeout(time.Minute)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("connect without the token: %v, want %v", err, nats.ErrAuthorization)
	}

	brokertest.Connect(t, srv, nats.Token("secret"))
}

func TestRestartKeepsPortAndStore(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)

	srv := brokertest.Start(t)
	reconnected := make(chan struct{}, 1)
	_, js := brokertest.Connect(t, srv, nats.ReconnectHandler(func(*nats.Conn) { reconnected <- struct{}{} }))

	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatalf("create stream: %v", err)
	}

	if _, err := js.Publish(t.Context(), "s", nil); err != nil {
		t.Fatalf("publish: %v", err)
	}

	url := srv.URL

	srv.Restart()

	if srv.URL != url {
		t.Errorf("the URL changed from %s to %s", url, srv.URL)
	}

	select {
	case <-reconnected:
	case <-time.After(10 * time.Second):
		t.Fatal("the client did not reconnect")
	}

	if _, err := js.Publish(t.Context(), "s", nil); err != nil {
		t.Fatalf("publish after the restart: %v", err)
	}

	stream, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatalf("stream: %v", err)
	}

	if got := stream.CachedInfo().State.Msgs; got != 2 {
		t.Errorf("the stream has %d messages, want 2", got)
	}
}

func TestStopEndsConnections(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)

	srv := brokertest.Start(t)
	disconnected := make(chan struct{}, 1)
	brokertest.Connect(t, srv, nats.DisconnectErrHandler(func(*nats.Conn, error) { disconnected <- struct{}{} }))

	srv.Stop()
	srv.Stop()

	select {
	case <-disconnected:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection outlived its server")
	}

	_, err := nats.Connect(srv.URL)
	if err == nil || !strings.Contains(err.Error(), "no servers available") {
		t.Errorf("connect to a stopped server: %v, want a refusal", err)
	}
}
