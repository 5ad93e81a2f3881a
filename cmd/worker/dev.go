package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// development is what `run --dev` and `demo` start inside the process.
type development struct {
	nats    *broker.Embedded
	sim     *simulator.Server
	stopSim func()
	tempDir string
}

// devToken is the key of the simulated account; it opens nothing else.
const devToken = "sim-token"

// defaultNATSPort is taken by --dev when it is free; another free one is as
// good, because the greeting names it.
const defaultNATSPort = "4222"

// startDev starts NATS and the simulated API and points the settings at them.
// NATS_URL and HOSTUP_API_URL choose their ports where they name loopback.
func startDev(ctx context.Context, s *workerSettings, dir string) (*development, error) {
	d := &development{}
	if dir == "" {
		temp, err := os.MkdirTemp("", "deploy-worker-dev-")
		if err != nil {
			return nil, fmt.Errorf("make a directory for --dev: %w", err)
		}
		d.tempDir, dir = temp, temp
	}
	port, err := devPort(ctx, s.NATSURL)
	if err == nil {
		d.nats, err = broker.StartEmbedded(dir, port)
	}
	if err != nil {
		d.stop()
		return nil, err
	}
	d.sim = simulator.New(simulator.Config{Token: devToken})
	addr, stopSim, err := serve(ctx, apiAddr(s.APIURL), "HOSTUP_API_URL", d.sim)
	if err != nil {
		d.stop()
		return nil, err
	}
	d.stopSim = stopSim
	s.natsSettings = natsSettings{NATSURL: d.nats.URL()}
	s.APIURL, s.APIToken, s.APITokenFile = "http://"+addr+"/api/v2", devToken, ""
	s.Provision = true
	return d, nil
}

// devPort is the port of NATS_URL. The default one gives way when it is in use;
// for another one that is said at once, where the server would try for long.
func devPort(ctx context.Context, raw string) (int, error) {
	text := ""
	if u, err := url.Parse(raw); err == nil {
		text = u.Port()
	}
	usual := text == "" || text == defaultNATSPort
	if usual {
		text = defaultNATSPort
	}
	port, err := strconv.Atoi(text)
	if err == nil && port != 0 {
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", text)); err == nil {
			err = l.Close()
		} else if usual {
			return 0, nil // any other will do
		}
	}
	if err != nil {
		return 0, usageError{fmt.Errorf("NATS_URL=%q: %w; choose another port for --dev, for example nats://127.0.0.1:0 for any free one", broker.RedactURL(raw), err)}
	}
	return port, nil
}

// apiAddr is where the simulated API listens: the address of HOSTUP_API_URL
// if that is loopback, else a free port.
func apiAddr(raw string) string {
	if u, err := url.Parse(raw); err == nil && u.Scheme == "http" && u.Port() != "" {
		if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsLoopback() {
			return u.Host
		}
	}
	return "127.0.0.1:0"
}

// greeting tells a newcomer what is running and what to do next.
func (d *development) greeting(s workerSettings) string {
	api := s.APIURL[:len(s.APIURL)-len("/api/v2")]
	at := "NATS_URL=" + s.NATSURL
	return fmt.Sprintf(`worker: development mode, everything in this process; nothing costs money
  NATS          %s
  HostUp API    %s (simulated; what it billed: curl %s/_sim/invoices)
  order         %s worker submit --name web-01 --cpu-cores 2 --memory-gb 4 --storage-gb 80 --region stockholm --wait
  or            nats --server %s pub %s '{"idempotencyKey":"order-1","name":"web-02","cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm"}'
  see outcomes  %s worker events --from-beginning
  watch         %s HOSTUP_API_URL=%s HOSTUP_API_TOKEN=%s worker top

`, s.NATSURL, api, api, at, s.NATSURL, s.topology().RequestSubject(), at, at, s.APIURL, devToken)
}

// stop ends what was started, in the other order.
func (d *development) stop() {
	if d.stopSim != nil {
		_ = d.sim.Close() // ends hanging requests
		d.stopSim()
	}
	if d.nats != nil {
		d.nats.Stop()
	}
	if d.tempDir != "" {
		_ = os.RemoveAll(d.tempDir)
	}
}

// pause waits, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
