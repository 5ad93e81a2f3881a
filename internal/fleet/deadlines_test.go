package fleet

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// deadlines are answered when they pass, whatever the order waits for.
func deadlines(ctx context.Context, b *bench) {
	s := setup{replicas: 3, concurrency: 8, api: simulator.Config{Faults: []simulator.Rule{rule("first-*/429:retry-after=30*1")}}}
	b.in(ctx, "deadlines/closed gate", s, func(w *world) {
		w.place(order{name: "first-00000", deadline: time.Now().Add(5 * time.Second)})
		w.await("the create that is answered 429", func() bool { return w.sim.Stats().Outcomes["429"] > 0 })
		w.watch(500 * time.Millisecond) // whether all close the gate in time is another scenario
		w.pass(orders("load", 100, 1), "first-00000", 429)
	})
	full := plenty
	full.Instances = 1
	s.api = simulator.Config{Limits: full}
	// Not in hand: each is to be looked at before its deadline.
	s.env = map[string]string{"WORKER_LIMIT_POLICY": "wait", "WORKER_INLINE_WAIT": "10ms"}
	b.in(ctx, "deadlines/full account", s, func(w *world) {
		w.buy("other")
		w.pass(orders("load", 100, 1), "", 403)
	})
}

// lateness is how long after its deadline an order may be answered at worst.
const lateness = time.Second

// pass places orders whose deadline passes while they wait, and judges how they
// end. first was placed before them, and has seen what all wait for.
func (w *world) pass(load []order, first string, status int) {
	deadline := time.Now().Add(5 * time.Second)
	for i := range load {
		load[i].deadline = deadline
	}
	w.place(load...)
	want := len(load)
	if first != "" {
		want++
	}
	w.until(time.Minute, func() bool { return w.witness.ended() == want })
	w.judgef(w.witness.count(tooLate) == want, "failed by deadline-exceeded: %d of %d", w.witness.count(tooLate), want)
	var latest time.Duration
	causes := 0
	for _, o := range load {
		e, ended := w.witness.outcome(o.name)
		if !ended || e.Reason != "deadline-exceeded" {
			continue
		}
		latest = max(latest, e.at.Sub(deadline))
		if e.cause() == status {
			causes++
		}
	}
	w.judgef(latest <= lateness, "the latest answer came %s after the deadline (goal %s)", latest.Round(time.Millisecond), lateness)
	if first != "" {
		e, _ := w.witness.outcome(first)
		w.judgef(e.cause() == status, "the order that met the problem names it as the cause: status %d (goal %d)", e.cause(), status)
		w.notef("of those that only waited %d of %d name it", causes, len(load))
	} else {
		w.judgef(causes == len(load), "answers with the last problem, status %d, as the cause: %d of %d", status, causes, len(load))
	}
	w.judgeNothingLost(0)
}

// cause is the status of the problem that the deadline cut short.
func (e event) cause() int {
	var problem struct {
		Cause struct {
			Status int `json:"status"`
		} `json:"cause"`
	}
	_ = json.Unmarshal(e.Problem, &problem)
	return problem.Cause.Status
}
