package admission_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hostup/deploy-worker/internal/admission"
)

func TestBrakeTransitions(t *testing.T) {
	t.Parallel()
	then, now := asked, asked.Add(time.Hour)
	on := admission.Brake{On: true, By: "ann", Reason: "first", At: then, Revision: 7}
	off := admission.Brake{By: "ann", Reason: "checked", At: then, Doubles: []string{"vps_1"}, Revision: 8}
	set := func(b admission.Brake) (admission.Brake, bool) { return b.Set(now, "bob", "second") }
	lift := func(b admission.Brake) (admission.Brake, bool) { return b.Lift(now, "bob", "second") }
	suspect := func(ids ...string) func(admission.Brake) (admission.Brake, bool) {
		return func(b admission.Brake) (admission.Brake, bool) { return b.Suspect(now, "bob", "second", ids) }
	}
	doubles := func(b admission.Brake, ids ...string) admission.Brake {
		b.Doubles = ids
		return b
	}
	setNow := admission.Brake{On: true, By: "bob", Reason: "second", At: now}
	tests := map[string]struct {
		reason  string
		before  admission.Brake
		does    func(admission.Brake) (admission.Brake, bool)
		want    admission.Brake
		changed bool
	}{
		"Set":         {"a new brake", admission.Brake{}, set, setNow, true},
		"SetAgain":    {"the first reason is kept", on, set, on, false},
		"SetLifted":   {"what was suspected is remembered", off, set, admission.Brake{On: true, By: "bob", Reason: "second", At: now, Doubles: []string{"vps_1"}, Revision: 8}, true},
		"Lift":        {"who lifts it says why", on, lift, admission.Brake{By: "bob", Reason: "second", At: now, Revision: 7}, true},
		"LiftDoubles": {"so that the same do not set it again", doubles(on, "vps_1"), lift, admission.Brake{By: "bob", Reason: "second", At: now, Doubles: []string{"vps_1"}, Revision: 7}, true},
		"LiftNever":   {"it was never on", admission.Brake{}, lift, admission.Brake{}, false},
		"LiftAgain":   {"who lifted it first is kept", off, lift, off, false},
		"Suspect":     {"new doubles set it", admission.Brake{}, suspect("vps_1", "vps_2"), doubles(setNow, "vps_1", "vps_2"), true},
		"SuspectSame": {"a person has lifted it for these", off, suspect("vps_1"), off, false},
		"SuspectMore": {
			"one that is new is enough", off, suspect("vps_1", "vps_2"),
			admission.Brake{On: true, By: "bob", Reason: "second", At: now, Doubles: []string{"vps_1", "vps_2"}, Revision: 8},
			true,
		},
		"SuspectOn":    {"the reason is kept, the doubles are noted", on, suspect("vps_1"), doubles(on, "vps_1"), true},
		"SuspectTwice": {"one server is noted once", admission.Brake{}, suspect("vps_1", "vps_1"), doubles(setNow, "vps_1"), true},
		"SuspectNone":  {"nothing is suspected", on, suspect(), on, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, changed := tc.does(tc.before)
			if diff := cmp.Diff(tc.want, got); diff != "" || changed != tc.changed {
				t.Errorf("%s: changed %v, (-want, +got):\n%s", tc.reason, changed, diff)
			}
		})
	}
}

// Compare-and-set calls a change again where somebody was faster, so no change
// may write into what it was given.
func TestSuspectLeavesWhatItWasGiven(t *testing.T) {
	t.Parallel()
	shared := make([]string, 1, 4)
	shared[0] = "vps_1"
	b := admission.Brake{Doubles: shared}
	first, _ := b.Suspect(asked, "x", "y", []string{"vps_2"})
	second, _ := b.Suspect(asked, "x", "y", []string{"vps_3"})
	if diff := cmp.Diff([][]string{{"vps_1"}, {"vps_1", "vps_2"}, {"vps_1", "vps_3"}}, [][]string{b.Doubles, first.Doubles, second.Doubles}); diff != "" {
		t.Error(diff)
	}
}

