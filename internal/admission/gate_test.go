package admission_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hostup/deploy-worker/internal/admission"
)

const (
	me     = "replica-1"
	second = time.Second
)

// gateStep is one transition of a gate: what it becomes, and whether that is
// said to be a change.
type gateStep struct {
	reason string
	before admission.Gate
	does   func(admission.Gate) (admission.Gate, bool)
	want   admission.Gate
	same   bool
}

func walk(t *testing.T, steps map[string]gateStep) {
	t.Helper()
	for name, tc := range steps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, changed := tc.does(tc.before)
			want := tc.want
			if tc.same {
				want = tc.before
			}
			if diff := cmp.Diff(want, got); diff != "" || changed == tc.same {
				t.Errorf("%s: changed %v, (-want, +got):\n%s", tc.reason, changed, diff)
			}
		})
	}
}

func closedGate(why admission.GateReason, wait time.Duration) admission.Gate {
	return admission.Gate{Phase: admission.Closed, Until: asked.Add(wait), Wait: wait, Reason: why, Source: me, Closures: 1}
}

// change returns g with a change.
func change(g admission.Gate, f func(*admission.Gate)) admission.Gate {
	f(&g)
	return g
}

func TestGateThrottled(t *testing.T) {
	t.Parallel()
	throttled := func(left, wait time.Duration, r admission.Rate) func(admission.Gate) (admission.Gate, bool) {
		return func(g admission.Gate) (admission.Gate, bool) { return g.Throttled(asked, left, wait, r, me) }
	}
	minute := closedGate(admission.ReasonThrottled, time.Minute)
	other := change(minute, func(g *admission.Gate) { g.Source = "replica-2" })
	walk(t, map[string]gateStep{
		"Open":     {"the first 429", admission.Gate{}, throttled(0, time.Minute, admission.Rate{}), minute, false},
		"OpenRate": {"it says how many", admission.Gate{}, throttled(0, time.Minute, admission.Rate{Limit: 30}), change(minute, func(g *admission.Gate) { g.Limit, g.Budget = 30, 30 }), false},
		"Metered": {
			"the last that was handed out did not fit",
			admission.Gate{Phase: admission.Metered, Budget: 50, Used: 21, Window: 3, Trickle: 2},
			throttled(0, time.Minute, admission.Rate{}),
			change(minute, func(g *admission.Gate) { g.Budget, g.Used, g.Window = 20, 20, 3 }), false,
		},
		"MeteredBeyondLimit": {
			"never beyond what is documented",
			admission.Gate{Phase: admission.Metered, Budget: 50, Used: 41, Limit: 30},
			throttled(0, time.Minute, admission.Rate{}),
			change(minute, func(g *admission.Gate) { g.Budget, g.Used, g.Limit = 30, 40, 30 }), false,
		},
		"Probe": {
			"a probe says when, not how many",
			admission.Gate{Phase: admission.Probing, Wait: second, Budget: 20, Used: 1, Closures: 2, Reason: admission.ReasonThrottled},
			throttled(second, time.Minute, admission.Rate{}),
			change(minute, func(g *admission.Gate) { g.Budget, g.Closures = 20, 3 }), false,
		},
		"Late": {
			"one that was on its way: later and one fewer, but the same closure",
			change(other, func(g *admission.Gate) { g.Budget, g.Used = 20, 20 }),
			throttled(10*second, time.Minute, admission.Rate{}),
			change(minute, func(g *admission.Gate) { g.Budget, g.Used = 19, 19 }), false,
		},
		"LateAndShorter": {
			"it never opens sooner",
			change(other, func(g *admission.Gate) { g.Budget, g.Used = 20, 20 }),
			throttled(30*second, 10*second, admission.Rate{}),
			change(other, func(g *admission.Gate) { g.Budget, g.Used = 19, 19 }), false,
		},
		"LateNothingCounted": {"nothing to correct, nothing longer", other, throttled(30*second, 30*second, admission.Rate{}), admission.Gate{}, true},
		"LastOne":            {"a budget of one is never less", change(other, func(g *admission.Gate) { g.Budget, g.Used = 1, 1 }), throttled(30*second, second, admission.Rate{}), admission.Gate{}, true},
		"BehindBudget": {
			"a 429 while the window is used up",
			change(closedGate(admission.ReasonBudget, 10*second), func(g *admission.Gate) { g.Closures, g.Budget, g.Used = 0, 20, 20 }),
			throttled(5*second, time.Minute, admission.Rate{}),
			change(minute, func(g *admission.Gate) { g.Closures, g.Budget, g.Used = 0, 20, 20 }), false,
		},
		"Over": {"closed again after its end", minute, throttled(0, 2*time.Minute, admission.Rate{}), change(closedGate(admission.ReasonThrottled, 2*time.Minute), func(g *admission.Gate) { g.Closures = 2 }), false},
	})
}

