package provision

import (
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// pass allows one call; whoever has one leaves with what came of it, once.
type pass struct {
	probe, permit bool
	// window is the one that a permit is of.
	window int
	// uncounted is set while the gate was open, which counts nothing.
	uncounted bool
	begun     time.Time
	// purchase is what was entered against the caps for it, if there are any.
	purchase *admission.Purchase
	used     bool
}

// enter asks for one create for a key. Without a pass the closure says how long
// to wait at most; a change of the gate comes sooner.
func (g *Gate) enter(key string) (*pass, Closure) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := want{at: time.Now()}
	if c, stopped := g.stopped(w.at); stopped {
		return nil, c
	}
	return g.take(key, w)
}

// enterRead asks for one read that draws on the budget of the creates; mine is
// false where none does. Neither the brake nor the ramp stops it. It may be the
// probe after a 429, or a fleet that only has to look would wait for ever. But it
// proves nothing of creates: while unknown verdicts keep the gate closed, reads
// are none of its business.
func (g *Gate) enterRead(key string) (p *pass, c Closure, mine bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.countsReads() {
		return nil, Closure{}, false
	}
	w := want{at: time.Now(), read: true}
	if c, closed := g.barred(w.at); closed {
		return nil, c, true
	}
	p, c = g.take(key, w)
	return p, c, true
}

// countsReads reports whether reads draw on the budget of this gate as it stands.
func (g *Gate) countsReads() bool {
	return g.row.Shared && g.row.Reason != admission.ReasonUnknowns
}

// take gives a key a permit, or the probe.
func (g *Gate) take(key string, w want) (*pass, Closure) {
	soon := Closure{Until: w.at.Add(turnPause), Reason: WaitTurn, changed: g.changed}
	if !w.read && g.room(w.at) <= 0 {
		return nil, soon
	}
	if g.controls == nil && g.permits == 0 {
		g.askSelf()
	}
	p := pass{begun: w.at, window: g.row.Window}
	left := g.until.Sub(w.at)
	switch {
	case g.row.Phase == admission.Open:
		p.uncounted = true
	case g.permits > 0:
		g.permits--
		p.permit = true
	case g.probe:
		g.probe = false
		p.probe = true
	default:
		if g.row.NeedsProbe(left) || g.row.Takeable(left) {
			g.wanted[key] = w
			g.stir()
		}
		return nil, soon
	}
	delete(g.wanted, key)
	if !w.read {
		g.inFlight[&p] = struct{}{}
	}
	return &p, Closure{}
}

// forgo withdraws what a key wants.
func (g *Gate) forgo(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.wanted, key)
}

// lend lets the look before a create be the probe that the create is. The create
// has to enter anew then.
func (g *Gate) lend(p *pass) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.probe && g.countsReads() {
		p.probe, g.probe = false, true
	}
}

// room is how many creates may be sent beside those in flight. One that hangs
// does not count for ever, or it would keep the others from being tried.
func (g *Gate) room(now time.Time) int {
	if g.ramp >= fullRamp {
		return fullRamp
	}
	n := g.ramp
	for p := range g.inFlight {
		if now.Sub(p.begun) < rampPatience {
			n--
		}
	}
	return n
}

// rampPatience is how long a create in flight keeps another one from being
// sent, while few may be.
const rampPatience = time.Second

// turnPause is how long a create waits at most for its turn before it asks
// again.
const turnPause = time.Second

// asked is what one request to the shared row came to.
type asked struct {
	row     admission.Gate
	changed bool
	permits int
	probe   bool
}

// askOf asks a row for the probe, where there has to be one, or for n permits.
func askOf(row admission.Gate, now time.Time, left time.Duration, n int, within time.Duration, who string) asked {
	if row.NeedsProbe(left) {
		next, ok := row.Probe(now, left, within, who)
		return asked{row: next, changed: ok, probe: ok}
	}
	next, got := row.Take(now, left, n)
	return asked{row: next, changed: got > 0 || next.Phase != row.Phase, permits: got}
}