func TestCapsSet(t *testing.T) {
	t.Parallel()
	for caps, want := range map[admission.Caps]bool{{}: false, {CreatesPerHour: 1}: true, {HourlyCost: 0.01}: true, {CreatesPerHour: -1, HourlyCost: -1}: false} {
		if got := caps.Set(); got != want {
			t.Errorf("%+v: got %v", caps, got)
		}
	}
}

// allowed is how many purchases one after the other the caps allow.
func allowed(s admission.Spend, caps admission.Caps, most int, next func(i int) admission.Purchase) (int, admission.Cap) {
	for i := range most {
		after, exceeded := s.Enter(next(i), caps)
		if exceeded != admission.CapNone {
			return i, exceeded
		}
		s = after
	}
	return most, admission.CapNone
}

// The caps are exact: what they name is allowed and nothing more.
func TestCapsAreExact(t *testing.T) {
	t.Parallel()
	at := func(step time.Duration, price float64) func(int) admission.Purchase {
		return func(i int) admission.Purchase {
			return admission.Purchase{At: asked.Add(time.Duration(i) * step), Price: price}
		}
	}
	tests := map[string]struct {
		reason string
		caps   admission.Caps
		next   func(int) admission.Purchase
		want   int
		then   admission.Cap
	}{
		"None":      {"no cap", admission.Caps{}, at(0, 1e6), 500, admission.CapNone},
		"Creates":   {"at once", admission.Caps{CreatesPerHour: 7}, at(0, 1), 7, admission.CapCreates},
		"OneCreate": {"the lowest cap", admission.Caps{CreatesPerHour: 1}, at(time.Second, 1), 1, admission.CapCreates},
		"Spread":    {"spread over the hour", admission.Caps{CreatesPerHour: 60}, at(59*time.Second, 1), 60, admission.CapCreates},
		"Slow":      {"as fast as the cap allows, by whole buckets", admission.Caps{CreatesPerHour: 61}, at(time.Minute, 1), 500, admission.CapNone},
		"Cost":      {"tenths do not add up exactly", admission.Caps{HourlyCost: 10}, at(0, 0.1), 100, admission.CapCost},
		"CostThird": {"nor do thirds", admission.Caps{HourlyCost: 100}, at(time.Second, 1.0/3), 300, admission.CapCost},
		"CostOver":  {"a server that alone is too dear", admission.Caps{HourlyCost: 1}, at(0, 1.01), 0, admission.CapCost},
		"Free":      {"what costs nothing", admission.Caps{HourlyCost: 1}, at(0, 0), 500, admission.CapNone},
		"Both":      {"the cap of the creates comes first", admission.Caps{CreatesPerHour: 3, HourlyCost: 3}, at(0, 1), 3, admission.CapCreates},
		"CostFirst": {"the other one was reached", admission.Caps{CreatesPerHour: 3, HourlyCost: 2}, at(0, 1), 2, admission.CapCost},
		"CostDay":   {"the cost is that of a day", admission.Caps{HourlyCost: 23}, at(time.Hour, 1), 23, admission.CapCost},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, exceeded := allowed(admission.Spend{}, tc.caps, 500, tc.next)
			if n != tc.want || exceeded != tc.then {
				t.Errorf("%s: %d were allowed and then %q, want %d and %q", tc.reason, n, exceeded, tc.want, tc.then)
			}
		})
	}
}

// counted is how many creates the caps count at a time.
func counted(s admission.Spend, at time.Time) int {
	for n := range 10_000 {
		if _, exceeded := s.Enter(admission.Purchase{At: at}, admission.Caps{CreatesPerHour: n + 1}); exceeded == admission.CapNone {
			return n
		}
	}
	return -1
}

// costs is the same for the prices of a day, from the buckets that are kept.
func costs(s admission.Spend, at time.Time) float64 {
	next, _ := s.Enter(admission.Purchase{At: at}, admission.Caps{})
	var sum float64
	for _, b := range next.Costs {
		sum += b.Sum
	}
	return sum
}