func TestGateUnknown(t *testing.T) {
	t.Parallel()
	pause := func(n int) time.Duration { return time.Duration(n) * time.Minute }
	unknown := func(left time.Duration, threshold int, probe bool) func(admission.Gate) (admission.Gate, bool) {
		return func(g admission.Gate) (admission.Gate, bool) {
			return g.Unknown(asked, left, threshold, probe, pause, me)
		}
	}
	probing := admission.Gate{Phase: admission.Probing, Wait: second, Source: me, Closures: 2, Reason: admission.ReasonUnknowns}
	walk(t, map[string]gateStep{
		"First":       {"counted", admission.Gate{}, unknown(0, 3, false), admission.Gate{Unknowns: 1}, false},
		"Last":        {"the third in a row", admission.Gate{Unknowns: 2}, unknown(0, 3, false), change(closedGate(admission.ReasonUnknowns, time.Minute), func(g *admission.Gate) { g.Unknowns = 3 }), false},
		"OnlyOne":     {"a threshold of one", admission.Gate{}, unknown(0, 1, false), change(closedGate(admission.ReasonUnknowns, time.Minute), func(g *admission.Gate) { g.Unknowns = 1 }), false},
		"Late":        {"on its way when the gate closed", closedGate(admission.ReasonUnknowns, time.Minute), unknown(second, 3, false), admission.Gate{}, true},
		"Probe":       {"one of a probe is enough, and the pause grows", probing, unknown(second, 3, true), change(closedGate(admission.ReasonUnknowns, 3*time.Minute), func(g *admission.Gate) { g.Closures, g.Unknowns = 3, 1 }), false},
		"Off":         {"never closes", admission.Gate{}, unknown(0, 0, false), admission.Gate{}, true},
		"OffProbe":    {"but the probe comes back", probing, unknown(second, 0, true), change(closedGate(admission.ReasonUnknowns, 0), func(g *admission.Gate) { g.Closures = 2 }), false},
		"OffNoProbe":  {"of somebody else", change(probing, func(g *admission.Gate) { g.Source = "replica-2" }), unknown(second, 0, true), admission.Gate{}, true},
		"Metered":     {"counted beside the budget", admission.Gate{Phase: admission.Metered, Budget: 9, Used: 4}, unknown(0, 3, false), admission.Gate{Phase: admission.Metered, Budget: 9, Used: 4, Unknowns: 1}, false},
		"NegativeOff": {"as zero", admission.Gate{}, unknown(0, -1, false), admission.Gate{}, true},
	})
}

