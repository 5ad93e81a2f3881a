package provision

import (
	"context"
	"maps"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// Controls changes the rows that the fleet shares, each by compare-and-set:
// change is called with what is stored, once or more, and returns what is to
// be stored, false to leave it. They return what is stored at the end.
type Controls interface {
	UpdateGate(ctx context.Context, change func(admission.Gate) (admission.Gate, bool)) (admission.Gate, error)
	UpdateBrake(ctx context.Context, change func(admission.Brake) (admission.Brake, bool)) (admission.Brake, error)
	UpdateSpend(ctx context.Context, change func(admission.Spend) (admission.Spend, bool)) (admission.Spend, error)
}

// Synced tells whether the shared rows are being watched. While they are not,
// the gate counts as closed. What is told between false and true is what the
// ledger holds, also where it has lost what it held before.
func (g *Gate) Synced(live bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.blind == live {
		g.blind, g.blindSince = !live, time.Now()
		g.wake()
	}
	if !live {
		g.stored.Revision, g.brake.Revision = 0, 0
		g.anew = true
	}
}

// Blind returns for how long the shared rows have not been seen, 0 when they
// are.
func (g *Gate) Blind() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.blind {
		return 0
	}
	return time.Since(g.blindSince)
}

// GateChanged takes in the shared gate as somebody stored it. Revision 0 says
// that the row is gone.
func (g *Gate) GateChanged(row admission.Gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before, left := g.row, time.Until(g.until)
	lost := row.Revision == 0 || g.anew && row.Revision < g.highest
	g.anew = false
	if row.Revision == 0 {
		g.stored, g.storedUntil = row, time.Time{}
	} else if !g.rebase(row) {
		return
	}
	if lost && before.Shut(left) && row.Phase != admission.Closed {
		// The ledger has forgotten what this process still knows.
		g.unstored = append(g.unstored, func(row admission.Gate, now time.Time, _ time.Duration) (admission.Gate, bool) {
			again := before
			again.Revision, again.Until, again.Wait = row.Revision, now.Add(left), left
			return again, row.Phase != admission.Closed
		})
		g.stir()
	}
	if g.storing == 0 {
		g.derive()
		return
	}
	// Nobody knows whether what is being stored is in it already, so it is not
	// built upon yet; but a closed gate is obeyed at once.
	if row.Shut(time.Until(g.storedUntil)) {
		g.show(row, g.storedUntil)
		g.wake()
	}
}

// rebase makes a row the newest stored one, and reports whether it is. A wait
// that this process has not seen before begins now: the clock of whoever stored
// it is not asked. Only the first row that is seen may be an old one.
func (g *Gate) rebase(row admission.Gate) bool {
	if row.Revision <= g.stored.Revision {
		return false
	}
	now := time.Now()
	switch {
	case row.Phase == g.stored.Phase && row.Wait == g.stored.Wait && row.Until.Equal(g.stored.Until):
	case g.stored.Revision == 0:
		g.storedUntil = now.Add(unseen(row, now))
	default:
		g.storedUntil = now.Add(row.Wait)
	}
	g.stored, g.heard = row, now
	g.highest = max(g.highest, row.Revision)
	return true
}

// derive shows the stored row with the own changes on top that are not stored.
func (g *Gate) derive() {
	row, until := g.stored, g.storedUntil
	for _, f := range g.unstored {
		row, until = applied(f, row, until)
	}
	g.show(row, until)
	g.wake()
}

// unseen is how much of the wait is left of a row that this process did not see
// being stored: by the clock of whoever did, which may be behind by clockSkew,
// and never more than all of it.
func unseen(row admission.Gate, now time.Time) time.Duration {
	return min(row.Until.Sub(now)+clockSkew, row.Wait)
}

// leftOf is how much of a row's wait has not passed, on this process's clock if
// it has seen the row.
func (g *Gate) leftOf(row admission.Gate, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if row.Revision == g.stored.Revision {
		return g.storedUntil.Sub(now)
	}
	return unseen(row, now)
}

// BrakeChanged takes in the brake as it is stored, and reports whether that set
// or lifted it. Revision 0 says that the row is gone: only a person lifts the
// brake, so one that is on stays on and is stored again, as after a loss of
// what the ledger held.
func (g *Gate) BrakeChanged(b admission.Brake) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	lost := b.Revision == 0 || g.brake.Revision == 0 && b.Revision < g.brakeHighest
	switch {
	case !lost && b.Revision <= g.brake.Revision:
		return false
	case lost && g.brake.On && !b.On:
		on := g.brake
		g.brake.Revision = b.Revision
		g.setBrake = func(stored admission.Brake) (admission.Brake, bool) { return stored.Set(on.At, on.By, on.Reason) }
		g.trips++
		g.stir()
		return false
	case b.Revision == 0:
		return false
	case g.setBrake != nil && !b.On:
		// Set here, and not stored yet.
		g.brake.Revision = b.Revision
		return false
	}
	turned := b.On != g.brake.On
	g.brake = b
	g.brakeHighest = max(g.brakeHighest, b.Revision)
	if turned {
		g.wake()
	}
	return turned
}

// trip puts the brake on, here at once and for the fleet as soon as it can be
// stored. It reports whether it was off here.
func (g *Gate) trip(set func(admission.Brake) (admission.Brake, bool)) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	next, changed := set(g.brake)
	if !changed {
		return false
	}
	turned := next.On != g.brake.On
	g.brake = next
	if g.controls != nil {
		g.setBrake = set
		g.trips++
		g.stir()
	}
	g.wake()
	return turned
}