// A bucket counts until all of it is too old, to the nanosecond.
func TestSpendBucketEdges(t *testing.T) {
	t.Parallel()
	minute := asked.Truncate(time.Minute)
	quarter := asked.Truncate(15 * time.Minute)
	for name, tc := range map[string]struct {
		reason  string
		bought  time.Time
		at      time.Time
		creates int
		costs   float64
	}{
		"Now":                {"at once", minute, minute, 1, 2},
		"AnHour":             {"at the end of the hour", minute, minute.Add(time.Hour), 1, 2},
		"LastOfTheBucket":    {"bought at the bucket's end, an hour ago", minute.Add(time.Minute - 1), minute.Add(time.Minute + time.Hour - 1), 1, 2},
		"Dropped":            {"all of the bucket is an hour old", minute, minute.Add(time.Minute + time.Hour), 0, 2},
		"ADay":               {"a day later", quarter, quarter.Add(24 * time.Hour), 0, 2},
		"LastOfTheQuarter":   {"bought at the quarter's end, a day ago", quarter.Add(15*time.Minute - 1), quarter.Add(15*time.Minute + 24*time.Hour - 1), 0, 2},
		"DroppedAfterTheDay": {"all of the quarter is a day old", quarter, quarter.Add(15*time.Minute + 24*time.Hour), 0, 0},
		"InAnotherZone":      {"a zone changes nothing", minute.In(time.FixedZone("x", 5*3600+1800)), minute.Add(time.Hour), 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := admission.Spend{}.Enter(admission.Purchase{At: tc.bought, Price: 2}, admission.Caps{})
			if got := counted(s, tc.at); got != tc.creates {
				t.Errorf("%s: %d creates are counted, want %d", tc.reason, got, tc.creates)
			}
			if got := costs(s, tc.at); got != tc.costs {
				t.Errorf("%s: costs of %v are counted, want %v", tc.reason, got, tc.costs)
			}
		})
	}
}

// What is too old is dropped from the row, which so stays small for ever.
func TestSpendStaysSmall(t *testing.T) {
	t.Parallel()
	var s admission.Spend
	for i := range 20_000 {
		s, _ = s.Enter(admission.Purchase{At: asked.Add(time.Duration(i) * 17 * time.Second), Price: 1}, admission.Caps{})
		if c, d := len(s.Creates), len(s.Costs); c > 62 || d > 98 {
			t.Fatalf("after %d purchases the row has %d and %d buckets", i, c, d)
		}
	}
}

func TestSpendRemove(t *testing.T) {
	t.Parallel()
	buy := func(after time.Duration) admission.Purchase {
		return admission.Purchase{At: asked.Add(after), Price: 0.1}
	}
	enter := func(s admission.Spend, ps ...admission.Purchase) admission.Spend {
		for _, p := range ps {
			s, _ = s.Enter(p, admission.Caps{})
		}
		return s
	}
	now := asked.Add(30 * time.Minute)
	for name, tc := range map[string]struct {
		reason  string
		spend   admission.Spend
		creates int
		costs   float64
	}{
		"Entered":        {"it bought nothing", enter(admission.Spend{}, buy(0)).Remove(buy(0)), 0, 0},
		"OneOfTwo":       {"the other one is left", enter(admission.Spend{}, buy(0), buy(0)).Remove(buy(0)), 1, 0.1},
		"OtherBucket":    {"each from its own bucket", enter(admission.Spend{}, buy(0), buy(2*time.Minute)).Remove(buy(0)), 1, 0.1},
		"Twice":          {"never below zero", enter(admission.Spend{}, buy(0), buy(20*time.Minute)).Remove(buy(0)).Remove(buy(0)), 1, 0.1},
		"NeverEntered":   {"nothing to take out", admission.Spend{}.Remove(buy(0)), 0, 0},
		"BeforeAnew":     {"what was entered before the counts began anew is not in them", enter(enter(admission.Spend{}, buy(0)).Anew(asked.Add(time.Second)), buy(2*time.Second)).Remove(buy(0)), 1, 0.1},
		"AfterAnew":      {"what was entered after is", enter(enter(admission.Spend{}, buy(0)).Anew(asked.Add(time.Second)), buy(2*time.Second)).Remove(buy(2 * time.Second)), 0, 0},
		"AnewAlone":      {"a person has decided", enter(admission.Spend{}, buy(0), buy(1)).Anew(asked.Add(time.Second)), 0, 0},
		"AnewIsRecalled": {"also after more purchases", enter(admission.Spend{}.Anew(asked.Add(time.Minute)), buy(2*time.Minute), buy(3*time.Minute)).Remove(buy(30 * time.Second)), 2, 0.2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := counted(tc.spend, now); got != tc.creates {
				t.Errorf("%s: %d creates are counted, want %d", tc.reason, got, tc.creates)
			}
			if got := costs(tc.spend, now); math.Abs(got-tc.costs) > 1e-9 {
				t.Errorf("%s: costs of %v are counted, want %v", tc.reason, got, tc.costs)
			}
		})
	}
}