func TestGateProbe(t *testing.T) {
	t.Parallel()
	probe := func(left time.Duration) func(admission.Gate) (admission.Gate, bool) {
		return func(g admission.Gate) (admission.Gate, bool) { return g.Probe(asked, left, time.Minute, me) }
	}
	out := admission.Gate{Phase: admission.Probing, Until: asked.Add(time.Minute), Wait: time.Minute, Source: me}
	used := admission.Gate{Phase: admission.Metered, Budget: 5, Used: 5, Window: 2, Trickle: 1}
	walk(t, map[string]gateStep{
		"Open":    {"nobody has to", admission.Gate{}, probe(0), admission.Gate{}, true},
		"Closed":  {"not yet", closedGate(admission.ReasonThrottled, time.Minute), probe(1), admission.Gate{}, true},
		"Over":    {"one in a new window", change(closedGate(admission.ReasonThrottled, time.Minute), func(g *admission.Gate) { g.Used, g.Window, g.Trickle = 9, 4, 3 }), probe(0), change(out, func(g *admission.Gate) { g.Used, g.Window, g.Closures, g.Reason = 1, 5, 1, admission.ReasonThrottled }), false},
		"Budget":  {"a window that has an end needs none", closedGate(admission.ReasonBudget, time.Minute), probe(0), admission.Gate{}, true},
		"Second":  {"one is out", out, probe(1), admission.Gate{}, true},
		"GivenUp": {"the first took too long", change(out, func(g *admission.Gate) { g.Source, g.Used, g.Window = "replica-2", 1, 5 }), probe(0), change(out, func(g *admission.Gate) { g.Used, g.Window = 1, 5 }), false},
		"Left":    {"something is left of the budget", change(used, func(g *admission.Gate) { g.Used = 4 }), probe(0), admission.Gate{}, true},
		"Trickle": {"nobody knows when the window ends", used, probe(0), change(out, func(g *admission.Gate) { g.Budget, g.Used, g.Window, g.Trickle = 5, 6, 2, 2 }), false},
		"Known":   {"its end is known", change(used, func(g *admission.Gate) { g.Wait = second }), probe(0), admission.Gate{}, true},
	})
}

