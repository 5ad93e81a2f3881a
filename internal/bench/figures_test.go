package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// quantile returns the value below which the part q of the values lies, 0 of
// none.
func quantile[T ~int64 | ~float64](of []T, q float64) T {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// series are the repetitions of one figure.
type series []float64

func (s series) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[len(sorted)/2] + sorted[(len(sorted)-1)/2]) / 2
}

func (s series) mean() float64 {
	sum := 0.0
	for _, v := range s {
		sum += v
	}
	return sum / float64(len(s))
}

// over divides repetition by repetition: what was measured in the same minute
// has the same noise.
func (s series) over(by series) series {
	r := make(series, min(len(s), len(by)))
	for i := range r {
		r[i] = s[i] / by[i]
	}
	return r
}

// spread renders the median with the smallest and the largest value.
func (s series) spread(format string) string {
	if len(s) == 0 || math.IsNaN(s.median()) {
		return "–"
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+")", s.median(), slices.Min(s), slices.Max(s))
}

// goal is a bound on a figure.
type goal struct {
	bound float64
	least bool // at least, otherwise at most
}

func atLeast(bound float64) goal { return goal{bound, true} }
func atMost(bound float64) goal  { return goal{bound, false} }

// missed is by which part of the bound a figure misses the goal, 0 when it is
// met. A figure that is none misses it by all.
func (g goal) missed(got float64) float64 {
	by := got/g.bound - 1
	if g.least {
		by = 1 - got/g.bound
	}
	if math.IsNaN(by) {
		return 1
	}
	return max(0, by)
}

func (g goal) String() string {
	word := "at most"
	if g.least {
		word = "at least"
	}
	return fmt.Sprintf("%s %.4g", word, g.bound)
}

// verdict says whether a figure meets the goal.
func (g goal) verdict(got float64) (text string, met bool) {
	by := g.missed(got)
	if by == 0 {
		return "met", true
	}
	return fmt.Sprintf("missed by %.1f %%", 100*by), false
}

// list is a flag with several values, separated by commas.
type list[T any] struct {
	values []T
	parse  func(string) (T, error)
}

func (l *list[T]) String() string { return fmt.Sprint(l.values) }

func (l *list[T]) Set(text string) error {
	l.values = nil
	for item := range strings.SplitSeq(text, ",") {
		v, err := l.parse(item)
		if err != nil {
			return err
		}
		l.values = append(l.values, v)
	}
	return nil
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	of := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := quantile(of, q); got != want {
			t.Errorf("quantile %v of %v is %v, want %v", q, of, got, want)
		}
	}
	if got := quantile([]float64(nil), 0.5); got != 0 {
		t.Errorf("quantile of nothing is %v", got)
	}
	if of[0] != 5 {
		t.Error("quantile has sorted its caller's values")
	}
}

func TestSeries(t *testing.T) {
	t.Parallel()
	if got := (series{4, 1, 2, 3}).median(); got != 2.5 {
		t.Errorf("median %v, want 2.5", got)
	}
	if got := (series{1, 1, 7}).mean(); got != 3 {
		t.Errorf("mean %v, want 3", got)
	}
	if got := (series{2, 9}).over(series{4, 3}); !slices.Equal(got, series{0.5, 3}) {
		t.Errorf("ratios %v", got)
	}
	if got := (series{2, 1, 3}).spread("%.0f"); got != "2 (1–3)" {
		t.Errorf("spread %q", got)
	}
	if got := series(nil).spread("%.0f"); got != "–" {
		t.Errorf("spread of nothing %q", got)
	}
}

func TestGoal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		goal goal
		got  float64
		want string
	}{
		{atLeast(0.65), 0.65, "met"},
		{atLeast(0.65), 0.70, "met"},
		{atLeast(0.80), 0.60, "missed by 25.0 %"},
		{atMost(1.7), 1.7, "met"},
		{atMost(1.7), 0.1, "met"},
		{atMost(2), 2.5, "missed by 25.0 %"},
		{atMost(2), math.NaN(), "missed by 100.0 %"},
		{atLeast(2), math.NaN(), "missed by 100.0 %"},
	} {
		text, met := c.goal.verdict(c.got)
		if text != c.want || met != (c.want == "met") {
			t.Errorf("%v %v: %q, %t; want %q", c.got, c.goal, text, met, c.want)
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	l := list[time.Duration]{parse: time.ParseDuration}
	if err := l.Set("0s,20ms"); err != nil || !slices.Equal(l.values, []time.Duration{0, 20 * time.Millisecond}) {
		t.Errorf("%v, %v", l.values, err)
	}
	if err := l.Set("0s,x"); err == nil {
		t.Error("a word was taken for a duration")
	}
}
