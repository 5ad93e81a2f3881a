package bench

import (
	"encoding/json"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pulse does the same piece of work now and then, and tells what processor time
// it took: that of a machine whose cores, caches and clock are shared with others
// is worth more in one minute than in the next. It is work of the worker's kind,
// and so little that nobody notices.
type pulse struct {
	ended  chan struct{}
	ending sync.WaitGroup

	mu   sync.Mutex
	took []float64
}

// Of the beats.
const (
	betweenBeats = 100 * time.Millisecond
	roundsOfBeat = 50
)

func startPulse() *pulse {
	p := &pulse{ended: make(chan struct{})}
	p.ending.Go(func() {
		runtime.LockOSThread() // whose time it is
		defer runtime.UnlockOSThread()
		t := time.NewTicker(betweenBeats)
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-p.ended:
				return
			}
			began := threadTime()
			beat()
			took := float64((threadTime() - began).Nanoseconds()) / 1e3
			p.mu.Lock()
			p.took = append(p.took, took)
			p.mu.Unlock()
		}
	})
	return p
}

// beat is the piece of work.
func beat() {
	text := []byte(answerLimits)
	for range roundsOfBeat {
		var v map[string]any
		must(json.Unmarshal(text, &v), "a beat")
		var err error
		text, err = json.Marshal(v)
		must(err, "a beat")
	}
}

func threadTime() time.Duration {
	var t unix.Timespec
	must(unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t), "read the time of a thread")
	return time.Duration(t.Nano())
}

// lap is the median of the beats since the one before, in µs.
func (p *pulse) lap() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := series(p.took).median()
	p.took = nil
	return m
}

func (p *pulse) stop() {
	close(p.ended)
	p.ending.Wait()
}