func TestGateNeedsProbe(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		g    admission.Gate
		left time.Duration
		want bool
	}{
		"Open":          {admission.Gate{}, 0, false},
		"Closed":        {closedGate(admission.ReasonThrottled, 1), 1, false},
		"Throttled":     {closedGate(admission.ReasonThrottled, 1), 0, true},
		"Unknowns":      {closedGate(admission.ReasonUnknowns, 1), -1, true},
		"Budget":        {closedGate(admission.ReasonBudget, 1), 0, false},
		"Probing":       {admission.Gate{Phase: admission.Probing}, 1, false},
		"ProbeGivenUp":  {admission.Gate{Phase: admission.Probing}, 0, true},
		"Metered":       {admission.Gate{Phase: admission.Metered, Budget: 2, Used: 1}, 0, false},
		"UsedUp":        {admission.Gate{Phase: admission.Metered, Budget: 2, Used: 2}, 0, true},
		"UsedUpWithEnd": {admission.Gate{Phase: admission.Metered, Budget: 2, Used: 2, Wait: 1}, 1, false},
		"OtherVersion":  {admission.Gate{Phase: "of tomorrow"}, 0, false},
	} {
		if got := tc.g.NeedsProbe(tc.left); got != tc.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestGateUnsent(t *testing.T) {
	t.Parallel()
	unsent := func(g admission.Gate) (admission.Gate, bool) { return g.Unsent(asked, me) }
	out := admission.Gate{Phase: admission.Probing, Until: asked.Add(second), Wait: second, Source: me, Reason: admission.ReasonUnknowns, Used: 1, Window: 3}
	back := change(out, func(g *admission.Gate) { g.Phase, g.Until, g.Wait = admission.Closed, asked, 0 })
	walk(t, map[string]gateStep{
		"Mine":   {"another one may follow at once", out, unsent, back, false},
		"Theirs": {"another one is out already", change(out, func(g *admission.Gate) { g.Source = "replica-2" }), unsent, admission.Gate{}, true},
		"Closed": {"nothing is out", closedGate(admission.ReasonThrottled, second), unsent, admission.Gate{}, true},
		"Open":   {"nothing is out", admission.Gate{}, unsent, admission.Gate{}, true},
		"Trickle": {
			"a window that was used up needs a probe again, and goes on being counted",
			change(out, func(g *admission.Gate) { g.Reason, g.Budget, g.Used, g.Trickle = "", 20, 21, 2 }), unsent,
			admission.Gate{Phase: admission.Metered, Budget: 20, Used: 21, Trickle: 1, Window: out.Window, Closures: out.Closures},
			false,
		},
	})
	if again, _ := unsent(out); !again.NeedsProbe(0) {
		t.Error("after a probe that never left no other one may be sent")
	}
}

func TestGateAnswered(t *testing.T) {
	t.Parallel()
	answered := func(left time.Duration, probe bool, r admission.Rate) func(admission.Gate) (admission.Gate, bool) {
		return func(g admission.Gate) (admission.Gate, bool) { return g.Answered(asked, left, probe, r) }
	}
	none := admission.Rate{}
	out := admission.Gate{Phase: admission.Probing, Until: asked.Add(second), Wait: second, Source: me, Reason: admission.ReasonThrottled, Closures: 3, Unknowns: 2, Used: 1, Window: 7}
	metered := admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 30, Used: 10, Until: asked.Add(20 * second), Wait: time.Minute, Window: 7}
	counting := admission.Gate{Phase: admission.Metered, Budget: 1 << 16, Used: 1, Window: 7}
	walk(t, map[string]gateStep{
		"Open":        {"nothing new", admission.Gate{}, answered(0, false, none), admission.Gate{}, true},
		"OpenUnknown": {"the row of unknowns ends", admission.Gate{Unknowns: 2}, answered(0, false, none), admission.Gate{}, false},
		"OpenRate": {
			"metered from the first answer on",
			admission.Gate{},
			answered(0, false, admission.Rate{Limit: 30, Remaining: 29, Reset: time.Minute}),
			admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 30, Used: 1, Until: asked.Add(time.Minute), Wait: time.Minute},
			false,
		},
		"OpenNoReset": {"without an end", admission.Gate{}, answered(0, false, admission.Rate{Limit: 30, Remaining: 29}), admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 30, Used: 1}, false},
		"OpenOdd":     {"more left than there is", admission.Gate{}, answered(0, false, admission.Rate{Limit: 3, Remaining: 9}), admission.Gate{Phase: admission.Metered, Limit: 3, Budget: 3}, false},
		"Metered":     {"others took more", metered, answered(20*second, false, admission.Rate{Limit: 30, Remaining: 5, Reset: 20 * second}), change(metered, func(g *admission.Gate) { g.Used = 25 }), false},
		"Overtaken":   {"within a window what is left only shrinks", metered, answered(20*second, false, admission.Rate{Limit: 30, Remaining: 29, Reset: 20 * second}), admission.Gate{}, true},
		"UsedUp": {
			"the gate closes until the window's end", metered, answered(20*second, false, admission.Rate{Limit: 30, Remaining: 0, Reset: 20 * second}),
			change(metered, func(g *admission.Gate) {
				g.Phase, g.Reason, g.Used, g.Until, g.Wait = admission.Closed, admission.ReasonBudget, 30, asked.Add(20*second), 20*second
			}), false,
		},
		"LowerLimit": {"the limit was lowered", metered, answered(20*second, false, admission.Rate{Limit: 20, Remaining: 15}), change(metered, func(g *admission.Gate) { g.Limit, g.Budget = 20, 20 }), false},
		"NoEndYet": {
			"the first answer of a window tells its end; what was handed out stays counted", change(metered, func(g *admission.Gate) { g.Wait, g.Until = 0, time.Time{} }),
			answered(0, false, admission.Rate{Limit: 30, Remaining: 27, Reset: time.Minute}),
			change(metered, func(g *admission.Gate) { g.Wait, g.Until = time.Minute, asked.Add(time.Minute) }), false,
		},
		"NewWindow": {
			"the window was over, and what was handed out of it is worth nothing", metered,
			answered(0, false, admission.Rate{Limit: 30, Remaining: 29, Reset: time.Minute}),
			change(metered, func(g *admission.Gate) {
				g.Used, g.Wait, g.Until, g.Window = 1, time.Minute, asked.Add(time.Minute), 8
			}), false,
		},
		"Closed":  {"on its way when the gate closed", closedGate(admission.ReasonThrottled, second), answered(second, false, admission.Rate{Limit: 9, Remaining: 9}), admission.Gate{}, true},
		"NoProbe": {"while a probe is out only its own answer opens", change(out, func(g *admission.Gate) { g.Unknowns = 0 }), answered(second, false, none), admission.Gate{}, true},
		"ProbeRate": {
			"the probe's answer tells all", out, answered(second, true, admission.Rate{Limit: 30, Remaining: 29, Reset: time.Minute}),
			admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 30, Used: 1, Until: asked.Add(time.Minute), Wait: time.Minute, Window: 7},
			false,
		},
		"ProbeCounting": {"nobody knows how many: count", out, answered(second, true, none), counting, false},
		"ProbeUnknowns": {"there was no limit", change(out, func(g *admission.Gate) { g.Reason = admission.ReasonUnknowns }), answered(second, true, none), admission.Gate{Window: 7}, false},
		"ProbeBudget":   {"what was learned holds", change(out, func(g *admission.Gate) { g.Budget = 20 }), answered(second, true, none), change(counting, func(g *admission.Gate) { g.Budget = 20 }), false},
		"Trickle": {
			"a probe beyond the budget passed: one more, and no more yet", change(out, func(g *admission.Gate) { g.Budget, g.Used, g.Trickle = 20, 21, 1 }), answered(second, true, none),
			change(counting, func(g *admission.Gate) { g.Budget, g.Used, g.Trickle = 21, 21, 1 }), false,
		},
		"TrickleAtLimit": {
			"never beyond the documented limit", change(out, func(g *admission.Gate) { g.Limit, g.Budget, g.Used, g.Trickle = 20, 20, 21, 1 }), answered(second, true, none),
			change(counting, func(g *admission.Gate) { g.Limit, g.Budget, g.Used, g.Trickle = 20, 20, 21, 1 }), false,
		},
		"TrickleEnough": {
			"so many must be in another window", change(out, func(g *admission.Gate) { g.Budget, g.Used, g.Trickle = 20, 28, 8 }), answered(second, true, none),
			change(counting, func(g *admission.Gate) { g.Budget, g.Window = 40, 8 }), false,
		},
		"TrickleForGood": {
			"a budget that is never refused means nothing", change(out, func(g *admission.Gate) { g.Budget, g.Used, g.Trickle = 1<<15+1, 1<<15+9, 8 }), answered(second, true, none),
			admission.Gate{Window: 8},
			false,
		},
	})
}