// storeBrake makes a brake known that was set here; what is stored then has the
// last word. It returns false when that has to be tried again.
func (g *Gate) storeBrake(ctx context.Context) bool {
	g.mu.Lock()
	set, trips := g.setBrake, g.trips
	g.mu.Unlock()
	if set == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	b, err := g.controls.UpdateBrake(ctx, set)
	if err != nil {
		g.again(ctx)
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trips != trips {
		return true // set once more meanwhile, and stirred
	}
	g.setBrake = nil
	if b.Revision >= g.brake.Revision {
		g.brake, g.brakeHighest = b, max(g.brakeHighest, b.Revision)
		g.wake()
	}
	return true
}

// updateTimeout bounds one change of a shared row, retryPause the time between
// two tries at it.
const (
	updateTimeout = 10 * time.Second
	retryPause    = 100 * time.Millisecond
)

// Run tells the fleet what this process learns and asks it for permits, until
// ctx ends. What is not stored by then is tried once more.
func (g *Gate) Run(ctx context.Context) {
	if g.controls == nil {
		<-ctx.Done()
		return
	}
	for {
		select {
		case <-g.kick:
			for more := true; more; {
				more = g.storeBrake(ctx) && g.store(ctx) && g.beg(ctx)
			}
		case <-ctx.Done():
			g.returnIdle(0)
			last := context.WithoutCancel(ctx)
			g.storeBrake(last)
			g.store(last)
			return
		}
	}
}

// store makes the own changes known, in their order. It returns false when
// that has to be tried again.
func (g *Gate) store(ctx context.Context) bool {
	g.mu.Lock()
	changes := g.unstored
	g.storing = len(changes)
	g.mu.Unlock()
	if len(changes) == 0 {
		return true
	}
	row, err := g.update(ctx, func(row admission.Gate) (admission.Gate, bool) {
		now := time.Now()
		left, changed := g.leftOf(row, now), false
		for _, f := range changes {
			next, ok := f(row, now, left)
			if ok && (next.Wait != row.Wait || !next.Until.Equal(row.Until)) {
				left = next.Wait
			}
			row, changed = next, changed || ok
		}
		return row, changed
	})
	g.mu.Lock()
	g.storing = 0
	if err == nil {
		g.unstored = g.unstored[len(changes):]
		g.rebase(row)
		g.derive()
	}
	g.mu.Unlock()
	if err != nil {
		g.again(ctx)
	}
	return err == nil
}

// beg asks for what calls are waiting for: a probe, or permits. It returns
// true when it got something, so that there may be more.
func (g *Gate) beg(ctx context.Context) bool {
	g.mu.Lock()
	n, early := g.short(), g.tooEarly()
	g.mu.Unlock()
	if n <= 0 {
		return false
	}
	if early > 0 {
		time.AfterFunc(early, g.stir)
		return false
	}
	var got asked
	row, err := g.update(ctx, func(row admission.Gate) (admission.Gate, bool) {
		now := time.Now()
		got = askOf(row, now, g.leftOf(row, now), n, g.probeWithin, g.source)
		return got.row, got.changed
	})
	if err != nil {
		g.again(ctx)
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rebase(row) {
		g.derive()
	}
	return got.changed && g.grant(got)
}

// returnIdle gives back what was granted so long ago and found no taker: who
// asked for it may have gone to another replica.
func (g *Gate) returnIdle(after time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.granted) < after {
		return
	}
	n, window, probe := g.permits, g.row.Window, g.probe
	g.permits, g.probe = 0, false
	if probe {
		g.change(func(row admission.Gate, now time.Time, _ time.Duration) (admission.Gate, bool) {
			return row.Unsent(now, g.source)
		})
	}
	if n > 0 {
		g.change(func(row admission.Gate, _ time.Time, _ time.Duration) (admission.Gate, bool) {
			return row.GiveBack(window, n)
		})
	}
}

// short is how many permits are missing for the calls that wait and may be sent.
func (g *Gate) short() int {
	maps.DeleteFunc(g.wanted, func(_ string, w want) bool { return time.Since(w.at) > 2*turnPause })
	n, room := 0, g.room(time.Now())
	for _, w := range g.wanted {
		switch {
		case w.read:
		case room > 0:
			room--
		default:
			continue
		}
		n++
	}
	return n - g.permits
}

// tooEarly is how long a probe should still wait that follows a budget which
// is used up: what was handed out of it last may still be on its way, and would
// be refused if the probe overtook it.
func (g *Gate) tooEarly() time.Duration {
	if g.stored.Phase != admission.Metered || !g.stored.NeedsProbe(time.Until(g.storedUntil)) {
		return 0
	}
	return max(2*g.usual+probeGrace-time.Since(g.heard), 0)
}

// probeGrace is what telling each other takes.
const probeGrace = 20 * time.Millisecond

func (g *Gate) update(ctx context.Context, f func(admission.Gate) (admission.Gate, bool)) (admission.Gate, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	return g.controls.UpdateGate(ctx, f)
}

// again comes back to what failed, a moment later. Whoever waits for a permit
// asks again by itself.
func (g *Gate) again(ctx context.Context) {
	t := time.NewTimer(retryPause)
	defer t.Stop()
	select {
	case <-t.C:
		g.stir()
	case <-ctx.Done():
	}
}
