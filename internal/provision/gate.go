package provision

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// Gate is this process's view of what the fleet may send: the shared gate and
// brake, as far as they are known here, its own share of a metered window, and
// how many creates it may have in flight while a gate that has opened is being
// tried. While it is closed nobody sends a create and messages are pulled
// slowly. It is safe for concurrent use.
//
// What this process learns it obeys at once; Run tells the others.
type Gate struct {
	// source names this process in the row.
	source string
	// controls is nil for a process that is a fleet of its own.
	controls Controls
	// probeWithin is how long a probe may take before another one follows.
	probeWithin time.Duration

	mu sync.Mutex
	// stored is the newest row of the fleet that is known, storedUntil its
	// Until on this process's own clock.
	stored      admission.Gate
	storedUntil time.Time
	// row and until are the same with the changes on top that the fleet does
	// not know yet; the first storing of those are on their way.
	row      admission.Gate
	until    time.Time
	unstored []gateChange
	storing  int
	brake    admission.Brake
	// setBrake is how this process has set the brake, until that is stored;
	// trips counts how often.
	setBrake func(admission.Brake) (admission.Brake, bool)
	trips    int
	blind    bool
	held     string
	// blindSince is when blind last changed; anew is whether the next row is
	// the first after that. The highest revisions tell a ledger that has lost
	// something.
	blindSince            time.Time
	anew                  bool
	highest, brakeHighest uint64

	permits int  // of the window's budget, for this process
	probe   bool // this process may send the probe
	// wanted are the calls that were denied for want of permits or a probe.
	wanted   map[string]want
	inFlight map[*pass]struct{}
	ramp     int
	// usual is how long a create takes, on average, or a read that takes longer;
	// heard is when the stored row last changed.
	usual time.Duration
	heard time.Time
	// granted is when this process was last given permits or the probe.
	granted time.Time
	shut    closedTime

	changed chan struct{}
	kick    chan struct{}
}

// want is when a denied call asked, and whether it is a read, which needs no room.
type want struct {
	at   time.Time
	read bool
}

// gateChange is a change of the shared row; left is how much of its Wait has
// not passed.
type gateChange func(row admission.Gate, now time.Time, left time.Duration) (admission.Gate, bool)

const (
	// firstRamp is how many creates a process may have in flight before any has
	// been answered, at its start and after the gate was closed. Each usable
	// answer allows one more; at fullRamp there is no bound.
	firstRamp = 1
	fullRamp  = 1024
	// defaultProbe is the time for a probe where nobody said otherwise.
	defaultProbe = time.Minute
)

// NewGate returns an open gate for a process that is a fleet of its own, and
// that nobody else's creates have to be feared beside: it starts without a ramp.
func NewGate() *Gate {
	return &Gate{source: rand.Text(), probeWithin: defaultProbe, ramp: fullRamp, wanted: make(map[string]want), inFlight: make(map[*pass]struct{}), changed: make(chan struct{}), kick: make(chan struct{}, 1)}
}

// NewFleetGate returns the gate of one replica. It is closed until the first
// Synced(true), and needs Run. A probe that takes longer than within is given
// up by the others.
func NewFleetGate(controls Controls, source string, within time.Duration) *Gate {
	g := NewGate()
	g.controls, g.source, g.probeWithin, g.ramp = controls, source, within, firstRamp
	g.blind, g.blindSince = true, time.Now()
	g.meterClosed()
	return g
}

// Closure is why the gate is closed. Until is zero when nobody knows how long.
type Closure struct {
	Until  time.Time
	Reason string
	// changed is closed when the gate is no longer what it was then.
	changed <-chan struct{}
}

// Closed returns why nobody may call HostUp at all now, false when they may.
func (g *Gate) Closed() (Closure, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed(time.Now())
}

func (g *Gate) closed(now time.Time) (Closure, bool) {
	switch {
	case g.held != "":
		return Closure{Reason: g.held, changed: g.changed}, true
	case g.row.Shut(g.until.Sub(now)):
		return Closure{Until: g.until, Reason: WaitGate, changed: g.changed}, true
	case g.blind:
		// Slower, never faster.
		return Closure{Until: now.Add(blindPause), Reason: WaitLedger, changed: g.changed}, true
	}
	return Closure{}, false
}

// blindPause is how long a request waits that came while the fleet's gate could
// not be seen.
const blindPause = time.Second

// Braked returns the brake, false when it is off.
func (g *Gate) Braked() (admission.Brake, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.brake, g.brake.On
}

// stops returns the brake, and whether it stops who has entered.
func (g *Gate) stops(p *pass) (admission.Brake, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.brake, g.braked(p)
}

// Row returns what is known of the shared gate, for people and metrics.
func (g *Gate) Row() admission.Gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.row
}

// stopped is closed, for creates: the brake stops them and nothing else.
func (g *Gate) stopped(now time.Time) (Closure, bool) {
	if g.brake.On {
		return Closure{Reason: WaitPaused, changed: g.changed}, true
	}
	return g.barred(now)
}