func TestGateRead(t *testing.T) {
	t.Parallel()
	read := func(left time.Duration, r admission.Rate) func(admission.Gate) (admission.Gate, bool) {
		return func(g admission.Gate) (admission.Gate, bool) { return g.Read(asked, left, r) }
	}
	metered := admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 30, Used: 10, Wait: time.Minute, Shared: true}
	walk(t, map[string]gateStep{
		"Silent":  {"it says nothing", admission.Gate{}, read(0, admission.Rate{Remaining: 3}), admission.Gate{}, true},
		"Unknown": {"taken for the same until a create says otherwise", admission.Gate{}, read(0, admission.Rate{Limit: 30, Remaining: 28}), admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 30, Used: 2, Shared: true}, false},
		"Same":    {"draws on the same budget", metered, read(second, admission.Rate{Limit: 30, Remaining: 8}), change(metered, func(g *admission.Gate) { g.Used = 22 }), false},
		"Other":   {"a limit of its own", metered, read(second, admission.Rate{Limit: 600, Remaining: 1}), change(metered, func(g *admission.Gate) { g.Shared = false }), false},
		"Closed":  {"does not open", change(closedGate(admission.ReasonThrottled, second), func(g *admission.Gate) { g.Limit = 30 }), read(second, admission.Rate{Limit: 30, Remaining: 30}), change(closedGate(admission.ReasonThrottled, second), func(g *admission.Gate) { g.Limit, g.Shared = 30, true }), false},
		"Probing": {"nor does it answer for the probe", admission.Gate{Phase: admission.Probing, Limit: 30, Shared: true}, read(second, admission.Rate{Limit: 30, Remaining: 30}), admission.Gate{}, true},
		"Nothing": {"nothing new", metered, read(second, admission.Rate{Limit: 30, Remaining: 25}), admission.Gate{}, true},
	})
}

