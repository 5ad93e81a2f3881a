package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// tally places requests, which have a number each, and counts their events as a
// subscriber of them.
type tally struct {
	stage *stage
	subs  []*nats.Subscription

	mu    sync.Mutex
	seen  []uint8
	sent  []time.Time // of those that were placed while the program worked
	took  []time.Duration
	ended int
	other int // events that are no outcome of a placed request, or a second one
	// marks are what is called at an event, counted from 1.
	marks map[int]func()
	after func() // called after each event; nil for nothing
}

// tally begins to count.
func (g *stage) tally() *tally {
	t := &tally{stage: g, marks: make(map[int]func())}
	for _, subject := range []string{outcomeSubject, "deploy.failed", "deploy.held", "deploy.dead"} {
		sub, err := g.nc.Subscribe(subject, t.take)
		must(err, "subscribe")
		must(sub.SetPendingLimits(-1, -1), "subscribe")
		t.subs = append(t.subs, sub)
	}
	must(g.nc.Flush(), "subscribe")
	return t
}

func (t *tally) stop() {
	for _, sub := range t.subs {
		_ = sub.Unsubscribe()
	}
}

// take counts an event. At a mark it is called before the event counts for
// anybody else.
func (t *tally) take(m *nats.Msg) {
	now := time.Now()
	n, ok := number(m.Data)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !ok || n >= len(t.seen) || m.Subject != outcomeSubject || t.seen[n] > 0 {
		t.other++
		return
	}
	t.seen[n]++
	t.ended++
	if at := t.sent[n]; !at.IsZero() {
		t.took = append(t.took, now.Sub(at))
	}
	if mark := t.marks[t.ended]; mark != nil {
		mark()
	}
	if t.after != nil {
		t.after()
	}
}

// mark has a function called at an event, counted from 1.
func (t *tally) mark(at int, f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.marks[at] = f
}

// keyPrefix is that of every key, before the number.
const keyPrefix = "bench-"

// request is that of a number; the name is the key.
func request(n int) []byte {
	key := fmt.Sprintf("%s%07d", keyPrefix, n)
	body, err := json.Marshal(order{Key: key, Name: key, CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: region})
	if err != nil {
		panic(err)
	}
	return body
}

var keyMark = []byte(`"idempotencyKey":"` + keyPrefix)

// number finds the number of an event's request.
func number(body []byte) (n int, ok bool) {
	_, rest, found := bytes.Cut(body, keyMark)
	digits, _, closed := bytes.Cut(rest, []byte{'"'})
	if !found || !closed {
		return 0, false
	}
	n, err := strconv.Atoi(string(digits))
	return n, err == nil && n >= 0
}

// grow makes room for n more numbers and returns the first of them.
func (t *tally) grow(n int) int {
	first := len(t.seen)
	t.seen = append(t.seen, make([]uint8, n)...)
	t.sent = append(t.sent, make([]time.Time, n)...)
	return first
}

// backlog places n requests and returns when the broker has stored them all.
func (t *tally) backlog(n int) {
	t.mu.Lock()
	first := t.grow(n)
	t.mu.Unlock()
	for i := range n {
		_, err := t.stage.js.PublishAsync(requestSubject, request(first+i))
		must(err, "place a request")
	}
	select {
	case <-t.stage.js.PublishAsyncComplete():
	case <-t.stage.ctx.Done():
		panic(broken("interrupted"))
	}
	if t.stage.refused > 0 {
		panic(broken(fmt.Sprintf("the broker refused %d requests", t.stage.refused)))
	}
}

// place sends one request now and remembers when. The caller holds mu.
func (t *tally) place() {
	n := t.grow(1)
	t.sent[n] = time.Now()
	if err := t.stage.nc.Publish(requestSubject, request(n)); err != nil {
		t.other++
	}
}

// window keeps so many requests on their way until n have been placed.
func (t *tally) window(size, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	left := n
	next := func() {
		if left > 0 {
			left--
			t.place()
		}
	}
	t.after = next
	for range min(size, n) {
		next()
	}
}

// paced places n requests, one every so often.
func (t *tally) paced(n int, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range n {
		select {
		case <-tick.C:
		case <-t.stage.ctx.Done():
			panic(broken("interrupted"))
		}
		t.mu.Lock()
		t.place()
		t.mu.Unlock()
	}
}

// count is how many requests have ended.
func (t *tally) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// await waits until so many requests have ended, for as long as some do.
func (t *tally) await(n int, p *process) {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	moved, last := time.Now(), t.count()
	for last < n {
		select {
		case <-again.C:
		case <-p.Done:
			panic(broken("the process ended: " + p.tail()))
		case <-t.stage.ctx.Done():
			panic(broken("interrupted"))
		}
		if now := t.count(); now != last {
			moved, last = time.Now(), now
		}
		if time.Since(moved) > patience {
			panic(broken(fmt.Sprintf("%d of %d requests ended, and then none for %s: %s", last, n, patience, p.tail())))
		}
	}
}

// judge holds the turn to what may never be otherwise: each request has exactly
// one create and one event, and nothing is left.
func (t *tally) judge(k kind) {
	s := t.stage.suite
	t.mu.Lock()
	placed, ended, other := len(t.seen), t.ended, t.other
	t.mu.Unlock()
	if ended != placed || other != 0 {
		s.faultf("%s: of %d requests %d have their event, and there were %d others", k, placed, ended, other)
	}
	if a := t.stage.seen(); a.Creates != placed || a.Twice != 0 || a.Strange != 0 {
		s.faultf("%s: for %d requests there were %d creates, %d of them of a name once more, and %d strange calls", k, placed, a.Creates, a.Twice, a.Strange)
	}
	if events, left := t.stage.stored(eventStream), t.stage.stored(requestStream); events != placed || left != 0 {
		s.faultf("%s: of %d requests %d events are stored, and %d messages are left", k, placed, events, left)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	if n, ok := number(request(1234567)); n != 1234567 || !ok {
		t.Errorf("%d, %t", n, ok)
	}
	for _, body := range []string{``, `{"idempotencyKey":"else-1"}`, `{"idempotencyKey":"bench-x"}`, `{"idempotencyKey":"bench-1`} {
		if n, ok := number([]byte(body)); ok {
			t.Errorf("%s has the number %d", body, n)
		}
	}
}
