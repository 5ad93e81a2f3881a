// Package proctest builds programs and runs them for suites that judge the worker
// from outside: any program with the end of its log, and nats-server with a store
// of its own. It is for tests only and imports nothing of this module.
package proctest

import (
	"bytes"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Children are all processes that were started, so that none is left behind.
type Children struct {
	mu  sync.Mutex
	set map[*Child]struct{}
}

// Child is one process.
type Child struct {
	Cmd *exec.Cmd
	Log *LogBook
	// Done is closed when the process has ended.
	Done chan struct{}
}

// Start runs a program whose output goes to log, unless the caller has said
// where it goes.
func (c *Children) Start(cmd *exec.Cmd, log *LogBook) (*Child, error) {
	p := &Child{Cmd: cmd, Log: log, Done: make(chan struct{})}
	if cmd.Stdout == nil && cmd.Stderr == nil {
		cmd.Stdout, cmd.Stderr = log, log
	}
	cmd.SysProcAttr = dieWithUs()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.set == nil {
		c.set = make(map[*Child]struct{})
	}
	c.set[p] = struct{}{}
	c.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is read from the process state
		c.mu.Lock()
		delete(c.set, p)
		c.mu.Unlock()
		close(p.Done)
	}()
	return p, nil
}

// KillAll ends what still runs.
func (c *Children) KillAll() {
	c.mu.Lock()
	var left []*Child
	for p := range c.set {
		left = append(left, p)
	}
	c.mu.Unlock()
	for _, p := range left {
		p.Kill()
	}
}

// Kill ends the process without a chance to do anything, stopped or not.
func (p *Child) Kill() {
	_ = p.Cmd.Process.Kill() // it may have ended by itself
	<-p.Done
}

// Signal sends a signal; the process may have ended by itself.
func (p *Child) Signal(s syscall.Signal) { _ = p.Cmd.Process.Signal(s) }

// Ended waits for the end of the process.
func (p *Child) Ended(within time.Duration) bool {
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-p.Done:
		return true
	case <-t.C:
		return false
	}
}

// KilledBy is the signal that ended the process, 0 when none did.
func (p *Child) KilledBy() syscall.Signal {
	if w, ok := p.Cmd.ProcessState.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return w.Signal()
	}
	return 0
}

// keptLog is how much of a log is kept: the end of it.
const keptLog = 24_000

// LogBook keeps the end of what a process writes, and gives each whole line to
// a listener.
type LogBook struct {
	mu   sync.Mutex
	kept []byte
	line []byte
	// Listen may be nil; it is set before the process starts.
	Listen func(line string)
}

// Write implements io.Writer.
func (l *LogBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, b...)
	if len(l.kept) > 2*keptLog {
		l.kept = append([]byte(nil), l.kept[len(l.kept)-keptLog:]...)
	}
	if l.Listen == nil {
		return len(b), nil
	}
	l.line = append(l.line, b...)
	for {
		line, rest, whole := bytes.Cut(l.line, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		l.Listen(string(line))
		l.line = rest
	}
}

// Tail is the end of what was written.
func (l *LogBook) Tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.kept[max(0, len(l.kept)-keptLog):])
}
