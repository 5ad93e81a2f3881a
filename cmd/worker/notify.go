package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// notifyEvery is how often a service manager is told how the worker is, if its
// watchdog does not want it more often.
const notifyEvery = time.Second

// serviceManager is who started the process and wants to hear how it is: systemd
// for a unit with Type=notify, by datagrams on the socket that NOTIFY_SOCKET
// names.
type serviceManager struct {
	socket   net.Conn
	watchdog time.Duration // 0 is none
	told     string        // the last status
	ready    bool
}

// managed returns the service manager, nil without one.
func managed(ctx context.Context, lookup func(string) (string, bool)) (*serviceManager, error) {
	path, ok := lookup("NOTIFY_SOCKET")
	if !ok || path == "" {
		return nil, nil
	}
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "unixgram", path)
	if err != nil {
		return nil, fmt.Errorf("tell the service manager that the worker is ready: %w", err)
	}
	m := &serviceManager{socket: socket}
	// It may be meant for another process, which handed its environment on.
	if pid, ok := lookup("WATCHDOG_PID"); !ok || pid == strconv.Itoa(os.Getpid()) {
		if text, ok := lookup("WATCHDOG_USEC"); ok {
			usec, err := strconv.ParseInt(text, 10, 64)
			if err != nil || usec <= 0 {
				_ = socket.Close()
				return nil, fmt.Errorf("WATCHDOG_USEC=%q: want microseconds", text)
			}
			m.watchdog = time.Duration(usec) * time.Microsecond
		}
	}
	return m, nil
}

// run tells how the worker is until ended, which is when the process is about to
// end; draining is closed when it begins to.
func (m *serviceManager) run(draining, ended <-chan struct{}, readiness func() []check) {
	defer func() { _ = m.socket.Close() }()
	every := notifyEvery
	if m.watchdog > 0 {
		every = min(every, m.watchdog/3)
	}
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		m.tell(readiness())
		select {
		case <-again.C:
		case <-ended:
			return
		case <-draining:
			m.send("STOPPING=1", "STATUS=finishing what is in hand")
			m.told, draining = "", nil
		}
	}
}

// tell sends what has changed, and that the worker lives: whoever holds a lock
// for ever keeps readiness from being asked, and so the watchdog unfed.
func (m *serviceManager) tell(checks []check) {
	var lines, faults []string
	able := true
	for _, c := range checks {
		if c.OK {
			continue
		}
		faults = append(faults, c.Name+": "+c.Detail)
		// A brake or a refused key keeps creates back; the worker itself is up, and
		// starting it anew would not help.
		able = able && (c.Name == checkBrake || c.Name == checkAuth)
	}
	if able && !m.ready {
		m.ready = true
		lines = append(lines, "READY=1")
	}
	status := "takes orders"
	if len(faults) > 0 {
		status = strings.Join(faults, "; ")
	}
	if status != m.told {
		m.told = status
		lines = append(lines, "STATUS="+oneLine(status))
	}
	if m.watchdog > 0 {
		lines = append(lines, "WATCHDOG=1")
	}
	if len(lines) > 0 {
		m.send(lines...)
	}
}

// send does not wait for anybody, and a manager that does not listen is none of
// the worker's business.
func (m *serviceManager) send(lines ...string) {
	_ = m.socket.SetWriteDeadline(time.Now().Add(notifyEvery))
	_, _ = m.socket.Write([]byte(strings.Join(lines, "\n")))
}

// notify tells the service manager, if there is one, how the engine is until
// stop is called.
func (e *engine) notify(ctx context.Context) (stop func(), err error) {
	m, err := managed(ctx, os.LookupEnv)
	if err != nil || m == nil {
		return func() {}, err
	}
	ended := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() { m.run(ctx.Done(), ended, func() []check { return e.readiness(ctx.Done()) }) })
	return func() { close(ended); telling.Wait() }, nil
}
