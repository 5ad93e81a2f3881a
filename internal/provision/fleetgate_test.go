package provision_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// replica is one gate of a fleet, running until the bubble's test ends. It is
// seeing: its watch is live.
func replica(t *testing.T, c *rows, source string) *provision.Gate {
	t.Helper()
	g := provision.NewFleetGate(c, source, time.Minute)
	c.mu.Lock()
	c.gates = append(c.gates, g)
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		pass(time.Second) // what the rows still tell
		synctest.Wait()
	})
	g.Synced(true)
	g.Ramped(4)
	return g
}

// told lets time go by until everybody has heard everything.
func told() {
	pass(100 * time.Millisecond)
	synctest.Wait()
}

// store puts a row into the fleet as somebody else would.
func (c *rows) store(t *testing.T, row admission.Gate) {
	t.Helper()
	if _, err := c.UpdateGate(t.Context(), func(old admission.Gate) (admission.Gate, bool) {
		row.Revision = old.Revision
		return row, true
	}); err != nil {
		t.Fatal(err)
	}
	told()
}

// row is what is stored.
func (c *rows) row() admission.Gate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gate
}

// closedFor checks how long a gate is closed from now on; 0 is open.
func closedFor(t *testing.T, g *provision.Gate, want time.Duration) {
	t.Helper()
	c, closed := g.Closed()
	if got := time.Until(c.Until); closed != (want > 0) || closed && got != want {
		t.Errorf("closed %v for %s, want %s", closed, got, want)
	}
}

// enter gets a pass, or fails the test.
func enter(t *testing.T, g *provision.Gate, key string) *provision.Pass {
	t.Helper()
	p := g.Enter(key)
	for range 20 {
		if p != nil {
			return p
		}
		told()
		p = g.Enter(key)
	}
	t.Fatalf("no pass: %+v", g.Row())
	return nil
}

func TestFleetGateIsClosedWhileItSeesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := provision.NewFleetGate(newRows(1), "a", time.Minute)
		shut := func(want bool) {
			t.Helper()
			_, closed := g.Closed()
			_, stopped := g.Stopped()
			if p := g.Enter("k"); closed != want || stopped != want || (p == nil) != want {
				t.Errorf("closed %v, stopped %v, a pass %v; want closed %v", closed, stopped, p != nil, want)
			}
		}
		shut(true)
		// Rows alone do not open it: more of them may be on their way.
		g.GateChanged(admission.Gate{Revision: 4})
		shut(true)
		g.Synced(true)
		shut(false)
		g.Synced(false)
		shut(true)
		g.Synced(false)
		shut(true)
		// Who waits goes on in the moment that it sees again.
		began := time.Now()
		go func() { pass(7 * time.Second); g.Synced(true) }()
		if err := g.Wait(t.Context()); err != nil || time.Since(began) != 7*time.Second {
			t.Errorf("waited %s, %v", time.Since(began), err)
		}
		// A closure that it learned of meanwhile counts.
		g.Synced(false)
		g.GateChanged(admission.Gate{Phase: admission.Closed, Until: time.Now().Add(time.Hour), Wait: time.Minute, Revision: 5})
		g.Synced(true)
		closedFor(t, g, time.Minute)
	})
}

func TestGateChangedIgnoresWhatIsOld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := provision.NewFleetGate(newRows(1), "a", time.Minute)
		g.Synced(true)
		now := time.Now()
		g.GateChanged(admission.Gate{Phase: admission.Closed, Until: now.Add(time.Minute), Wait: time.Minute, Revision: 7})
		for _, late := range []admission.Gate{
			{Revision: 6},
			{Revision: 7},
			{Phase: admission.Closed, Until: now.Add(time.Hour), Wait: time.Hour, Revision: 6},
		} {
			g.GateChanged(late)
			closedFor(t, g, time.Minute)
		}
		g.GateChanged(admission.Gate{Revision: 8})
		closedFor(t, g, 0)
	})
}

