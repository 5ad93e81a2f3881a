package proctest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// startPatience is how long a broker may take to listen.
const startPatience = 60 * time.Second

// Broker is one nats-server process with a store of its own.
type Broker struct {
	// URL is where it listens, the same after a restart.
	URL string

	children *Children
	program  string
	dir      string
	port     string // "-1" until the first start chose one
	proc     *Child
}

// StartBroker runs the program nats-server with its store in dir.
func StartBroker(c *Children, program, dir string) (*Broker, error) {
	b := &Broker{children: c, program: program, dir: dir, port: "-1"}
	return b, b.start()
}

// start runs nats-server, on the port it had before.
func (b *Broker) start() error {
	file := filepath.Join(b.dir, "nats.conf")
	conf := fmt.Sprintf("listen: 127.0.0.1:%s\njetstream { store_dir: %q, max_file_store: 64G, max_memory_store: 256M }\n", b.port, b.dir)
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return err
	}
	deadline := time.Now().Add(startPatience)
	for {
		cmd := exec.Command(b.program, "-c", file, "--ports_file_dir", b.dir) //nolint:gosec,noctx // the program that the suite has built, which ends by Kill
		proc, err := b.children.Start(cmd, &LogBook{})
		if err != nil {
			return err
		}
		if err = b.listening(proc, deadline); err == nil {
			b.proc = proc
			return nil
		}
		proc.Kill()
		if time.Now().After(deadline) {
			return fmt.Errorf("nats-server does not listen: %w\n%s", err, proc.Log.Tail())
		}
	}
}

var errEnded = errors.New("it ended, as if its port was taken")

// listening waits for the file in which nats-server says where it listens.
func (b *Broker) listening(proc *Child, deadline time.Time) error {
	file := filepath.Join(b.dir, fmt.Sprintf("nats-server_%d.ports", proc.Cmd.Process.Pid))
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for time.Now().Before(deadline) {
		var ports struct {
			NATS []string `json:"nats"`
		}
		if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &ports) == nil && len(ports.NATS) > 0 {
			u, err := url.Parse(ports.NATS[0])
			if err != nil {
				return err
			}
			b.port = u.Port()
			b.URL = "nats://" + net.JoinHostPort("127.0.0.1", b.port)
			return nil
		}
		select {
		case <-again.C:
		case <-proc.Done:
			return errEnded
		}
	}
	return errors.New("it took too long")
}

// Crash kills nats-server and starts it again on the same store.
func (b *Broker) Crash(away time.Duration) error {
	b.proc.Kill()
	t := time.NewTimer(away)
	<-t.C
	return b.start()
}

// PID is that of the process as it is now.
func (b *Broker) PID() int { return b.proc.Cmd.Process.Pid }

// Stop kills nats-server for good.
func (b *Broker) Stop() {
	if b.proc != nil {
		b.proc.Kill()
	}
}

// Tail is the end of the broker's log.
func (b *Broker) Tail() string {
	if b.proc == nil {
		return ""
	}
	return strings.TrimSpace(b.proc.Log.Tail())
}
