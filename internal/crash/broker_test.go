package crash

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

// broker is one nats-server process with a store of its own.
type broker struct {
	suite *suite
	dir   string
	port  string // "-1" until the first start chose one
	proc  *child
	url   string
}

func newBroker(s *suite, dir string) (*broker, error) {
	b := &broker{suite: s, dir: dir, port: "-1"}
	return b, b.start()
}

// start runs nats-server, on the port it had before.
func (b *broker) start() error {
	file := filepath.Join(b.dir, "nats.conf")
	conf := fmt.Sprintf("listen: 127.0.0.1:%s\njetstream { store_dir: %q, max_file_store: 1G, max_memory_store: 256M }\n", b.port, b.dir)
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return err
	}
	deadline := time.Now().Add(startPatience)
	for {
		proc, err := b.suite.children.start(exec.Command(b.suite.program("nats-server"), "-c", file, "--ports_file_dir", b.dir), &logBook{})
		if err != nil {
			return err
		}
		if err = b.listening(proc, deadline); err == nil {
			b.proc = proc
			return nil
		}
		proc.kill()
		if time.Now().After(deadline) {
			return fmt.Errorf("nats-server does not listen: %w\n%s", err, proc.log.tail())
		}
	}
}

var errEnded = errors.New("it ended, as if its port was taken")

// listening waits for the file in which nats-server says where it listens.
func (b *broker) listening(proc *child, deadline time.Time) error {
	file := filepath.Join(b.dir, fmt.Sprintf("nats-server_%d.ports", proc.cmd.Process.Pid))
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
			b.url = "nats://" + net.JoinHostPort("127.0.0.1", b.port)
			return nil
		}
		select {
		case <-again.C:
		case <-proc.done:
			return errEnded
		}
	}
	return errors.New("it took too long")
}

// crash kills nats-server and starts it again on the same store.
func (b *broker) crash(away time.Duration) error {
	b.proc.kill()
	t := time.NewTimer(away)
	<-t.C
	return b.start()
}

func (b *broker) stop() {
	if b.proc != nil {
		b.proc.kill()
	}
}

// tail is the end of the broker's log.
func (b *broker) tail() string {
	if b.proc == nil {
		return ""
	}
	return strings.TrimSpace(b.proc.log.tail())
}
