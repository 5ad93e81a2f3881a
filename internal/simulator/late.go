package simulator

import (
	"sync"
	"time"
)

// lateEffect is a create that takes effect some time after it was received. A
// read that comes after that time sees it, and finds it no later than it says:
// how late its goroutine gets to run on a busy machine shows nowhere.
type lateEffect struct {
	due  time.Time // of the real clock, as delays are
	done chan struct{}
	keep func()
}

// promise announces the late effect of a create, if its fault makes it late.
func (x *exchange) promise() {
	if x.entry == nil || x.fault.kind != kindSlow || x.fault.after {
		return
	}
	done := make(chan struct{})
	l := &lateEffect{due: x.looked.Add(x.fault.delay()), done: done}
	s := x.s
	l.keep = sync.OnceFunc(func() {
		s.mu.Lock()
		delete(s.late, l)
		s.mu.Unlock()
		close(done)
	})
	x.late = l
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late[l] = struct{}{}
}

// kept tells that the effect has come, or never will.
func (x *exchange) kept() {
	if x.late != nil {
		x.late.keep()
	}
}

// effect is when a create takes effect. The caller holds mu.
func (x *exchange) effect() time.Time {
	now := x.s.cfg.Now()
	if x.late != nil {
		now = now.Add(-max(0, time.Since(x.late.due)))
	}
	return now
}

// catchUp waits for the effects whose time has come.
func (s *Server) catchUp() {
	s.mu.Lock()
	var due []*lateEffect
	for l := range s.late {
		if !time.Now().Before(l.due) {
			due = append(due, l)
		}
	}
	s.mu.Unlock()
	for _, l := range due {
		<-l.done
	}
}
