package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Embedded is a nats-server with JetStream on disk inside this process.
type Embedded struct{ server *server.Server }

// startLimit is how long a server may take to recover its streams.
const startLimit = 30 * time.Second

// StartEmbedded starts a server on 127.0.0.1 that keeps its streams below
// dir. Port 0 takes a free one.
func StartEmbedded(dir string, port int) (*Embedded, error) {
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "deploy-worker-embedded",
		Host:       "127.0.0.1", Port: port,
		JetStream: true, StoreDir: dir,
		NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, fmt.Errorf("configure the embedded nats-server: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(startLimit) {
		s.Shutdown()
		return nil, fmt.Errorf("the embedded nats-server did not start on 127.0.0.1:%d within %s: is the port in use, and is %s writable?", port, startLimit, dir)
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		return nil, errors.New("the embedded nats-server started without JetStream: is its directory writable and does the disk have room?")
	}
	return &Embedded{server: s}, nil
}

// URL is where clients connect.
func (e *Embedded) URL() string { return e.server.ClientURL() }

// Stop shuts the server down and returns when it has ended.
func (e *Embedded) Stop() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}
