package bench

import (
	"math"
	"time"
)

// plan is what one turn consists of: a backlog that is worked off, of which the
// first part warms everything up, and then so many requests as are in work at
// once, always, which shows how long one takes.
type plan struct {
	concurrency int
	latency     time.Duration
	warm        int
	backlog     int
	window      int
}

// busy is about what either program does in a second on two cores, one request
// at a time and many; it only decides how long a turn takes.
const (
	busyAlone = 400
	busy      = 2000
)

// newPlan makes a turn measure for about so long. All parts are multiples of the
// concurrency: with a slow API the requests come in waves.
func newPlan(concurrency int, latency, length time.Duration) plan {
	rate := float64(busy)
	if concurrency == 1 {
		rate = busyAlone
	}
	if latency > 0 {
		rate = min(rate, float64(concurrency)/latency.Seconds())
	}
	waves := func(part float64) int {
		return concurrency * max(2, int(math.Round(part*rate*length.Seconds()/float64(concurrency))))
	}
	p := plan{concurrency: concurrency, latency: latency, warm: waves(0.25), window: waves(0.4)}
	p.backlog = p.warm + waves(1)
	return p
}

// figures are what one turn came to.
type figures struct {
	rate                float64 // requests a second
	client, broker, api float64 // processor time in µs a request
	p50, p99            float64 // from publish to event, in ms, with as many on their way as there are slots
	peak                float64 // most memory ever held, MiB
	allocs, allocated   float64 // objects and KiB a request, start-up included
	took                float64 // the API's own median, in ms
	beat                float64 // what a fixed piece of work took meanwhile, in µs of processor time
}

// meter is a point in time with what the three processes had used by then.
type meter struct {
	at                  time.Time
	client, broker, api time.Duration
}

func (g *stage) meter(p *process) meter {
	return meter{
		at: time.Now(), client: processorTime(p.Cmd.Process.Pid), broker: processorTime(g.broker.PID()),
		api: processorTime(g.answerer.Cmd.Process.Pid),
	}
}

// add fills in what n requests between two meters cost.
func (f *figures) add(from, to meter, n int) {
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(n) }
	f.rate = float64(n) / to.at.Sub(from.at).Seconds()
	f.client, f.broker, f.api = each(to.client-from.client), each(to.broker-from.broker), each(to.api-from.api)
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// turn lets one program do the plan on streams of its own.
func (g *stage) turn(k kind, p plan) (f figures) {
	g.clear(p.latency)
	t := g.tally()
	defer t.stop()
	t.backlog(p.backlog)
	var from, to meter
	client := g.start(k, p.concurrency)
	defer client.Kill()
	t.mark(p.warm, func() { from = g.meter(client) })
	t.mark(p.backlog, func() { to = g.meter(client) })
	t.await(p.backlog, client)
	t.window(p.concurrency, p.window)
	t.await(p.backlog+p.window, client)
	f.add(from, to, p.backlog-p.warm)
	f.p50, f.p99 = milliseconds(quantile(t.took, 0.5)), milliseconds(quantile(t.took, 0.99))
	f.took = milliseconds(g.seen().Took)
	f.peak = float64(memory(client.Cmd.Process.Pid, "VmHWM")) / (1 << 20)
	used, n := g.usage(k, client), float64(p.backlog+p.window)
	f.allocs, f.allocated = float64(used.Mallocs)/n, float64(used.Bytes)/n/1024
	t.judge(k)
	return f
}

// table collects the figures of the repetitions of several programs.
type table map[kind][]figures

// of takes one figure out of all repetitions of a program.
func (t table) of(k kind, figure func(figures) float64) series {
	s := make(series, len(t[k]))
	for i, f := range t[k] {
		s[i] = figure(f)
	}
	return s
}

// ratio is that figure of the worker over that of a floor.
func (t table) ratio(by kind, figure func(figures) float64) series {
	return t.of(kindWorker, figure).over(t.of(by, figure))
}

func rate(f figures) float64   { return f.rate }
func client(f figures) float64 { return f.client }
func p50(f figures) float64    { return f.p50 }
