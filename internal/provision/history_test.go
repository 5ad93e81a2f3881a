package provision_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/hostup/deploy-worker/internal/provision"
)

// step is one thing that happens in a history. It is drawn before the bubble
// begins, so that rapid can make a failing history smaller.
type step struct {
	Message   int           // which request, if one is delivered
	Duplicate bool          // under another sequence
	Worker    int           // who gets it
	DieIn     int           // effects until that worker dies, 0 = it lives
	After     bool          // dies after that effect
	Pass      time.Duration // time that passes afterwards
	Wait      bool          // the next step waits for this one to end
}

type history struct {
	Workers  int
	Requests int
	OneName  bool
	Replies  []reply
	Faults   map[int]int // the n-th write and its fault
	Silent   int         // publishes that fail
	Steps    []step
}

func (h history) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d workers, %d requests, one name %v, faults %v, %d publishes fail\n", h.Workers, h.Requests, h.OneName, h.Faults, h.Silent)
	for i, r := range h.Replies {
		fmt.Fprintf(&b, "  reply %d: %q status %d, buys %v, takes %s, retry after %s\n", i+1, r.answer.Verdict, r.answer.Status, r.buys, r.takes, r.answer.RetryAfter)
	}
	for _, s := range h.Steps {
		fmt.Fprintf(&b, "  %+v\n", s)
	}
	return b.String()
}

func drawReply(t *rapid.T) reply {
	r := rapid.SampledFrom([]func() reply{
		created,
		func() reply { return refused(400, provision.RefusalFinal) },
		func() reply { return refused(403, provision.RefusalLimit) },
		func() reply { return refused(401, provision.RefusalAuth) },
		func() reply { return throttled(0) },
		func() reply { return throttled(20 * time.Second) },
		neverSent,
		func() reply { return lost(500, false) },
		func() reply { return lost(0, true) },
	}).Draw(t, "reply")()
	r.takes = rapid.SampledFrom([]time.Duration{0, time.Second, 2 * time.Minute}).Draw(t, "takes")
	if r.answer.Verdict != provision.VerdictCreated && r.answer.Verdict != provision.VerdictUnknown {
		r.takes = min(r.takes, time.Second)
	}
	return r
}

func drawHistory(t *rapid.T) history {
	h := history{
		Workers: rapid.IntRange(1, 3).Draw(t, "workers"), Requests: rapid.IntRange(1, 3).Draw(t, "requests"),
		OneName: rapid.Bool().Draw(t, "one name"), Silent: rapid.SampledFrom([]int{0, 0, 3}).Draw(t, "silent"),
		Replies: rapid.SliceOfN(rapid.Custom(drawReply), 0, 6).Draw(t, "replies"),
		Faults:  rapid.MapOfN(rapid.IntRange(1, 12), rapid.IntRange(0, 2), 0, 2).Draw(t, "faults"),
	}
	h.Steps = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			Message: rapid.IntRange(0, h.Requests-1).Draw(t, "message"), Duplicate: rapid.IntRange(0, 4).Draw(t, "duplicate") == 0,
			Worker: rapid.IntRange(0, h.Workers-1).Draw(t, "worker"),
			DieIn:  max(0, rapid.IntRange(-8, 9).Draw(t, "dies in")), After: rapid.Bool().Draw(t, "after"),
			Pass: rapid.SampledFrom([]time.Duration{0, time.Second, 30 * time.Second, 70 * time.Second}).Draw(t, "pass"),
			Wait: rapid.Bool().Draw(t, "wait"),
		}
	}), 1, 10).Draw(t, "steps")
	return h
}

// Whatever is delivered, duplicated, answered, cut off and killed: one server
// and one outcome id a key at most, no create after one that may have bought,
// no order lost, nobody silent.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt)
		var wrong []string
		synctest.Test(t, func(t *testing.T) { wrong = h.play(t) })
		if wrong != nil {
			rt.Fatalf("%s\n%s", strings.Join(wrong, "\n"), h)
		}
	})
}

func (h history) play(t *testing.T) []string {
	w := newWorld(t)
	w.cfg.Deadline, w.cfg.HeldPoll = 20*time.Minute, 10*time.Minute
	w.api.script = h.Replies
	w.events.failing = h.Silent
	w.shelf.plan = func(n int, _ string, _ *provision.Record) fault {
		if kind, ok := h.Faults[n]; ok {
			return []fault{unwritten, lostAnswer, conflicting}[kind]
		}
		return nil
	}
	message := func(i int) provision.Message {
		m := order(string(rune('a' + i)))
		m.Sequence, m.StoredAt = uint64(i+1), time.Time{}
		if h.OneName {
			m.Request.Name = "web"
		}
		return m
	}
	ctx, cancel := context.WithCancel(t.Context())
	workers := make([]*worker, h.Workers)
	hire := func(i int) {
		workers[i] = w.worker()
		go workers[i].WatchAuth(ctx, nil)
	}
	for i := range workers {
		hire(i)
	}
	fed := make(map[int]bool)
	for _, s := range h.Steps {
		wk := workers[s.Worker]
		if wk.life.gone() {
			hire(s.Worker)
			wk = workers[s.Worker]
		}
		if s.DieIn > 0 {
			wk.life.doom(s.DieIn, s.After)
		}
		m := message(s.Message)
		if s.Duplicate {
			m.Sequence += 100
		}
		fed[s.Message] = true
		done := make(chan struct{})
		go func() { defer close(done); wk.deliver(ctx, m) }()
		if s.Wait {
			<-done
		}
		pass(s.Pass)
	}
	// Everything comes to rest: a new fleet gets what was never acked, and, as
	// a sweeper would, what a duplicate may have begun.
	for i := range workers {
		workers[i].life.kill()
	}
	pass(5 * time.Minute)
	wk := w.worker()
	go wk.WatchAuth(ctx, nil)
	var wrong []string
	for i := range h.Requests {
		if !fed[i] {
			continue
		}
		m := message(i)
		if r := w.shelf.peek(m.Request.Key); r != nil {
			m.Sequence = r.Sequence
		}
		d, _ := wk.drive(m, time.Now().Add(3*time.Hour))
		synctest.Wait()
		if d.Action != provision.Done {
			wrong = append(wrong, fmt.Sprintf("%q never ended: %+v", m.Request.Key, d))
		}
		// A "done" that was lost is made good by a duplicate.
		w.shelf.heal()
		m.Sequence += 1000
		wk.once(m)
		synctest.Wait()
		wrong = append(wrong, w.safe(m.Request.Key, true)...)
		if r := w.shelf.peek(m.Request.Key); r != nil && r.Held > 0 && len(w.events.ids(m.Request.Key, provision.KindHeld)) == 0 {
			wrong = append(wrong, fmt.Sprintf("%q was held in silence", m.Request.Key))
		}
	}
	cancel()
	synctest.Wait()
	if wrong != nil {
		wrong = append(wrong, w.journal.told()...)
	}
	return wrong
}

// told is the journal with worker, key and time.
func (j *journal) told() []string {
	var out []string
	for _, e := range j.all() {
		out = append(out, fmt.Sprintf("  %s %s %s %s", e.At.Format("15:04:05.000"), e.Worker, e.Key, e))
	}
	return out
}

func (l *life) gone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// doom sets the death of a living process so many effects from now.
func (l *life) doom(in int, after bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dieAt, l.after = l.n+in, after
}
