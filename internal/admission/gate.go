package admission

import "time"

// Gate is how far the whole fleet may call HostUp at present. It is one row
// that every replica watches and changes by compare-and-set; its methods are
// the changes, pure, each returning what the row becomes. Left, an argument of
// most, is how much of the row's Wait has not passed yet on the caller's own
// clock; zero or less when it is over.
//
//	open ──429, unknowns──> closed ──over──> probing ──answered──> metered, or open
//	metered ──budget used up──> closed (end of the window known) or probing
type Gate struct {
	Phase Phase `json:"phase,omitempty"`
	// Until is when a closed gate opens, a probe is given up, or the window of
	// a metered gate ends, by the clock of whoever stored the row; Wait is the
	// same as a span. Both are zero where there is no such end.
	Until time.Time     `json:"notBefore,omitzero"`
	Wait  time.Duration `json:"wait,omitempty"`
	// Reason and Source say why the gate closed and which replica closed it.
	Reason GateReason `json:"reason,omitempty"`
	Source string     `json:"source,omitempty"`
	// Closures counts closures in a row without a usable answer in between,
	// Unknowns the unknown verdicts in a row.
	Closures int `json:"closures,omitempty"`
	Unknowns int `json:"unknowns,omitempty"`

	// Limit is what HostUp said a window holds, 0 when it never did. Budget is
	// what the fleet may use of one, 0 while nothing is known; Used is what it
	// has handed out of the present one.
	Limit  int `json:"limit,omitempty"`
	Budget int `json:"budget,omitempty"`
	Used   int `json:"used,omitempty"`
	// Shared is whether reads draw on the same budget, as their answers say.
	Shared bool `json:"shared,omitempty"`
	// Window numbers the windows: what was handed out of one is worth nothing
	// in the next.
	Window int `json:"window,omitempty"`
	// Trickle counts the probes in a row that were sent because the budget was
	// used up and nobody could say when the window ends.
	Trickle int `json:"trickle,omitempty"`

	// Revision is the ledger's.
	Revision uint64 `json:"-"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// Phase is the state of a gate.
type Phase string

// The four phases.
const (
	Open    Phase = ""
	Closed  Phase = "closed"
	Probing Phase = "probing"
	Metered Phase = "metered"
)

// GateReason is why a gate closed.
type GateReason string

// The reasons.
const (
	// ReasonThrottled: a 429.
	ReasonThrottled GateReason = "throttled"
	// ReasonBudget: the budget of a window is used up, and its end is known.
	ReasonBudget GateReason = "budget"
	// ReasonUnknowns: several unknown verdicts in a row.
	ReasonUnknowns GateReason = "unknowns"
)

// Rate is what an answer said of the rate limit. Limit 0 means nothing.
type Rate struct {
	Limit     int
	Remaining int
	// Reset is how long after the answer the window ends; 0 when not said.
	Reset time.Duration
}

const (
	// maxTrickle is how many probes in a row must pass before a budget that
	// was used up is believed to belong to a window that is over.
	maxTrickle = 8
	// maxBudget is where a budget that was never refused stops meaning
	// anything.
	maxBudget = 1 << 16
)

// Shut reports whether nobody may call HostUp at all.
func (g Gate) Shut(left time.Duration) bool { return g.Phase == Closed && left > 0 }

// NeedsProbe reports whether the next call is to be a single probe.
func (g Gate) NeedsProbe(left time.Duration) bool {
	switch g.Phase {
	case Closed:
		return left <= 0 && g.Reason != ReasonBudget
	case Probing:
		return left <= 0
	case Metered:
		return g.Used >= g.Budget && g.Wait == 0
	default:
		return false
	}
}

// close is the only way to close; it only ever moves later.
func (g Gate) close(now time.Time, left, wait time.Duration, why GateReason, who string) Gate {
	if g.Shut(left) && left >= wait {
		return g
	}
	g.Phase, g.Until, g.Wait, g.Reason, g.Source = Closed, now.Add(wait), wait, why, who
	return g
}

// Throttled closes the gate for wait after a 429 and corrects the budget. Those
// that were on their way when the gate closed correct it further.
func (g Gate) Throttled(now time.Time, left, wait time.Duration, rate Rate, who string) (Gate, bool) {
	was := g
	if rate.Limit > 0 {
		g.Limit = rate.Limit
	}
	switch late := g.Shut(left); {
	case late && g.Reason == ReasonThrottled && g.Used > 1:
		g.Used--
		g.Budget = g.within(g.Used)
	case late:
	case g.Used > 1:
		g.Used--
		g.Budget = g.within(g.Used)
	default:
		// Nothing was counted, or the probe of a new window was refused: that
		// says when, not how many.
		g.Budget, g.Used = g.within(max(g.Budget, g.Limit)), 0
	}
	g.Trickle = 0
	if !was.Shut(left) {
		g.Closures++
	}
	g = g.close(now, left, wait, ReasonThrottled, who)
	return g, g != was
}

// within bounds a budget by the documented limit.
func (g Gate) within(budget int) int {
	if g.Limit > 0 {
		budget = min(budget, g.Limit)
	}
	return budget
}

// Unknown counts a verdict that proved nothing. The last of threshold in a row
// closes the gate, as does that of a probe; pause gives the length of the nth
// closure. Threshold 0 never closes.
func (g Gate) Unknown(now time.Time, left time.Duration, threshold int, probe bool, pause func(n int) time.Duration, who string) (Gate, bool) {
	switch {
	case g.Shut(left):
		return g, false // it was on its way when the gate closed
	case threshold <= 0 && probe:
		return g.Unsent(now, who)
	case threshold <= 0:
		return g, false
	}
	g.Unknowns++
	if g.Unknowns < threshold && !probe {
		return g, true
	}
	g.Closures++
	g = g.close(now, left, pause(g.Closures), ReasonUnknowns, who)
	return g, true
}

// Probe hands the one probe to who, who is given up after within.
func (g Gate) Probe(now time.Time, left, within time.Duration, who string) (Gate, bool) {
	if !g.NeedsProbe(left) {
		return g, false
	}
	switch g.Phase {
	case Closed:
		g.Used, g.Trickle = 1, 0
		g.Window++
	case Metered:
		g.Used++
		g.Trickle++
	}
	g.Phase, g.Until, g.Wait, g.Source = Probing, now.Add(within), within, who
	return g, true
}

// Unsent takes back a probe that never left: another one may follow.
func (g Gate) Unsent(now time.Time, who string) (Gate, bool) {
	if g.Phase != Probing || g.Source != who {
		return g, false
	}
	if g.Trickle > 0 {
		// The window goes on that it was to find out about.
		g.Phase, g.Until, g.Wait, g.Source = Metered, time.Time{}, 0, ""
		g.Trickle--
		return g, true
	}
	g.Phase, g.Until, g.Wait = Closed, now, 0
	return g, true
}

// Answered is what a create call means that HostUp answered with anything but
// a 429 or an unknown: it listens. With probe it opens the gate.
func (g Gate) Answered(now time.Time, left time.Duration, probe bool, rate Rate) (Gate, bool) {
	was := g
	g.Unknowns = 0
	switch {
	case g.Phase == Probing && probe:
		g.Closures = 0
		g = g.opened(now, rate)
	case g.Phase == Open, g.Phase == Metered:
		g.Closures = 0
		g = g.observed(now, left, rate)
	}
	return g, g != was
}

// opened is the gate after a probe that passed.
func (g Gate) opened(now time.Time, rate Rate) Gate {
	reason := g.Reason
	g.Reason, g.Source, g.Until, g.Wait = "", "", time.Time{}, 0
	switch {
	case rate.Limit > 0:
		used := g.Used
		if g = g.metered(now, rate); g.Used < used {
			g.Window++ // one that counts fewer is another one
		}
		return g
	case g.Budget == 0 && reason == ReasonThrottled:
		// Nobody knows how many a window holds: count until the next 429.
		g.Phase, g.Budget = Metered, maxBudget
	case g.Budget == 0:
		g.Phase, g.Used, g.Trickle = Open, 0, 0
	case g.Trickle == 0:
		g.Phase = Metered
	case g.Trickle < maxTrickle:
		g.Phase = Metered
		g.Budget = g.within(g.Budget + 1)
		g.Used = max(g.Used, g.Budget)
	default:
		// So many at once that the window must be another one.
		g.Phase, g.Used, g.Trickle = Metered, 1, 0
		g.Window++
		if g.Budget = g.within(2 * g.Budget); g.Budget > maxBudget {
			g.Phase, g.Budget, g.Used = Open, 0, 0
		}
	}
	return g
}

// metered is the gate in the window that an answer told of.
func (g Gate) metered(now time.Time, r Rate) Gate {
	g.Phase, g.Limit, g.Budget, g.Trickle = Metered, r.Limit, r.Limit, 0
	g.Used = max(r.Limit-r.Remaining, 0)
	g.Until, g.Wait = time.Time{}, r.Reset
	if r.Reset > 0 {
		g.Until = now.Add(r.Reset)
	}
	return g
}

// observed takes in what an ordinary answer said of its window. Within one
// window what is left only shrinks: answers overtake each other.
func (g Gate) observed(now time.Time, left time.Duration, r Rate) Gate {
	switch {
	case r.Limit <= 0:
		return g
	case g.Phase == Metered && g.Wait == 0:
		// The window that what is used was counted in.
		used := g.Used
		g = g.metered(now, r)
		g.Used = max(g.Used, used)
		return g
	case g.Phase == Open:
		return g.metered(now, r)
	case left <= 0:
		// What was handed out of the window that is over is worth nothing now.
		g.Window++
		return g.metered(now, r)
	default:
		g.Limit, g.Budget = r.Limit, min(g.Budget, r.Limit)
		g.Used = max(g.Used, g.Budget-r.Remaining)
		return g.shutIfSpent(now, left)
	}
}

// shutIfSpent closes a gate whose window is used up, until the window ends.
func (g Gate) shutIfSpent(now time.Time, left time.Duration) Gate {
	if g.Phase == Metered && g.Used >= g.Budget && g.Wait > 0 && left > 0 {
		g.Phase, g.Reason = Closed, ReasonBudget
		g.Until, g.Wait = now.Add(left), left
	}
	return g
}

// Read takes in what the answer to a read said: with the limit of the creates,
// or while that is not known, it is their budget that it draws on.
func (g Gate) Read(now time.Time, left time.Duration, r Rate) (Gate, bool) {
	was := g
	switch {
	case r.Limit <= 0:
		return g, false
	case g.Limit != 0 && g.Limit != r.Limit:
		g.Shared = false
		return g, g != was
	}
	g.Shared = true
	if g.Phase == Open || g.Phase == Metered {
		g = g.observed(now, left, r)
	}
	return g, g != was
}

// Take hands out up to n calls of a metered gate and returns how many. With
// the last one of a window whose end is known the gate closes until then.
func (g Gate) Take(now time.Time, left time.Duration, n int) (Gate, int) {
	if g.Phase == Closed && g.Reason == ReasonBudget && left <= 0 || g.Phase == Metered && g.Wait > 0 && left <= 0 {
		// A new window; its first answer will say when it ends.
		g.Phase, g.Used, g.Until, g.Wait, g.Reason, g.Source = Metered, 0, time.Time{}, 0, "", ""
		g.Window++
	}
	if g.Phase != Metered {
		return g, 0
	}
	n = min(n, max(g.Budget-g.Used, 0))
	g.Used += n
	return g.shutIfSpent(now, left), n
}

// Takeable reports whether Take could hand anything out.
func (g Gate) Takeable(left time.Duration) bool {
	next, n := g.Take(time.Time{}, left, 1)
	return n > 0 || next.Phase != g.Phase
}

// Sent counts calls that were on their way when the gate began to be metered.
// Some of them may be counted already: too many is the safe side.
func (g Gate) Sent(window, n int) (Gate, bool) {
	if g.Phase != Metered || g.Window != window || n <= 0 {
		return g, false
	}
	g.Used = min(g.Used+n, max(g.Budget, g.Used))
	return g, true
}

// GiveBack returns calls that were handed out in the present window and will
// not be sent. After a 429 they correct what the window is believed to hold.
func (g Gate) GiveBack(window, n int) (Gate, bool) {
	if g.Window != window || n <= 0 {
		return g, false
	}
	switch {
	case g.Phase == Metered:
		g.Used = max(g.Used-n, 0)
	case g.Phase == Closed && g.Reason == ReasonThrottled && g.Used > 1:
		// Only a create's 429 has corrected the budget; a read's has not.
		corrected := g.Budget == g.within(g.Used)
		g.Used = max(g.Used-n, 1)
		if corrected {
			g.Budget = g.within(g.Used)
		}
	default:
		return g, false
	}
	return g, true
}