func TestBrakeChangedIgnoresWhatIsOld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := provision.NewFleetGate(newRows(1), "a", time.Minute)
		g.Synced(true)
		for i, step := range []struct {
			brake      admission.Brake
			turned, on bool
		}{
			{admission.Brake{Revision: 3}, false, false},
			{admission.Brake{On: true, By: "ann", Revision: 5}, true, true},
			{admission.Brake{Revision: 4}, false, true},
			{admission.Brake{On: true, By: "ann", Revision: 5}, false, true},
			{admission.Brake{Revision: 6}, true, false},
			{admission.Brake{On: true, Revision: 5}, false, false},
		} {
			turned := g.BrakeChanged(step.brake)
			b, on := g.Braked()
			if turned != step.turned || on != step.on || on && b.By != "ann" {
				t.Errorf("step %d: turned %v, on %v: %+v", i, turned, on, b)
			}
			// Creates stop, and nothing else.
			if _, closed := g.Closed(); closed {
				t.Errorf("step %d: the brake closes the gate", i)
			}
			if c, stopped := g.Stopped(); stopped != on || on && c.Reason != provision.WaitPaused {
				t.Errorf("step %d: creates are stopped: %v, %q", i, stopped, c.Reason)
			}
		}
	})
}

// echo is a store whose watch is faster than its answers: a change comes back
// before the store that made it returns. It looks at the gate in between.
type echo struct {
	*rows
	gate *provision.Gate
	seen func(admission.Gate)
}

func (e *echo) UpdateGate(ctx context.Context, change func(admission.Gate) (admission.Gate, bool)) (admission.Gate, error) {
	row, err := e.rows.UpdateGate(ctx, change)
	if err == nil {
		e.gate.GateChanged(row)
		e.seen(e.gate.Row())
		pass(50 * time.Millisecond)
		e.seen(e.gate.Row())
	}
	return row, err
}

// An unknown outcome that was told by the watch before its store had returned
// was counted twice, and could so close the gate for ever.
func TestAChangeThatComesBackEarlyIsAppliedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := &echo{rows: newRows(3)}
		g := provision.NewFleetGate(e, "a", time.Minute)
		e.gate = g
		var most admission.Gate
		e.seen = func(row admission.Gate) {
			most.Unknowns = max(most.Unknowns, row.Unknowns)
			most.Closures = max(most.Closures, row.Closures)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); g.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		g.Synced(true)
		unknown := provision.Answer{Verdict: provision.VerdictUnknown, Status: 500}
		g.Leave(enter(t, g, "a"), unknown, time.Minute, 2)
		told()
		if stored := e.row(); most.Unknowns != 1 || most.Closures != 0 || stored.Unknowns != 1 || g.Row() != stored {
			t.Errorf("one unknown outcome was seen as %+v, shown as %+v and stored as %+v", most, g.Row(), stored)
		}
		closedFor(t, g, 0)
		// And the one that closes it does so once, and not for ever.
		g.Leave(enter(t, g, "b"), unknown, time.Minute, 2)
		told()
		if stored := e.row(); most.Closures != 1 || stored.Closures != 1 || stored.Unknowns != 2 {
			t.Errorf("the second was seen as %+v and stored as %+v", most, stored)
		}
		began := time.Now()
		if err := g.Wait(t.Context()); err != nil || time.Since(began) > time.Minute {
			t.Errorf("waited %s, %v", time.Since(began), err)
		}
		g.Leave(enter(t, g, "c"), provision.Answer{Verdict: provision.VerdictCreated, Status: 201}, time.Minute, 2)
		told()
		if stored := e.row(); stored.Phase != admission.Open || stored.Unknowns != 0 || stored.Closures != 0 {
			t.Errorf("after the probe's answer: %+v", stored)
		}
	})
}

// While a change is being stored, somebody else's closure is obeyed at once.
func TestAClosureThatComesWhileStoringIsObeyed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := &echo{rows: newRows(3)}
		g := provision.NewFleetGate(e, "a", time.Minute)
		e.gate = g
		looked := false
		e.seen = func(admission.Gate) {
			if looked {
				return
			}
			looked = true
			g.GateChanged(admission.Gate{Phase: admission.Closed, Until: time.Now().Add(time.Minute), Wait: time.Minute, Reason: admission.ReasonThrottled, Revision: 90})
			closedFor(t, g, time.Minute)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); g.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		g.Synced(true)
		g.Leave(enter(t, g, "a"), provision.Answer{Verdict: provision.VerdictUnknown, Status: 500}, time.Minute, 5)
		told()
		if _, closed := g.Closed(); !looked || !closed {
			t.Errorf("looked %v, closed %v: %+v", looked, closed, g.Row())
		}
	})
}

