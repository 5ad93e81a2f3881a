package fleet

import (
	"context"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// throttle: a real limiter, and more orders than fit. The fleet has to use what
// it is allowed, and to be refused at most once in a window.
func throttle(ctx context.Context, b *bench) {
	const limit = 40
	window, complete := 4*time.Second, 8
	if b.short {
		window, complete = 3*time.Second, 3
	}
	for _, variant := range []struct {
		label string
		rate  simulator.Rate
	}{
		{"headers", simulator.Rate{CreatesOnly: true}},
		{"quiet", simulator.Rate{CreatesOnly: true, Quiet: true}},
		{"one budget", simulator.Rate{}},
	} {
		variant.rate.Limit, variant.rate.Window = limit, window
		s := setup{
			replicas: 3, concurrency: 16,
			api: simulator.Config{Rate: variant.rate, Latency: 10 * time.Millisecond},
			env: map[string]string{"WORKER_BACKOFF_MAX": "30s"},
		}
		b.in(ctx, "throttle/"+variant.label, s, func(w *world) { w.throttled(complete) })
		if b.short {
			return
		}
	}
}

// throttled measures so many complete windows after the first one.
func (w *world) throttled(complete int) {
	rate := w.api.Rate
	w.place(orders("load", rate.Limit*(complete+4), 1)...)
	// Ten times as long as it should take is a fleet that hardly works.
	w.until(10*time.Duration(complete+2)*rate.Window, func() bool { return len(w.sim.Windows()) >= complete+2 })
	all := w.sim.Windows()
	u, enough := use(all)
	if !enough {
		w.judgef(false, "only %d windows were opened, want %d", len(all), complete+2)
		return
	}
	w.notef("window 1: %d creates accepted, %d refused; then %d windows of %d requests in %s", all[0].Creates, all[0].CreatesRefused,
		u.windows, rate.Limit, rate.Window)
	w.judgef(u.share >= 0.95, "share of the allowed creates that was used: %.1f %% (goal 95 %%)", 100*u.share)
	// Headers tell the end of a window to the second, rounded up.
	w.notef("share over the time, idle between windows included: %.1f %%, idle %s a window",
		100*u.overTime, u.idle.Round(time.Millisecond))
	worst := u.worst
	if !rate.Quiet {
		worst = max(worst, all[0].CreatesRefused)
	}
	w.judgef(worst <= 1, "refused creates in the worst window: %d (goal 1), in all %d; refused reads %d", worst, u.refused, u.refusedReads)
	w.judgeOnce()
}

// usage is how a rate was used in the complete windows after the first one.
type usage struct {
	windows int
	// share is what was used of the room that reads left; overTime the same if
	// each window had opened when the one before it ended.
	share, overTime float64
	idle            time.Duration // between two windows, on average
	worst, refused  int           // creates refused in one window, and in all
	refusedReads    int
}

// use leaves out the first window, in which the fleet came up, and the last,
// which may be running.
func use(all []simulator.Window) (u usage, enough bool) {
	if len(all) < 3 {
		return u, false
	}
	counted, after := all[1:len(all)-1], all[len(all)-1]
	room, creates, reads := 0, 0, 0
	for _, v := range counted {
		room += v.Limit
		creates += v.Creates
		reads += v.Accepted - v.Creates
		u.worst = max(u.worst, v.CreatesRefused)
		u.refused += v.CreatesRefused
		u.refusedReads += v.Refused - v.CreatesRefused
	}
	u.windows = len(counted)
	window := counted[0].Ends.Sub(counted[0].Opened)
	elapsed := after.Opened.Sub(counted[0].Opened)
	u.idle = (elapsed - time.Duration(u.windows)*window) / time.Duration(u.windows)
	u.share = float64(creates) / float64(room-reads)
	u.overTime = float64(creates+reads) / (float64(counted[0].Limit) * float64(elapsed) / float64(window))
	return u, true
}

func TestUse(t *testing.T) {
	t.Parallel()

	at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
	window := func(opened float64, accepted, creates, refused, createsRefused int) simulator.Window {
		return simulator.Window{
			Opened: at(opened), Ends: at(opened + 2), Limit: 10,
			Accepted: accepted, Creates: creates, Refused: refused, CreatesRefused: createsRefused,
		}
	}
	all := []simulator.Window{window(0, 1, 1, 9, 9), window(2, 10, 8, 1, 1), window(5, 9, 9, 3, 2), window(7, 1, 1, 9, 9)}
	got, enough := use(all)
	want := usage{windows: 2, share: 17.0 / 18, overTime: 19.0 / 25, idle: 500 * time.Millisecond, worst: 2, refused: 3, refusedReads: 1}
	if got != want || !enough {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, enough := use(all[:2]); enough {
		t.Error("two windows are not enough")
	}
}
