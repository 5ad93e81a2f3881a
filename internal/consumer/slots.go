package consumer

import (
	"context"
	"sync"
)

// kind tells single orders from batches. They come from two durable consumers
// and share the slots.
type kind int

const (
	single kind = iota
	batch
)

// slots are the places for work. Batches leave a quarter of them, at least
// one, to single orders; what else is free goes to a single order first, but
// a single flood leaves batches one. Where there is one slot only, they take
// it in turns of one message, single orders first.
type slots struct {
	mu      sync.Mutex
	total   int
	held    [2]int
	wanted  [2]bool
	last    kind // who had the only slot last
	changed chan struct{}
}

func newSlots(total int) *slots {
	return &slots{total: total, last: batch, changed: make(chan struct{})}
}

// open is how many slots one kind may take now.
func (s *slots) open(k kind) int {
	free := s.total - s.held[single] - s.held[batch]
	if s.total == 1 {
		if k == s.last && s.wanted[1-k] {
			return 0
		}
		return free
	}
	if k == single {
		if s.owed() {
			return free - 1
		}
		return free
	}
	free = min(free, max(1, s.total-max(1, s.total/4))-s.held[batch])
	switch {
	case !s.wanted[single]:
		return free
	case s.owed():
		return min(free, 1)
	}
	return 0
}

// owed reports whether batches wait without a slot where there are several.
func (s *slots) owed() bool { return s.wanted[batch] && s.held[batch] == 0 && s.total > 1 }

// take waits for one slot at least, and takes at most so many. It returns 0
// when ctx ended first.
func (s *slots) take(ctx context.Context, k kind, most int) int {
	for {
		s.mu.Lock()
		n := min(most, s.open(k))
		s.wanted[k] = n <= 0 && ctx.Err() == nil
		changed := s.changed
		if n > 0 {
			s.held[k] += n
			s.last = k
		}
		if !s.wanted[k] {
			s.wake() // whoever gave way may go on
		}
		s.mu.Unlock()
		if n > 0 {
			return n
		}
		if ctx.Err() != nil {
			return 0
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (s *slots) give(k kind, n int) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[k] -= n
	s.wake()
}

// inUse is how many slots are taken.
func (s *slots) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[single] + s.held[batch]
}

func (s *slots) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}
