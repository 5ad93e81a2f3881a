package fleet

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// breaker: while the API loses what it is asked, the fleet asks less and less.
func breaker(ctx context.Context, b *bench) {
	for _, variant := range []struct{ label, fault string }{
		{"answers lost", "cut-after"},
		{"5xx", "503"},
	} {
		s := setup{
			replicas: 3, concurrency: 4, api: simulator.Config{Latency: 20 * time.Millisecond},
			env: map[string]string{"WORKER_BREAKER_UNKNOWNS": "5"},
		}
		b.in(ctx, "breaker/"+variant.label, s, func(w *world) { w.breaks(variant.fault) })
	}
}

func (w *world) breaks(fault string) {
	// A fleet with a breaker comes to its third pause long before that.
	const threshold, faulty, least = 5, 45 * time.Second, 250 * time.Millisecond
	load := orders("load", 400, 1)
	w.place(load...)
	w.await("creates under load", func() bool { return len(w.sim.Creates()) > 30 })
	w.update(func(c *simulator.Config) { c.Fault = simulator.MustFault(fault) })
	since := time.Now()
	w.until(faulty, func() bool {
		_, pauses := probes(spoiled(w.sim.Creates()), least)
		return len(pauses) >= 3 || w.witness.ended() == len(load)
	})
	w.update(func(c *simulator.Config) { c.Fault = simulator.Fault{} })
	lost := spoiled(w.sim.Creates())
	burst, pauses := probes(lost, least)
	w.notef("%d creates had an unknown outcome in %s: %d at first, pauses then %s", len(lost), time.Since(since).Round(time.Second), burst, rounded(pauses))
	w.judgef(burst > 0 && burst <= threshold+w.slots(), "unknown outcomes before the first pause: %d (goal at most %d and %d in flight)",
		burst, threshold, w.slots())
	// What came after the burst and was not preceded by a pause was no probe.
	crowd := len(lost) - burst - len(pauses)
	w.judgef(crowd == 0 && len(pauses) >= 2, "pauses %d (goal at least 2), creates after the first one that were not single probes: %d (goal 0)",
		len(pauses), crowd)
	grew := len(pauses) >= 2 && pauses[len(pauses)-1] >= pauses[0]*3/2
	w.judgef(grew, "pauses grow (goal: the last at least 1.5 times the first)")
	w.until(patience, func() bool { return w.witness.count(provisioned) == len(load) })
	got := w.witness.count(provisioned)
	w.judgef(got == len(load), "provisioned in the end %d of %d", got, len(load))
	w.judgeOnce()
	w.judgeNothingLost(0)
}

// spoiled are the creates that were struck by a fault.
func spoiled(all []simulator.Create) []time.Time {
	var at []time.Time
	for _, c := range all {
		if c.Fault != "" {
			at = append(at, c.At)
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	return at
}

// probes tells the creates of the beginning from the pauses between later ones:
// a gap is a pause when it is longer than the least.
func probes(at []time.Time, least time.Duration) (burst int, pauses []time.Duration) {
	for i, t := range at {
		if i > 0 && t.Sub(at[i-1]) > least {
			pauses = append(pauses, t.Sub(at[i-1]))
		} else if pauses == nil {
			burst++
		}
	}
	return burst, pauses
}

func rounded(list []time.Duration) []time.Duration {
	short := make([]time.Duration, len(list))
	for i, d := range list {
		short[i] = d.Round(10 * time.Millisecond)
	}
	return short[:min(len(short), 12)]
}

func TestProbes(t *testing.T) {
	t.Parallel()

	var at []time.Time
	for _, ms := range []int64{0, 10, 20, 1000, 3000, 3010} {
		at = append(at, time.UnixMilli(ms))
	}
	burst, pauses := probes(at, 250*time.Millisecond)
	if want := []time.Duration{980 * time.Millisecond, 2 * time.Second}; burst != 3 || !slices.Equal(pauses, want) {
		t.Errorf("burst %d, pauses %v, want 3 and %v", burst, pauses, want)
	}
}
