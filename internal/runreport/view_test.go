package runreport

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPercentile(t *testing.T) {
	t.Parallel()

	ten := make([]time.Duration, 10)
	for i := range ten {
		ten[i] = time.Duration(i + 1)
	}
	for _, test := range []struct {
		sorted []time.Duration
		p      int
		want   time.Duration
	}{
		{ten, 50, 5}, {ten, 90, 9}, {ten, 91, 10}, {ten, 99, 10}, {ten, 100, 10}, {ten, 0, 1}, {ten[:1], 50, 1}, {ten[:3], 99, 3},
	} {
		if got := percentile(test.sorted, test.p); got != test.want {
			t.Errorf("p%d of %v is %d, want %d", test.p, test.sorted, got, test.want)
		}
	}
}

func took(ms ...int) []Order {
	var all []Order
	for _, n := range ms {
		all = append(all, Order{Class: "c", Took: time.Duration(n) * time.Millisecond})
	}
	return all
}

func TestLatencies(t *testing.T) {
	t.Parallel()

	orders := append(took(30, 10, 20), Order{Took: time.Hour}, Order{Class: "c", Took: -1}, Order{Class: "d", Took: time.Second})
	want := []latency{
		{"d", 1, "1.00 s", "1.00 s", "1.00 s", "1.00 s"},
		{"c", 3, "20 ms", "30 ms", "30 ms", "30 ms"},
		{"all", 4, "20 ms", "1.00 s", "1.00 s", "1.00 s"},
	}
	if diff := cmp.Diff(want, latencies(orders, []string{"d", "nobody", "c"})); diff != "" {
		t.Error(diff)
	}
	if rows := latencies(nil, []string{"c"}); rows != nil {
		t.Errorf("rows without orders: %v", rows)
	}
}

func TestHistogram(t *testing.T) {
	t.Parallel()

	want := []bucket{{"up to 2 ms", 1, "50.00%"}, {"up to 50 ms", 0, "0.00%"}, {"up to 100 ms", 2, "100.00%"}, {"up to 200 ms", 1, "50.00%"}}
	if diff := cmp.Diff(want, histogram(took(100, 2, 51, 101))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]bucket{{"over 10 min", 1, "100.00%"}}, histogram(took(3_600_000))); diff != "" {
		t.Error(diff)
	}
	if rows := histogram(nil); rows != nil {
		t.Errorf("rows without orders: %v", rows)
	}
}

func TestTicks(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		span time.Duration
		want []string
	}{
		{0, []string{"0 s", "0.001 s"}},
		{2500 * time.Millisecond, []string{"0 s", "0.5 s", "1 s", "1.5 s", "2 s", "2.5 s"}},
		{14 * time.Second, []string{"0 s", "5 s", "10 s"}},
		{6 * time.Second, []string{"0 s", "2 s", "4 s", "6 s"}},
		{100 * time.Second, []string{"0 s", "20 s", "40 s", "60 s", "80 s", "100 s"}},
	} {
		var got []string
		for _, k := range (axis{noon, noon.Add(test.span)}).ticks() {
			got = append(got, k.Label)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.span, diff)
		}
	}
}

// What is outside of the axis is drawn at its ends, and nothing is too narrow
// to be seen.
func TestPlace(t *testing.T) {
	t.Parallel()

	a := axis{noon, after(1000)}
	for _, test := range []struct {
		from, to time.Time
		x, width string
	}{
		{after(250), after(750), "25.00%", "50.00%"},
		{after(-500), after(500), "0.00%", "50.00%"},
		{after(500), after(5000), "50.00%", "50.00%"},
		{after(500), time.Time{}, "50.00%", "50.00%"},
		{after(500), after(500), "50.00%", "0.40%"},
		{after(2000), after(3000), "99.60%", "0.40%"},
	} {
		if x, width := a.place(test.from, test.to); x != test.x || width != test.width {
			t.Errorf("%v to %v: at %s, %s wide; want %s, %s", test.from, test.to, x, width, test.x, test.width)
		}
	}
}

func TestLength(t *testing.T) {
	t.Parallel()

	for d, want := range map[time.Duration]string{
		-1: "–", 0: "0.0 ms", 1500 * time.Microsecond: "1.5 ms", 9990 * time.Microsecond: "10.0 ms", 120 * time.Millisecond: "120 ms",
		1290 * time.Millisecond: "1.29 s", 70 * time.Second: "70.0 s", 3 * time.Minute: "3m0s",
	} {
		if got := length(d); got != want {
			t.Errorf("length(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestChart(t *testing.T) {
	t.Parallel()

	a := axis{noon, after(1000)}
	got := a.chart(Limit{Name: "Cores", Max: 10, Readings: []Reading{{noon, 0}, {after(500), 5}, {after(900), 20}}})
	want := chart{"Cores", "20 of 10 at the end", "M0.0 100.0H500.0V50.0H900.0V0.0H1000", "M0.0 100.0H500.0V50.0H900.0V0.0H1000V100H0.0Z"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestGateSentences(t *testing.T) {
	t.Parallel()

	a := axis{noon, after(1000)}
	for want, closures := range map[string][]Closure{
		"It was open all the time.":             {},
		"It closed once, for 200 ms.":           {{From: after(100), To: after(300)}, {From: after(300), To: after(400), Probing: true}},
		"It closed 2 times, for 300 ms in all.": {{From: after(100), To: after(300)}, {From: after(900)}},
	} {
		if got := a.gate(closures).Sentence; got != want {
			t.Errorf("%v: %q, want %q", closures, got, want)
		}
	}
}