func TestGateTake(t *testing.T) {
	t.Parallel()
	metered := admission.Gate{Phase: admission.Metered, Limit: 30, Budget: 30, Used: 20, Until: asked.Add(second), Wait: time.Minute, Window: 4}
	endless := change(metered, func(g *admission.Gate) { g.Until, g.Wait = time.Time{}, 0 })
	anew := func(used int) admission.Gate {
		return change(endless, func(g *admission.Gate) { g.Used, g.Window = used, 5 })
	}
	spent := change(metered, func(g *admission.Gate) {
		g.Phase, g.Reason, g.Used, g.Wait = admission.Closed, admission.ReasonBudget, 30, second
	})
	for name, tc := range map[string]struct {
		reason string
		before admission.Gate
		left   time.Duration
		n      int
		want   admission.Gate
		got    int
	}{
		"Open":         {"nothing to hand out", admission.Gate{}, 0, 5, admission.Gate{}, 0},
		"Closed":       {"closed", closedGate(admission.ReasonThrottled, second), second, 5, closedGate(admission.ReasonThrottled, second), 0},
		"Over":         {"a probe goes first", closedGate(admission.ReasonThrottled, second), 0, 5, closedGate(admission.ReasonThrottled, second), 0},
		"Probing":      {"the probe is not answered", admission.Gate{Phase: admission.Probing, Budget: 30}, second, 5, admission.Gate{Phase: admission.Probing, Budget: 30}, 0},
		"Some":         {"handed out", metered, second, 4, change(metered, func(g *admission.Gate) { g.Used = 24 }), 4},
		"TooMany":      {"as many as there are, and closed until the window's end", metered, second, 400, spent, 10},
		"Last":         {"with the last one it closes", metered, second, 10, spent, 10},
		"Spent":        {"used up", spent, 1, 5, spent, 0},
		"Endless":      {"nobody knows its end: it stays metered", endless, 0, 400, change(endless, func(g *admission.Gate) { g.Used = 30 }), 10},
		"EndlessSpent": {"used up", change(endless, func(g *admission.Gate) { g.Used = 31 }), 0, 5, change(endless, func(g *admission.Gate) { g.Used = 31 }), 0},
		"NewWindow":    {"the window was over", metered, 0, 5, anew(5), 5},
		"SpentWindow":  {"and so after one that was used up", change(spent, func(g *admission.Gate) { g.Source = me }), 0, 5, anew(5), 5},
		"None":         {"nobody wants any", metered, second, 0, metered, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, n := tc.before.Take(asked, tc.left, tc.n)
			if diff := cmp.Diff(tc.want, got); diff != "" || n != tc.got {
				t.Errorf("%s: handed out %d, want %d, (-want, +got):\n%s", tc.reason, n, tc.got, diff)
			}
			if one, n := tc.before.Take(asked, tc.left, 1); tc.before.Takeable(tc.left) != (n > 0 || one.Phase != tc.before.Phase) {
				t.Errorf("%s: Takeable is %v, one Take gives %d", tc.reason, tc.before.Takeable(tc.left), n)
			}
		})
	}
}

