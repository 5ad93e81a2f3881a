package provision

import (
	"container/heap"
	"maps"
	"sync"
	"time"
)

// waitReasons are all that a request can wait for.
var waitReasons = []string{
	WaitGate, WaitAuth, WaitPaused, WaitTurn, WaitBackoff, WaitLimits, WaitName, WaitInFlight, WaitHeld,
	WaitAccount, WaitLedger, WaitPublish, WaitShutdown, WaitCrowded, WaitNeverSent, WaitLookup,
}

// waits counts the requests that wait, by what they wait for: those in hand, and
// those that this process has handed back, until they are due to come again to
// whoever takes them. So the counts of a fleet add up.
type waits struct {
	mu      sync.Mutex
	waiting map[string]int64
	back    dueTimes
}

// due is when one request comes again that was handed back.
type due struct {
	at     time.Time
	reason string
}

// enter counts one that waits in hand until leave.
func (w *waits) enter(reason string) { w.add(reason, 1) }

func (w *waits) leave(reason string) { w.add(reason, -1) }

func (w *waits) add(reason string, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = make(map[string]int64)
	}
	w.waiting[reason] += n
}

// handBack counts one that comes again after a while.
func (w *waits) handBack(reason string, after time.Duration) {
	w.enter(reason)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.forget(now)
	heap.Push(&w.back, due{at: now.Add(after), reason: reason})
}

// forget takes out those that were due.
func (w *waits) forget(now time.Time) {
	for len(w.back) > 0 && !w.back[0].at.After(now) {
		if d, ok := heap.Pop(&w.back).(due); ok {
			w.waiting[d.reason]--
		}
	}
}

// counts tells how many wait now.
func (w *waits) counts() map[string]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(time.Now())
	return maps.Clone(w.waiting)
}

// dueTimes is a heap, the next one first.
type dueTimes []due

func (d *dueTimes) Len() int           { return len(*d) }
func (d *dueTimes) Less(i, j int) bool { return (*d)[i].at.Before((*d)[j].at) }
func (d *dueTimes) Swap(i, j int)      { (*d)[i], (*d)[j] = (*d)[j], (*d)[i] }

// Push implements heap.Interface.
func (d *dueTimes) Push(x any) {
	if one, ok := x.(due); ok {
		*d = append(*d, one)
	}
}

// Pop implements heap.Interface.
func (d *dueTimes) Pop() any {
	last := len(*d) - 1
	one := (*d)[last]
	*d = (*d)[:last]
	return one
}
