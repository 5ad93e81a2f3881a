package fleet

import (
	"context"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// throttle: a real limiter, and more orders than fit. The fleet has to use what
// it is allowed, of the windows that were opened and of the time, and to be
// refused at most once in a window.
func throttle(ctx context.Context, b *bench) {
	const limit = 40
	for _, variant := range []struct {
		label    string
		rate     simulator.Rate
		window   time.Duration
		complete int
	}{
		// A window that begins with a request is opened late by up to a second:
		// the Date of an answer, from which its end is counted, has whole seconds.
		// So windows are longer where the share of the time is judged.
		{"headers", simulator.Rate{CreatesOnly: true}, 30 * time.Second, 3},
		{"one budget", simulator.Rate{}, 30 * time.Second, 3},
		{"quiet", simulator.Rate{CreatesOnly: true, Quiet: true}, 4 * time.Second, 8},
		{"aligned", simulator.Rate{CreatesOnly: true, Aligned: true}, 4 * time.Second, 8},
		{"aligned, quiet", simulator.Rate{CreatesOnly: true, Aligned: true, Quiet: true}, 4 * time.Second, 8},
	} {
		if b.short {
			variant.window, variant.complete = 3*time.Second, 3
		}
		variant.rate.Limit, variant.rate.Window = limit, variant.window
		s := setup{
			replicas: 3, concurrency: 16,
			api: simulator.Config{Rate: variant.rate, Latency: 10 * time.Millisecond},
			env: map[string]string{"WORKER_BACKOFF_MAX": "30s"},
		}
		b.in(ctx, "throttle/"+variant.label, s, func(w *world) { w.throttled(variant.complete) })
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
	u, enough := use(all, rate)
	if !enough {
		w.judgef(false, "only %d windows were opened, want %d", len(all), complete+2)
		return
	}
	first := "counted below"
	switch {
	case rate.Quiet:
		first = "not counted below: nobody could know the limit before it was met"
	case rate.Aligned:
		first = "its refusals are counted below: the fleet came up in the middle of it"
	case !rate.CreatesOnly:
		first = "its refusals are counted below: the fleet learned in it that reads draw on the same budget"
	}
	w.notef("window 1: %d creates accepted, %d refused; %s", all[0].Creates, all[0].CreatesRefused, first)
	w.judgef(u.share >= 0.95, "share of the allowed creates that was used: %.1f %% (goal 95 %%), %d windows of %d requests in %s",
		100*u.share, u.windows, rate.Limit, rate.Window)
	overTime := "share over the time, idle between windows included: %.1f %%%s, idle %s a window"
	if idle := u.idle.Round(time.Millisecond); rate.Quiet && !rate.Aligned || w.bench.short {
		w.notef(overTime, 100*u.overTime, "", idle)
	} else {
		w.judgef(u.overTime >= 0.95, overTime, 100*u.overTime, " (goal 95 %)", idle)
	}
	w.judgef(u.worst <= 1, "refused creates in the worst window: %d (goal 1), in all %d; refused reads %d", u.worst, u.refused, u.refusedReads)
	w.judgeOnce()
}

// usage is how a rate was used in complete windows.
type usage struct {
	windows int
	// share is what was used of the room that reads left in windows that were
	// opened; overTime what was used of the rate while time passed.
	share, overTime float64
	idle            time.Duration // between two windows, on average
	worst, refused  int           // creates refused in one window, and in all
	refusedReads    int
}

// use leaves out the last window, which may be running, and the first one where
// nobody could know the limit. Of a first one that had begun before the fleet, or
// in which it learned what draws on the budget, only the refusals count.
func use(all []simulator.Window, rate simulator.Rate) (u usage, enough bool) {
	if len(all) < 3 {
		return u, false
	}
	counted, after := all[:len(all)-1], all[len(all)-1]
	if rate.Quiet || rate.Aligned || !rate.CreatesOnly {
		counted = counted[1:]
		if !rate.Quiet {
			u.worst, u.refused = all[0].CreatesRefused, all[0].CreatesRefused
			u.refusedReads = all[0].Refused - all[0].CreatesRefused
		}
	}
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
	elapsed := after.Opened.Sub(counted[0].Opened)
	u.idle = (elapsed - time.Duration(u.windows)*rate.Window) / time.Duration(u.windows)
	u.share = float64(creates) / float64(room-reads)
	u.overTime = float64(creates+reads) / (float64(rate.Limit) * float64(elapsed) / float64(rate.Window))
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
	const length = 2 * time.Second
	for about, test := range map[string]struct {
		rate simulator.Rate
		want usage
	}{
		"the limit is said": {
			simulator.Rate{Limit: 10, Window: length, CreatesOnly: true},
			usage{windows: 3, share: 18.0 / 28, overTime: 20.0 / 35, idle: time.Second / 3, worst: 9, refused: 12, refusedReads: 1},
		},
		"the limit has to be met": {
			simulator.Rate{Limit: 10, Window: length, CreatesOnly: true, Quiet: true},
			usage{windows: 2, share: 17.0 / 18, overTime: 19.0 / 25, idle: 500 * time.Millisecond, worst: 2, refused: 3, refusedReads: 1},
		},
		"reads draw on it": {
			simulator.Rate{Limit: 10, Window: length},
			usage{windows: 2, share: 17.0 / 18, overTime: 19.0 / 25, idle: 500 * time.Millisecond, worst: 9, refused: 12, refusedReads: 1},
		},
		"the first window was running": {
			simulator.Rate{Limit: 10, Window: length, CreatesOnly: true, Aligned: true},
			usage{windows: 2, share: 17.0 / 18, overTime: 19.0 / 25, idle: 500 * time.Millisecond, worst: 9, refused: 12, refusedReads: 1},
		},
	} {
		if got, enough := use(all, test.rate); got != test.want || !enough {
			t.Errorf("%s: got %+v, want %+v", about, got, test.want)
		}
	}
	if _, enough := use(all[:2], simulator.Rate{}); enough {
		t.Error("two windows are not enough")
	}
}