func TestGateSentAndGiveBack(t *testing.T) {
	t.Parallel()
	metered := admission.Gate{Phase: admission.Metered, Budget: 30, Used: 20, Window: 4}
	used := func(n int) admission.Gate { return change(metered, func(g *admission.Gate) { g.Used = n }) }
	sent := func(window, n int) func(admission.Gate) (admission.Gate, bool) {
		return func(g admission.Gate) (admission.Gate, bool) { return g.Sent(window, n) }
	}
	back := func(window, n int) func(admission.Gate) (admission.Gate, bool) {
		return func(g admission.Gate) (admission.Gate, bool) { return g.GiveBack(window, n) }
	}
	refused := func(budget, used, limit int) admission.Gate {
		return change(closedGate(admission.ReasonThrottled, second), func(g *admission.Gate) { g.Budget, g.Used, g.Limit, g.Window = budget, used, limit, 4 })
	}
	walk(t, map[string]gateStep{
		"Sent":           {"counted", metered, sent(4, 3), used(23), false},
		"SentMany":       {"not beyond the budget", metered, sent(4, 300), used(30), false},
		"SentOver":       {"more was used already", used(40), sent(4, 3), used(40), false},
		"SentBefore":     {"in another window", metered, sent(3, 3), admission.Gate{}, true},
		"SentNone":       {"none", metered, sent(4, 0), admission.Gate{}, true},
		"SentOpen":       {"nothing is counted", admission.Gate{}, sent(0, 3), admission.Gate{}, true},
		"Back":           {"taken off", metered, back(4, 3), used(17), false},
		"BackMany":       {"never negative", metered, back(4, 300), used(0), false},
		"BackBefore":     {"of another window", metered, back(3, 3), admission.Gate{}, true},
		"BackNone":       {"none", metered, back(4, 0), admission.Gate{}, true},
		"BackNegative":   {"fewer than none", metered, back(4, -2), admission.Gate{}, true},
		"BackOpen":       {"nothing is counted", admission.Gate{}, back(0, 3), admission.Gate{}, true},
		"BackRefused":    {"fewer were sent than it seemed, and yet one was refused", refused(20, 20, 0), back(4, 3), refused(17, 17, 0), false},
		"BackAll":        {"a window holds one at least", refused(20, 20, 0), back(4, 300), refused(1, 1, 0), false},
		"BackLimit":      {"never beyond the documented limit", refused(30, 40, 30), back(4, 3), refused(30, 37, 30), false},
		"BackAfterARead": {"a read was refused: the budget was not corrected and is not now", refused(30, 20, 30), back(4, 3), refused(30, 17, 30), false},
		"BackUnknowns":   {"closed for another reason", change(refused(20, 20, 0), func(g *admission.Gate) { g.Reason = admission.ReasonUnknowns }), back(4, 3), admission.Gate{}, true},
	})
}