// askSelf asks the row of a process that is a fleet of its own.
func (g *Gate) askSelf() {
	var got asked
	g.change(func(row admission.Gate, now time.Time, left time.Duration) (admission.Gate, bool) {
		got = askOf(row, now, left, 1, g.probeWithin, g.source)
		return got.row, got.changed
	})
	if got.changed {
		g.grant(got)
	}
}

// grant takes what the row gave this process, unless the row has moved on, and
// reports whether there was anything.
func (g *Gate) grant(a asked) bool {
	if a.row.Window != g.row.Window {
		return false
	}
	probe := a.probe && g.row.Phase == admission.Probing && g.row.Source == g.source
	g.permits += a.permits
	g.probe = g.probe || probe
	if a.permits == 0 && !probe {
		return false
	}
	g.granted = time.Now()
	time.AfterFunc(2*turnPause, func() { g.returnIdle(2 * turnPause) })
	g.show(g.row, g.until)
	g.wake()
	return true
}

// closing is how long what closes the gate closes it.
type closing struct {
	// throttled is the wait after a 429.
	throttled time.Duration
	// unknowns is how many unknown verdicts in a row close the gate, 0 for
	// never, and pause for how long they do the nth time in a row.
	unknowns int
	pause    func(n int) time.Duration
}

// leave tells what came of a create, and reports whether that closed the gate.
func (g *Gate) leave(p *pass, a Answer, c closing) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	p.used = true
	delete(g.inFlight, p)
	if a.Status != 0 {
		g.usual += (time.Since(p.begun) - g.usual) / 4
	}
	shut := g.row.Phase == admission.Closed
	if p.permit && p.window == g.row.Window && a.Verdict == VerdictNeverSent {
		g.permits++
	}
	uncounted := p.uncounted && a.Verdict != VerdictNeverSent
	g.change(func(row admission.Gate, now time.Time, left time.Duration) (admission.Gate, bool) {
		counted := false
		if uncounted {
			// Somebody else has begun to count meanwhile, without this one.
			row, counted = row.Sent(row.Window, 1)
		}
		next, changed := g.after(row, now, left, p.probe, a, c)
		return next, changed || counted
	})
	if (a.Verdict == VerdictCreated || a.Verdict == VerdictRefused) && g.ramp < fullRamp {
		g.ramp++
	}
	g.wake()
	return !shut && g.row.Phase == admission.Closed && a.Verdict != VerdictNeverSent
}

// after is a row after the answer to a create.
func (g *Gate) after(row admission.Gate, now time.Time, left time.Duration, probe bool, a Answer, c closing) (admission.Gate, bool) {
	switch a.Verdict {
	case VerdictThrottled:
		return row.Throttled(now, left, c.throttled, a.Rate, g.source)
	case VerdictUnknown:
		return row.Unknown(now, left, c.unknowns, probe, c.pause, g.source)
	case VerdictNeverSent:
		if probe {
			return row.Unsent(now, g.source)
		}
		return row, false
	default:
		return row.Answered(now, left, probe, a.Rate)
	}
}

// leaveRead tells what came of a read, by a pass of this gate or by none of it.
// The answer says whether reads draw on the budget of the creates; it proves
// nothing else of them. Raise closes the gate after a 429.
func (g *Gate) leaveRead(p pass, a ReadAnswer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.Status != 0 && p.permit {
		g.usual += max(time.Since(p.begun)-g.usual, 0) / 4
	}
	g.change(func(row admission.Gate, now time.Time, left time.Duration) (admission.Gate, bool) {
		was := row
		row, _ = row.Read(now, left, a.Rate)
		switch {
		case p.uncounted && row.Shared && was.Phase == admission.Metered:
			// Somebody else has begun to count meanwhile, without this one.
			row, _ = row.Sent(row.Window, 1)
		case !p.probe || a.Status == tooManyRequests:
		case a.Status == 0 || !row.Shared:
			row, _ = row.Unsent(now, g.source)
		default:
			row, _ = row.Answered(now, left, true, a.Rate)
			row.Unknowns = was.Unknowns
		}
		return row, row != was
	})
}
