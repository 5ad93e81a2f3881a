// Package broker is everything the worker needs to know about NATS as a
// server: how to connect to one, which streams, consumer and buckets must
// exist on it and how they are set, and how to run one inside the process for
// `run --dev`, `demo` and tests.
//
// It reads and writes no messages of the worker and imports no other package
// of this module.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natscontext"
)

// Options says how to reach NATS. The fields mean what the variables of the
// same name mean to the nats command line.
type Options struct {
	URL      string
	Creds    string
	NKey     string
	User     string
	Password string
	Cert     string
	Key      string
	CA       string
	Context  string
	// InboxPrefix begins the subjects on which answers are received, _INBOX
	// unless set. With one of its own, a user may be kept from the answers of
	// others.
	InboxPrefix string
	// Name is the connection's name on the server.
	Name string
	// Wait keeps trying to connect when the server cannot be reached at first;
	// otherwise the first failure is an error.
	Wait bool
	Log  *slog.Logger
}

// publishTimeout bounds an asynchronous publish whose answer is lost; without
// it the client remembers it for ever.
const publishTimeout = 30 * time.Second

// Connect opens one connection and its JetStream. The caller closes it.
func Connect(o Options) (*nats.Conn, jetstream.JetStream, error) {
	opts, err := o.options()
	if err != nil {
		return nil, nil, err
	}
	var nc *nats.Conn
	if o.Context != "" {
		nc, _, err = natscontext.Connect(o.Context, opts...)
	} else {
		nc, err = nats.Connect(o.URL, opts...)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("connect to NATS at %s: %w", o.where(), withoutURL(err))
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(publishTimeout))
	if err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("open JetStream: %w", err)
	}
	return nc, js, nil
}

func (o Options) where() string {
	if o.Context != "" {
		return "the context " + o.Context
	}
	return RedactURL(o.URL)
}

func (o Options) options() ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second), nats.ReconnectJitter(250*time.Millisecond, time.Second),
		// A publish while disconnected must fail at once: buffered, it would be
		// stored after its caller has given it up for lost.
		nats.ReconnectBufSize(-1),
		// A node that is cut off says nothing: only missing answers tell. Until
		// then a worker can neither pull nor store, though other nodes could do
		// both.
		nats.Timeout(5 * time.Second), nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
		// A busy worker fills the socket's buffer towards such a node, and the
		// write that then blocks keeps the pings from being counted.
		nats.FlusherTimeout(5 * time.Second), nats.ReconnectOnFlusherError(),
		// Rotated credentials may be refused twice before the new ones are there.
		nats.IgnoreAuthErrorAbort(),
		nats.RetryOnFailedConnect(o.Wait),
	}
	if o.Log != nil {
		opts = append(opts, o.handlers()...)
	}
	if o.Creds != "" {
		opts = append(opts, nats.UserCredentials(o.Creds))
	}
	if o.NKey != "" {
		nkey, err := nats.NkeyOptionFromSeed(o.NKey)
		if err != nil {
			return nil, fmt.Errorf("read the NATS nkey file %s: %w", o.NKey, err)
		}
		opts = append(opts, nkey)
	}
	if o.User != "" {
		opts = append(opts, nats.UserInfo(o.User, o.Password))
	}
	if o.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(o.InboxPrefix))
	}
	if o.CA != "" {
		opts = append(opts, nats.RootCAs(o.CA))
	}
	if o.Cert != "" || o.Key != "" {
		opts = append(opts, nats.ClientCert(o.Cert, o.Key))
	}
	return opts, nil
}

// handlers log what happens to the connection. A refused publish shows nowhere
// but in the error handler.
func (o Options) handlers() []nats.Option {
	return []nats.Option{
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			o.Log.Error("NATS reported an error", "error", err, "subject", subject)
		}),
		nats.ConnectHandler(func(nc *nats.Conn) {
			o.Log.Info("connected to NATS", "server", nc.ConnectedServerName(), "version", nc.ConnectedServerVersion(), "url", nc.ConnectedUrlRedacted())
		}),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if nc.IsClosed() {
				return
			}
			o.Log.Warn("disconnected from NATS, reconnecting", "error", err)
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			o.Log.Info("reconnected to NATS", "url", nc.ConnectedUrlRedacted())
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			o.Log.Warn("NATS cannot be reached, trying again; start a server or set NATS_URL", "url", o.where(), "error", err)
		}),
	}
}

// Drain closes a connection after everything sent has been flushed, or when
// ctx ends.
func Drain(ctx context.Context, nc *nats.Conn) error {
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if err := nc.Drain(); err != nil {
		nc.Close()
		if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionReconnecting) {
			return nil
		}
		return fmt.Errorf("drain the NATS connection: %w", err)
	}
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		nc.Close()
		return fmt.Errorf("drain the NATS connection: %w", ctx.Err())
	}
}