// Whatever is told to a gate in whatever order by however many replicas, each
// with its own idea of how much of the wait is left.
func TestGateKeepsItsPromises(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const within = 30 * second
		var (
			g     admission.Gate
			now   = asked
			until = asked // when g's wait is over
			given = make(map[int]int)
			probe time.Time // until when a probe is out
		)
		wait := rapid.SampledFrom([]time.Duration{0, 1, second, 5 * second, within, time.Minute})
		who := rapid.SampledFrom([]string{"a", "b", "c"})
		rate := rapid.Custom(func(t *rapid.T) admission.Rate {
			limit := rapid.SampledFrom([]int{0, 0, 3, 10}).Draw(t, "limit")
			return admission.Rate{Limit: limit, Remaining: rapid.IntRange(0, limit).Draw(t, "remaining"), Reset: wait.Draw(t, "reset")}
		})
		left := func() time.Duration { return until.Sub(now) }
		// becomes takes a change in, as provision does.
		becomes := func(t *rapid.T, next admission.Gate) {
			was, shut := g, g.Shut(left())
			g = next
			before := until
			if g.Wait != was.Wait || !g.Until.Equal(was.Until) {
				until = now.Add(g.Wait)
			}
			if shut && (!g.Shut(left()) || until.Before(before)) {
				t.Fatalf("a closed gate was moved from +%s to +%s: %+v became %+v", before.Sub(now), until.Sub(now), was, g)
			}
			if g.Window < was.Window {
				t.Fatalf("the windows run backwards: %+v became %+v", was, g)
			}
			if g.Phase != admission.Probing {
				probe = time.Time{} // answered, or closed meanwhile
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"pass": func(t *rapid.T) { now = now.Add(wait.Draw(t, "time")) },
			"throttled": func(t *rapid.T) {
				next, _ := g.Throttled(now, left(), wait.Draw(t, "wait"), rate.Draw(t, "rate"), who.Draw(t, "who"))
				becomes(t, next)
			},
			"unknown": func(t *rapid.T) {
				pause := wait.Draw(t, "pause")
				next, _ := g.Unknown(now, left(), rapid.IntRange(0, 3).Draw(t, "threshold"), rapid.Bool().Draw(t, "probe"), func(int) time.Duration { return pause }, who.Draw(t, "who"))
				becomes(t, next)
			},
			"probe": func(t *rapid.T) {
				next, ok := g.Probe(now, left(), within, who.Draw(t, "who"))
				if ok && now.Before(probe) {
					t.Fatalf("a second probe while the first may be out for %s: %+v", probe.Sub(now), g)
				}
				becomes(t, next)
				if ok {
					probe = now.Add(within)
				}
			},
			"unsent": func(t *rapid.T) { next, _ := g.Unsent(now, who.Draw(t, "who")); becomes(t, next) },
			"answered": func(t *rapid.T) {
				next, _ := g.Answered(now, left(), rapid.Bool().Draw(t, "probe"), rate.Draw(t, "rate"))
				becomes(t, next)
			},
			"read": func(t *rapid.T) { next, _ := g.Read(now, left(), rate.Draw(t, "rate")); becomes(t, next) },
			"sent": func(t *rapid.T) {
				next, _ := g.Sent(rapid.IntRange(g.Window-1, g.Window).Draw(t, "window"), rapid.IntRange(0, 4).Draw(t, "n"))
				becomes(t, next)
			},
			"take": func(t *rapid.T) {
				next, n := g.Take(now, left(), rapid.IntRange(0, 12).Draw(t, "n"))
				if n < 0 || n > 0 && next.Used > next.Budget {
					t.Fatalf("handed out %d: %+v became %+v", n, g, next)
				}
				becomes(t, next)
				given[g.Window] += n
				if n > 0 && g.Used < n {
					t.Fatalf("handed out %d, counted %d", n, g.Used)
				}
			},
			"give back": func(t *rapid.T) {
				// Only what was handed out comes back, but of any window.
				window := rapid.IntRange(max(g.Window-1, 0), g.Window).Draw(t, "window")
				n := rapid.IntRange(0, given[window]).Draw(t, "n")
				given[window] -= n
				next, _ := g.GiveBack(window, n)
				if window != g.Window && next != g {
					t.Fatalf("%d of window %d were given back to %d: %+v", n, window, g.Window, next)
				}
				becomes(t, next)
			},
			"": func(t *rapid.T) {
				if g.Used < 0 || g.Budget < 0 || g.Trickle < 0 || g.Unknowns < 0 || g.Limit < 0 || g.Wait < 0 {
					t.Fatalf("something is negative: %+v", g)
				}
				if g.Phase == admission.Metered && given[g.Window] > g.Used {
					t.Fatalf("%d were handed out of window %d, which counts %d", given[g.Window], g.Window, g.Used)
				}
				if g.NeedsProbe(left()) && g.Takeable(left()) {
					t.Fatalf("a probe and permits at once: %+v", g)
				}
			},
		})
	})
}