// A process that starts while the gate is closed does not begin the wait anew,
// whatever the clocks say; at worst it waits as long as the row says.
func TestTheFirstRowSeen(t *testing.T) {
	for name, tc := range map[string]struct {
		until, wait, want time.Duration
	}{
		// The clock of whoever stored it may be two minutes behind.
		"New":            {time.Hour, time.Hour, time.Hour},
		"Old":            {10 * time.Minute, time.Hour, 12 * time.Minute},
		"JustOver":       {-time.Minute, time.Hour, time.Minute},
		"Over":           {-3 * time.Minute, time.Hour, 0},
		"ClockAhead":     {2 * time.Hour, time.Hour, time.Hour},
		"ClockFarBehind": {-24 * time.Hour, time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := provision.NewFleetGate(newRows(1), "a", time.Minute)
				g.GateChanged(admission.Gate{Phase: admission.Closed, Until: time.Now().Add(tc.until), Wait: tc.wait, Revision: 9})
				g.Synced(true)
				closedFor(t, g, tc.want)
			})
		})
	}
}

// A closure that this process saw begin lasts as long as the row says from then
// on; the clock of whoever stored it is not asked.
func TestAnotherClockChangesNoWait(t *testing.T) {
	for name, skew := range map[string]time.Duration{"Right": 0, "Ahead": time.Hour, "Behind": -time.Hour, "Decades": -30 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := provision.NewFleetGate(newRows(1), "a", time.Minute)
				g.GateChanged(admission.Gate{Revision: 1})
				g.Synced(true)
				pass(time.Second)
				theirs := time.Now().Add(skew)
				closed := admission.Gate{Phase: admission.Closed, Until: theirs.Add(time.Minute), Wait: time.Minute, Reason: admission.ReasonThrottled, Revision: 2}
				g.GateChanged(closed)
				closedFor(t, g, time.Minute)
				// A change of the row that is none of the closure does not move it.
				pass(20 * time.Second)
				closed.Budget, closed.Revision = 7, 3
				g.GateChanged(closed)
				closedFor(t, g, 40*time.Second)
				// Nor does its own change on top.
				g.Raise(10*time.Second, admission.Rate{})
				closedFor(t, g, 40*time.Second)
				// A later one of the same length begins anew.
				pass(5 * time.Second)
				closed.Until, closed.Revision = closed.Until.Add(25*time.Second), 4
				g.GateChanged(closed)
				closedFor(t, g, time.Minute)
			})
		})
	}
}

// Two replicas agree on a closure although the clock of one is wrong: what is
// stored is a span for the other.
func TestAClosureReachesTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newRows(5)
		a, b := replica(t, c, "a"), replica(t, c, "b")
		began := time.Now()
		a.Leave(enter(t, a, "k"), provision.Answer{Verdict: provision.VerdictThrottled, Status: 429}, time.Minute, 0)
		closedFor(t, a, time.Minute)
		told()
		for name, g := range map[string]*provision.Gate{"a": a, "b": b} {
			closure, closed := g.Closed()
			if d := closure.Until.Sub(began); !closed || d < time.Minute || d > time.Minute+10*time.Millisecond {
				t.Errorf("%s is closed %v until +%s", name, closed, d)
			}
		}
		pass(time.Minute)
		// One of the two gets the probe, and the other one none beside it.
		first, other := a.Enter("x"), b.Enter("y")
		if first != nil || other != nil {
			t.Error("a pass without a probe")
		}
		told()
		first, other = a.Enter("x"), b.Enter("y")
		if (first == nil) == (other == nil) {
			t.Errorf("passes for the probe: %v and %v", first != nil, other != nil)
		}
		told()
		if a.Enter("x2") != nil || b.Enter("y2") != nil {
			t.Error("a second create beside the probe")
		}
	})
}

// What was handed out of a window is worth nothing in the next.
func TestPermitsOfAnOldWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newRows(5)
		g := replica(t, c, "a")
		metered := admission.Gate{Phase: admission.Metered, Limit: 10, Budget: 10, Until: time.Now().Add(time.Minute), Wait: time.Minute, Window: 4}
		c.store(t, metered)
		for _, key := range []string{"x", "y", "z"} {
			if g.Enter(key) != nil {
				t.Fatalf("%s got a pass without a permit", key)
			}
		}
		told()
		if g.Held() != 3 || c.row().Used != 3 {
			t.Fatalf("%d permits, stored is %+v", g.Held(), c.row())
		}
		p := enter(t, g, "x")
		next := metered
		next.Window, next.Used, next.Until = 5, 10, time.Now().Add(2*time.Minute)
		c.store(t, next)
		if n := g.Held(); n != 0 {
			t.Errorf("%d permits of the window before", n)
		}
		if g.Enter("y") != nil {
			t.Error("a permit of the window before was used")
		}
		told()
		if row := c.row(); row.Used != 10 || row.Window != 5 {
			t.Errorf("what was not used was given back to the next window: %+v", row)
		}
		g.Leave(p, provision.Answer{Verdict: provision.VerdictNeverSent}, 0, 0)
		if n := g.Held(); n != 0 {
			t.Errorf("%d permits after a create of the window before was not sent", n)
		}
	})
}

