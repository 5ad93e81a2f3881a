package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// room is how many servers the account of these parts may have.
const room = 10

// admission: what does not fit is refused or waits, exactly, whatever is killed.
func admission(ctx context.Context, b *bench) {
	limits := plenty
	limits.Instances = room
	s := setup{
		replicas: 4, concurrency: 4, api: simulator.Config{Limits: limits, Latency: 100 * time.Millisecond},
	}
	// What a killed worker leaves is found soon.
	with := func(more map[string]string) map[string]string {
		env := map[string]string{"HOSTUP_CREATE_TIMEOUT": "1500ms", "WORKER_ACK_WAIT": "1s", "WORKER_SETTLE_UNANSWERED": "2s", "WORKER_LIMITS_TTL": "1s"}
		maps.Copy(env, more)
		return env
	}
	s.env = with(nil)
	b.in(ctx, "admission/fail", s, func(w *world) {
		load := w.loadAndKill()
		w.until(patience, func() bool { return w.witness.ended() == len(load) })
		w.judgef(len(w.sim.Invoices()) == room, "servers bought %d (goal %d)", len(w.sim.Invoices()), room)
		w.judgef(w.witness.count(provisioned) == room && w.witness.count(overLimit) == len(load)-room,
			"provisioned %d, failed by limit-exceeded %d, without an outcome %d (goal %d, %d, 0)",
			w.witness.count(provisioned), w.witness.count(overLimit), len(load)-w.witness.ended(), room, len(load)-room)
		// Two replicas may pass at once; most of what does not fit has to be
		// found by the check, not by asking.
		tried := w.sim.Stats().Outcomes["403"]
		w.judgef(tried <= (len(load)-room)/4, "creates that HostUp refused for lack of room: %d (goal at most %d)", tried, (len(load)-room)/4)
		w.judgeOnce()
		w.judgeNothingLost(0)
	})
	s.env = with(map[string]string{"WORKER_LIMIT_POLICY": "wait"})
	b.in(ctx, "admission/wait", s, (*world).waitForRoom)
	s.env = with(map[string]string{"WORKER_LIMITS_TTL": "10m"})
	s.replicas = 1 // its idea of the account has to be out of date
	b.in(ctx, "admission/other user", s, (*world).otherUser)
}

// loadAndKill places orders and kills half of the fleet while they are sent.
func (w *world) loadAndKill() []order {
	load := orders("load", 5*room, 1)
	w.place(load...)
	w.await("the first creates", func() bool { return len(w.sim.Creates()) >= 3 })
	for _, r := range w.replicas[:len(w.replicas)/2] {
		r.kill()
		r.start()
	}
	return load
}

func (w *world) waitForRoom() {
	load := w.loadAndKill()
	w.until(patience, func() bool { return w.witness.count(provisioned) >= room })
	w.judgef(w.witness.count(provisioned) == room && len(w.sim.Invoices()) == room,
		"provisioned with a full account %d, servers bought %d (goal %d)", w.witness.count(provisioned), len(w.sim.Invoices()), room)
	for round := 2; round <= len(load)/room; round++ {
		w.deleteAll()
		if !w.until(patience, func() bool { return w.witness.count(provisioned) >= round*room }) {
			break
		}
	}
	w.judgef(w.witness.count(provisioned) == len(load) && w.witness.count(failed) == 0,
		"provisioned as servers were deleted %d, failed %d (goal %d, 0)", w.witness.count(provisioned), w.witness.count(failed), len(load))
	w.notef("creates that HostUp refused for lack of room: %d", w.sim.Stats().Outcomes["403"])
	w.judgeOnce()
	w.judgeNothingLost(0)
}

// otherUser: room that somebody else takes is HostUp's to refuse, in its words.
func (w *world) otherUser() {
	w.place(orders("first", 1, 1)...)
	w.await("the first order", func() bool { return w.witness.count(provisioned) == 1 })
	for i := range room - 1 {
		w.buy(fmt.Sprintf("other-%d", i))
	}
	w.place(orders("late", 1, 1)...)
	w.await("the late order", func() bool { return w.witness.ended() == 2 })
	e, _ := w.witness.outcome("late-00000")
	var problem struct {
		Type           string   `json:"type"`
		Status         int      `json:"status"`
		RequestID      string   `json:"requestId"`
		BlockerReasons []string `json:"blockerReasons"`
	}
	_ = json.Unmarshal(e.Problem, &problem)
	own := problem.Status == 403 && problem.RequestID != "" && slices.Contains(problem.BlockerReasons, "instance_limit_exceeded")
	w.judgef(e.Reason == "limit-exceeded" && own, "ended as %s %s with HostUp's own document: %t", e.kind, e.Reason, own)
	w.judgef(w.invoices("late") == 0 && w.sim.Stats().Outcomes["403"] == 1, "creates answered 403: %d (goal 1)", w.sim.Stats().Outcomes["403"])
}