// barred is closed, but for who has a share of a budget that is used up.
func (g *Gate) barred(now time.Time) (Closure, bool) {
	c, closed := g.closed(now)
	return c, closed && (g.permits == 0 || !g.spent())
}

// spent reports whether the gate is closed only because the budget of the
// window has been handed out. Who has a share of it may still send.
func (g *Gate) spent() bool {
	return g.held == "" && !g.blind && g.row.Reason == admission.ReasonBudget
}

// revoked reports whether who has entered should not send any more: it is stopped,
// or the window is over that its permit was of. A probe that was lent has neither.
func (g *Gate) revoked(p *pass) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, closed := g.closed(time.Now())
	over := !p.probe && !p.uncounted && (!p.permit || p.window != g.row.Window)
	return g.braked(p) || closed && !g.spent() || over
}

// braked reports whether the brake stops who has entered. One that a cap has
// set does not stop those that are within the cap.
func (g *Gate) braked(p *pass) bool {
	return g.brake.On && (g.brake.Cap == admission.CapNone || p.purchase == nil)
}

// Stopped returns why no create may be sent now, false when one may be.
func (g *Gate) Stopped() (Closure, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stopped(time.Now())
}

// Raise closes the gate for a time, for everybody: a call that is no create was
// answered 429, and it may be the creates' limit that it met. It only ever moves
// later.
func (g *Gate) Raise(wait time.Duration, rate admission.Rate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.change(func(row admission.Gate, now time.Time, left time.Duration) (admission.Gate, bool) {
		switch {
		case row.Limit == rate.Limit || row.Limit == 0:
		case rate.Limit != 0:
			return row, false // a limit that creates have nothing to do with
		default:
			rate = admission.Rate{}
		}
		// A read that was refused says nothing of how many creates there were.
		used, budget := row.Used, row.Budget
		row.Used = 0
		next, ok := row.Throttled(now, left, wait, rate, g.source)
		next.Used = used
		if budget > 0 {
			next.Budget = budget
		}
		return next, ok
	})
}

// change obeys a change at once and keeps it for the others.
func (g *Gate) change(f gateChange) {
	row, until := applied(f, g.row, g.until)
	if row == g.row {
		return
	}
	if g.controls != nil {
		g.unstored = append(g.unstored, f)
		g.stir()
	}
	g.show(row, until)
	g.wake()
}

// applied is a row after a change, and when its wait ends here.
func applied(f gateChange, row admission.Gate, until time.Time) (admission.Gate, time.Time) {
	now := time.Now()
	next, ok := f(row, now, until.Sub(now))
	switch {
	case !ok:
		return row, until
	case next.Wait != row.Wait || !next.Until.Equal(row.Until):
		return next, now.Add(next.Wait)
	default:
		return next, until
	}
}

// show makes a row the one that is obeyed.
func (g *Gate) show(row admission.Gate, until time.Time) {
	if row.Phase != admission.Closed && g.row.Phase == admission.Closed {
		g.ramp = firstRamp
	}
	if row.Phase != admission.Probing || row.Source != g.source {
		g.probe = false
	}
	if row.Window != g.row.Window {
		g.permits = 0
	}
	metered := row.Phase == admission.Metered && g.row.Phase == admission.Open
	g.row, g.until = row, until
	if n, window := len(g.inFlight), row.Window; metered && n > 0 {
		for p := range g.inFlight {
			p.uncounted, p.permit, p.window = false, true, window
		}
		g.change(func(row admission.Gate, _ time.Time, _ time.Duration) (admission.Gate, bool) {
			return row.Sent(window, n)
		})
	}
	if n := g.permits; n > 0 && row.Phase == admission.Closed && row.Reason != admission.ReasonBudget {
		g.permits = 0
		window := row.Window
		g.change(func(row admission.Gate, _ time.Time, _ time.Duration) (admission.Gate, bool) {
			return row.GiveBack(window, n)
		})
	}
}

// Hold closes the gate of this process until Release, for a reason that
// /readyz shows.
func (g *Gate) Hold(reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != reason {
		g.held = reason
		g.wake()
	}
}

// Release ends a Hold.
func (g *Gate) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != "" {
		g.held = ""
		g.wake()
	}
}

// Changed returns a channel that is closed at the next change.
func (g *Gate) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

func (g *Gate) wake() {
	g.meterClosed()
	close(g.changed)
	g.changed = make(chan struct{})
}

// stir lets Run look for something to do.
func (g *Gate) stir() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// Wait returns when creates may be sent, or with the error of ctx.
func (g *Gate) Wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		c, stopped := g.stopped(time.Now())
		changed := g.changed
		g.mu.Unlock()
		if !stopped {
			return ctx.Err()
		}
		var opens <-chan time.Time
		var timer *time.Timer
		if !c.Until.IsZero() {
			timer = time.NewTimer(time.Until(c.Until))
			opens = timer.C
		}
		select {
		case <-ctx.Done():
		case <-opens:
		case <-changed:
		}
		if timer != nil {
			timer.Stop()
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