// Enter and Remove are called again where somebody was faster, so they must not
// write into the row that they were given.
func TestSpendLeavesWhatItWasGiven(t *testing.T) {
	t.Parallel()
	p := admission.Purchase{At: asked, Price: 1}
	s, _ := admission.Spend{}.Enter(p, admission.Caps{})
	for range 3 {
		_, _ = s.Enter(p, admission.Caps{})
		_ = s.Remove(p)
	}
	if counted(s, asked) != 1 || costs(s, asked) != 1 {
		t.Errorf("the row became %+v", s)
	}
}

// Whatever is bought and taken out again when: what is counted is at least what
// was bought in the last 60 minutes and at most that of the last 61; and the
// same for the prices of 24 hours and a quarter of an hour more.
func TestSpendAgainstItsReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s admission.Spend
		var bought []admission.Purchase
		now := asked
		// Mostly steps around the buckets' edges.
		tick := rapid.OneOf(
			rapid.SampledFrom([]time.Duration{0, 1, time.Second, time.Minute - 1, time.Minute, time.Minute + 1, 15 * time.Minute, time.Hour - 1, time.Hour, time.Hour + time.Minute}),
			rapid.Map(rapid.Int64Range(0, int64(3*time.Hour)), func(n int64) time.Duration { return time.Duration(n) }),
		)
		t.Repeat(map[string]func(*rapid.T){
			"buy": func(t *rapid.T) {
				now = now.Add(tick.Draw(t, "time"))
				p := admission.Purchase{At: now, Price: float64(rapid.IntRange(0, 8).Draw(t, "eighths")) / 8}
				s, _ = s.Enter(p, admission.Caps{})
				bought = append(bought, p)
			},
			"remove": func(t *rapid.T) {
				if len(bought) == 0 {
					t.Skip("nothing bought")
				}
				i := rapid.IntRange(0, len(bought)-1).Draw(t, "which")
				s = s.Remove(bought[i])
				bought = append(bought[:i:i], bought[i+1:]...)
			},
			"anew": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rarely") > 0 {
					t.Skip("rarely")
				}
				now = now.Add(1)
				s, bought = s.Anew(now), nil
			},
			"": func(t *rapid.T) {
				within := func(span time.Duration) (n int, price float64) {
					for _, p := range bought {
						if p.At.After(now.Add(-span)) {
							n++
							price += p.Price
						}
					}
					return n, price
				}
				least, _ := within(time.Hour)
				most, _ := within(61 * time.Minute)
				if got := counted(s, now); got < least || got > most {
					t.Fatalf("%d creates are counted, of the last 60 min there are %d, of 61 min %d", got, least, most)
				}
				_, low := within(24 * time.Hour)
				_, high := within(24*time.Hour + 15*time.Minute)
				if got := costs(s, now); got < low || got > high {
					t.Fatalf("costs of %v are counted, of the last 24 h there are %v, of 24 h 15 min %v", got, low, high)
				}
			},
		})
	})
}
