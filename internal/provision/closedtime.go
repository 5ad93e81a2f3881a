package provision

import (
	"maps"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// closedReasons are all that can keep the gate closed.
var closedReasons = []string{
	string(admission.ReasonThrottled), string(admission.ReasonUnknowns), string(admission.ReasonBudget), WaitAuth, WaitLedger,
}

// closedTime sums how long the gate was closed, by reason. It is told at every
// change and whenever somebody asks, and takes what it was told last for what
// was the case since then.
type closedTime struct {
	sums map[string]time.Duration
	at   time.Time
	// reason is empty while the gate is open; until is zero when only a change
	// opens it.
	reason string
	until  time.Time
}

// pass counts the time that has passed, and takes note of what is the case now.
func (c *closedTime) pass(now time.Time, reason string, until time.Time) {
	if c.sums == nil {
		c.sums = make(map[string]time.Duration)
	}
	end := now
	if !c.until.IsZero() && c.until.Before(now) {
		end = c.until
	}
	if d := end.Sub(c.at); c.reason != "" && d > 0 {
		c.sums[c.reason] += d
	}
	c.at, c.reason, c.until = now, reason, until
}

// meterClosed counts how long the gate has been closed.
func (g *Gate) meterClosed() {
	now := time.Now()
	switch {
	case g.held != "":
		g.shut.pass(now, g.held, time.Time{})
	case g.row.Shut(g.until.Sub(now)):
		g.shut.pass(now, string(g.row.Reason), g.until)
	case g.blind:
		g.shut.pass(now, WaitLedger, time.Time{})
	default:
		g.shut.pass(now, "", time.Time{})
	}
}

// closedFor tells for how long in all this process was not allowed to call
// HostUp, by reason.
func (g *Gate) closedFor() map[string]time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.meterClosed()
	return maps.Clone(g.shut.sums)
}
