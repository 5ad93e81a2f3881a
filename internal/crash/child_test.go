package crash

import (
	"bytes"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// children are all processes that were started, so that none is left behind.
type children struct {
	mu  sync.Mutex
	set map[*child]struct{}
}

// child is one process.
type child struct {
	cmd  *exec.Cmd
	log  *logBook
	done chan struct{}
}

// start runs a program whose output goes to log.
func (c *children) start(cmd *exec.Cmd, log *logBook) (*child, error) {
	p := &child{cmd: cmd, log: log, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = dieWithUs()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.set == nil {
		c.set = make(map[*child]struct{})
	}
	c.set[p] = struct{}{}
	c.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is read from the process state
		c.mu.Lock()
		delete(c.set, p)
		c.mu.Unlock()
		close(p.done)
	}()
	return p, nil
}

// killAll ends what still runs.
func (c *children) killAll() {
	c.mu.Lock()
	var left []*child
	for p := range c.set {
		left = append(left, p)
	}
	c.mu.Unlock()
	for _, p := range left {
		p.kill()
	}
}

// kill ends the process without a chance to do anything, stopped or not.
func (p *child) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

func (p *child) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// ended waits for the end of the process.
func (p *child) ended(within time.Duration) bool {
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
		return false
	}
}

// killedBy is the signal that ended the process, 0 when none did.
func (p *child) killedBy() syscall.Signal {
	if w, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return w.Signal()
	}
	return 0
}

// keptLog is how much of a log is kept: the end of it.
const keptLog = 24_000

// logBook keeps the end of what a process writes, and gives each whole line to
// a listener.
type logBook struct {
	mu     sync.Mutex
	kept   []byte
	line   []byte
	listen func(line string)
}

// Write implements io.Writer.
func (l *logBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, b...)
	if len(l.kept) > 2*keptLog {
		l.kept = append([]byte(nil), l.kept[len(l.kept)-keptLog:]...)
	}
	if l.listen == nil {
		return len(b), nil
	}
	l.line = append(l.line, b...)
	for {
		line, rest, whole := bytes.Cut(l.line, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		l.listen(string(line))
		l.line = rest
	}
}

func (l *logBook) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.kept[max(0, len(l.kept)-keptLog):])
}