// A create that was on its way when the others began to count has been counted
// with them, and gives its place back if it is not sent.
func TestAPassFromBeforeTheCount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newRows(5)
		g := replica(t, c, "a")
		p := enter(t, g, "x")
		c.store(t, admission.Gate{Phase: admission.Metered, Limit: 10, Budget: 10, Until: time.Now().Add(time.Minute), Wait: time.Minute, Window: 4})
		if used := c.row().Used; used != 1 {
			t.Errorf("%d are used", used)
		}
		g.Leave(p, provision.Answer{Verdict: provision.VerdictNeverSent}, 0, 0)
		if n := g.Held(); n != 1 {
			t.Errorf("%d permits", n)
		}
	})
}

// The answer that tells of a new window ends the old permits, too.
func TestAnAnswerOfANewWindowEndsOldPermits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newRows(5)
		g := replica(t, c, "a")
		c.store(t, admission.Gate{Phase: admission.Metered, Limit: 10, Budget: 10, Until: time.Now().Add(time.Second), Wait: time.Second, Window: 4})
		g.Enter("x")
		g.Enter("y")
		told()
		p := enter(t, g, "x")
		pass(1500 * time.Millisecond)
		if n := g.Held(); n != 1 {
			t.Fatalf("%d permits, want the one of y", n)
		}
		g.Leave(p, provision.Answer{Verdict: provision.VerdictCreated, Status: 201, Rate: admission.Rate{Limit: 10, Remaining: 9, Reset: time.Minute}}, 0, 0)
		told()
		// y may have been given one of the new window, which counts in it.
		if row := c.row(); row.Window != 5 || row.Used != 1+g.Held() {
			t.Errorf("%d permits, stored is %+v", g.Held(), row)
		}
	})
}

// A 429 on a read closes the gate and says nothing of how many creates a window
// holds; nor do the permits that come back because of it.
func TestRaiseLeavesTheBudget(t *testing.T) {
	for name, tc := range map[string]struct {
		before admission.Gate
		rate   admission.Rate
		held   int
	}{
		"Nothing":     {admission.Gate{}, admission.Rate{}, 0},
		"Learned":     {admission.Gate{Phase: admission.Metered, Budget: 20, Used: 7, Window: 2}, admission.Rate{}, 0},
		"BelowLimit":  {admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 20, Used: 7, Window: 2}, admission.Rate{}, 0},
		"SaysLimit":   {admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 20, Used: 7, Window: 2}, admission.Rate{Limit: 30}, 0},
		"WithPermits": {admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 30, Used: 7, Window: 2}, admission.Rate{}, 2},
		"Counting":    {admission.Gate{Phase: admission.Metered, Budget: 1 << 16, Used: 7, Window: 2}, admission.Rate{}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newRows(5)
				g := replica(t, c, "a")
				c.store(t, tc.before)
				for i := range tc.held {
					g.Enter(string(rune('x' + i)))
				}
				told()
				if n := g.Held(); n != tc.held {
					t.Fatalf("%d permits, want %d", n, tc.held)
				}
				g.Raise(time.Minute, tc.rate)
				closedFor(t, g, time.Minute)
				told()
				row := c.row()
				if row.Phase != admission.Closed || row.Limit != tc.before.Limit || row.Budget != tc.before.Budget || row.Used != tc.before.Used {
					t.Errorf("%+v became %+v", tc.before, row)
				}
				if n := g.Held(); n != 0 {
					t.Errorf("%d permits behind a closed gate", n)
				}
			})
		})
	}
}

// A read that met a limit of its own says nothing to the creates.
func TestRaiseByAnotherLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newRows(5)
		g := replica(t, c, "a")
		before := admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 20, Used: 7, Window: 2}
		c.store(t, before)
		told()
		g.Raise(time.Minute, admission.Rate{Limit: 5})
		told()
		if closure, closed := g.Closed(); closed {
			t.Errorf("closed until %s", closure.Until)
		}
		row := c.row()
		row.Revision = 0
		if row != before {
			t.Errorf("%+v became %+v", before, row)
		}
	})
}
