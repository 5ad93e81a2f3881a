package provision_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
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
	Person    int           // 1 to 3: somebody decides instead, if it is held
	Wipe      bool          // instead, the ledger loses the record
	Plant     int           // 1: a namesake is there instead, 2: one of unknown age
}

type history struct {
	Workers  int
	Requests int
	OneName  bool
	Hold     bool          // the policy
	Lag      time.Duration // of the inventory, below the settle times
	Blind    int           // looks that fail
	Replies  []reply
	Faults   map[int]int // the n-th write and its fault
	Silent   int         // publishes that fail
	Steps    []step
}

func (h history) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "hold %v, lag %s, %d looks fail, ", h.Hold, h.Lag, h.Blind)
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
		func() reply { return lost(0, false) },
		func() reply { return answered(500, true) },
		func() reply { return answered(500, false) },
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
		Hold:    rapid.IntRange(0, 3).Draw(t, "hold") == 0,
		Lag:     rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, 119 * time.Second}).Draw(t, "lag"),
		Blind:   rapid.SampledFrom([]int{0, 0, 2, 6}).Draw(t, "blind"),
		Replies: rapid.SliceOfN(rapid.Custom(drawReply), 0, 6).Draw(t, "replies"),
		Faults:  rapid.MapOfN(rapid.IntRange(1, 12), rapid.IntRange(0, 2), 0, 2).Draw(t, "faults"),
	}
	h.Steps = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			Message: rapid.IntRange(0, h.Requests-1).Draw(t, "message"), Duplicate: rapid.IntRange(0, 4).Draw(t, "duplicate") == 0,
			Worker: rapid.IntRange(0, h.Workers-1).Draw(t, "worker"),
			DieIn:  max(0, rapid.IntRange(-8, 9).Draw(t, "dies in")), After: rapid.Bool().Draw(t, "after"),
			Pass:   rapid.SampledFrom([]time.Duration{0, time.Second, 30 * time.Second, 70 * time.Second, 5 * time.Minute}).Draw(t, "pass"),
			Wait:   rapid.Bool().Draw(t, "wait"),
			Person: max(0, rapid.IntRange(-9, 3).Draw(t, "person")),
			Wipe:   rapid.IntRange(0, 19).Draw(t, "wipe") == 19,
			Plant:  max(0, rapid.IntRange(-20, 2).Draw(t, "plant")),
		}
	}), 1, 10).Draw(t, "steps")
	return h
}

// Whatever is delivered, duplicated, answered, cut off and killed: one server
// and one outcome id a key at most, no create after one that may have bought,
// no order lost, nobody silent. A history runs on one core; every core plays
// its own.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	for core := range runtime.GOMAXPROCS(0) {
		t.Run(strconv.Itoa(core), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) {
				h := drawHistory(rt)
				var wrong []string
				synctest.Test(t, func(t *testing.T) { wrong = h.play(t) })
				if wrong != nil {
					rt.Fatalf("%s\n%s", strings.Join(wrong, "\n"), h)
				}
			})
		})
	}
}

func (h history) play(t *testing.T) []string {
	w := newWorld(t)
	w.cfg.Deadline, w.cfg.HeldPoll = 20*time.Minute, 10*time.Minute
	w.cfg.HoldUnknown, w.cfg.BackoffInitial = h.Hold, 4*time.Second
	w.inventory.lag = h.Lag
	for range h.Blind {
		w.inventory.errs = append(w.inventory.errs, lookError(503))
	}
	w.api.script = h.Replies
	w.events.failing = h.Silent
	w.shelf.plan = func(n int, _ string, _ *provision.Record) fault {
		if kind, ok := h.Faults[n]; ok {
			return []fault{unwritten, lostAnswer, conflicting}[kind]
		}
		return nil
	}
	began := time.Now()
	message := func(i int) provision.Message {
		m := order(string(rune('a' + i)))
		m.Sequence, m.StoredAt = uint64(i+1), began
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
	fed, times := make(map[int]bool), make(map[int]int)
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
		if h.special(w, wk, s, m) {
			pass(s.Pass)
			continue
		}
		if s.Duplicate && !w.wiped[m.Request.Key] {
			m.Sequence += 100
		}
		m.Deliveries += uint64(times[s.Message])
		times[s.Message]++
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
		m.Deliveries = 10
		if r := w.shelf.peek(m.Request.Key); r != nil {
			m.Sequence = r.Sequence
		}
		handed := time.Now()
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
		// A request that nobody was handed may end late, but then at once.
		if r := w.shelf.peek(m.Request.Key); r != nil && r.Outcome != nil {
			due := r.Deadline
			if due.Before(handed) {
				due = handed
			}
			if late := r.Outcome.OccurredAt.Sub(due); late > 5*time.Minute {
				wrong = append(wrong, fmt.Sprintf("%q ended %s after it was due", m.Request.Key, late))
			}
		}
		if r := w.shelf.peek(m.Request.Key); r != nil && r.Held > 0 && r.Resolution == nil && len(w.events.ids(m.Request.Key, provision.KindHeld)) == 0 {
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

// special does what is not a delivery, and reports whether that was asked for.
func (h history) special(w *world, wk *worker, s step, m provision.Message) bool {
	key := m.Request.Key
	switch {
	case s.Person > 0:
		if r := w.shelf.peek(key); r == nil || r.State != provision.StateHeld {
			return false
		}
		d := decision([]provision.ResolveAction{provision.ResolveAdopt, provision.ResolveNotCreated, provision.ResolveAbandon}[s.Person-1])
		if s.Person == 1 {
			for _, v := range w.inventory.all() {
				if v.Key == key {
					d.VPSID = v.ID
				}
			}
		}
		if s.Person == 2 && w.api.made(key) > 0 && h.Lag > 0 {
			return false // a person who does not wait for the inventory may err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := wk.Resolve(context.Background(), key, d); err == nil && s.Person == 2 {
				w.decided[key]++
			}
		}()
		<-done
	case s.Wipe:
		// Only what is at rest and was to be seen is lost, and of a name with
		// one request: nothing else could be told apart by anybody.
		r := w.shelf.peek(key)
		if h.OneName || r == nil || len(w.events.outcomes(key)) > 0 || w.api.busy(key, h.Lag) {
			return false
		}
		w.wiped[key] = true
		w.shelf.forget(key)
	case s.Plant > 0:
		n := namesake(key, fmt.Sprintf("foreign_%d", len(w.inventory.all())))
		n.Name = m.Request.Name
		if n.Born = n.Born.Add(-24 * time.Hour); s.Plant == 2 {
			n.Born = time.Time{}
		}
		w.inventory.plant(n)
	default:
		return false
	}
	return true
}

// busy reports whether a call of a key is out, or ended too lately for its
// server to be seen.
func (a *api) busy(key string, lag time.Duration) bool {
	for _, c := range a.sent() {
		if c.Key == key && (c.Ended.IsZero() || time.Since(c.Ended) <= lag) {
			return true
		}
	}
	return false
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
