package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// holding is a world with a held request: its answer got lost and there are
// two servers that could be its own.
type holding struct {
	*world

	key, name string
	// bought was paid for, planted is somebody else's.
	bought, planted string
}

// heldRequest makes a world with a held request and no worker.
func heldRequest(t *testing.T) *holding {
	t.Helper()
	h := &holding{world: newWorld(t, simulator.Config{}), key: "held/1", name: "fault-cut-after-x1-a"}
	h.planted = h.plant(h.name, nil).ID
	// What is in hand is given back at once when the worker stops.
	p := h.worker("WORKER_INLINE_WAIT=10m")
	h.place(with(order(h.key, h.name), "metadata", map[string]any{"customer": "c-1"}))
	isHeld(t, h.world, h.key, h.await(h.key), h.idsOf(h.name))
	h.state(h.key, "held")
	h.bought = h.sim.Invoices()[0].VPSID
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
	return h
}

// resolve runs `worker resolve`.
func (h *holding) resolve(args ...string) result {
	h.t.Helper()
	return command(h.t, h.env, append([]string{"resolve", h.key}, args...)...)
}

// unreadable makes the account's servers unreadable.
func (h *holding) unreadable(yes bool) {
	h.answering(func(rw http.ResponseWriter, r *http.Request) bool {
		if yes && r.Method == http.MethodGet {
			http.Error(rw, "no", http.StatusServiceUnavailable)
		}
		return yes && r.Method == http.MethodGet
	})
}

// refused checks that a decision was refused and that nothing has changed.
func (h *holding) refused(code int, says []string, args ...string) {
	h.t.Helper()
	before := h.record(h.key)
	r := h.resolve(args...)
	equal(h.t, "exit code", r.code, code)
	equal(h.t, "stdout", r.out, "")
	for _, want := range says {
		if !strings.Contains(r.err, want) {
			h.t.Errorf("the message does not say %q: %s", want, r.err)
		}
	}
	equal(h.t, "revision of the record", h.record(h.key).seq, before.seq)
	equal(h.t, "events", len(h.events(h.key)), 1)
}

// decided checks what the ledger keeps of a decision.
func (h *holding) decided(action, reason, by string) {
	h.t.Helper()
	r := h.record(h.key)
	equal(h.t, "resolution.action", r.text("resolution", "action"), action)
	equal(h.t, "resolution.reason", r.text("resolution", "reason"), reason)
	equal(h.t, "resolution.by", r.text("resolution", "by"), by)
	recent(h.t, "resolution.at", r.text("resolution", "at"), time.Now().Add(-5*time.Minute))
}

// finish starts a worker and checks that it has nothing more to do than to
// empty the queue.
func (h *holding) finish() {
	h.t.Helper()
	p := h.worker()
	h.queue(0)
	h.state(h.key, "done")
	_, held := ended(h.t, h.world, h.key)
	equal(h.t, "holdings", held, 1)
	p.ready(http.StatusOK)
}

func TestResolveAdopt(t *testing.T) {
	t.Parallel()

	h := heldRequest(t)
	h.refused(exitNotFound, []string{"vps_none"}, "--adopt", "vps_none", "--reason", "a slip of the pen")
	dead := h.plant(h.name, func(v *simulator.VPS) { v.Status = "cancelled" }).ID
	h.refused(exitNotFound, []string{dead}, "--adopt", dead, "--reason", "a dead one")
	// A look that fails decides nothing.
	h.unreadable(true)
	h.refused(exitFailed, []string{h.bought}, "--adopt", h.bought, "--reason", "blind")
	h.unreadable(false)

	r := h.resolve("--adopt", h.bought, "--reason", "seen in the panel", "--by", "ada")
	equal(t, "exit code", r.code, exitDone)
	for _, want := range []string{h.key, "adopted", h.bought} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the answer does not say %q: %s", want, r.out)
		}
	}
	e := h.created(h.key) // published by the command itself
	equal(t, "ce-id", e.id(), keyHash(h.key)+".provisioning")
	equal(t, "vpsId", e.text("vpsId"), h.bought)
	equal(t, "adopted", e.at("adopted"), any(true))
	equal(t, "orderId", e.at("orderId"), nil)
	equal(t, "attempts", e.at("attempts"), any(1.0))
	equal(t, "metadata", e.text("metadata", "customer"), "c-1")
	h.decided("adopt", "seen in the panel", "ada")
	equal(t, "resolution.vpsId", h.record(h.key).text("resolution", "vpsId"), h.bought)
	h.over(t)
	h.finish()
	equal(t, "create calls", len(h.sim.Creates()), 1)

	// A server that was announced is nobody else's, be it by its own name or
	// by another; the other one is free.
	h.update(func(c *simulator.Config) { c.Faults = []simulator.Rule{rule(t, "cut-*/cut-after")} })
	other := h.worker()
	h.plant("cut-b", nil)
	h.place(order("second", "cut-b"))
	eventually(t, "the second is held", func() bool { r := h.record("second"); return r != nil && r.text("state") == "held" })
	other.kill()
	r = command(t, h.env, "resolve", "second", "--adopt", h.bought, "--reason", "wrong")
	if r.code != exitFailed || !strings.Contains(r.err, h.bought) {
		t.Errorf("a server that was announced for another request is adopted, exit code %d: %s", r.code, r.err)
	}
}

// over checks that there is nothing to decide any more.
func (h *holding) over(t *testing.T) {
	t.Helper()
	seq := h.record(h.key).seq
	for _, decision := range [][]string{{"--adopt", h.planted}, {"--not-created"}, {"--abandon"}} {
		r := h.resolve(append(decision, "--reason", "again")...)
		equal(t, "exit code", r.code, exitFailed)
		if !strings.Contains(r.err, "not held") {
			t.Errorf("the message does not say that it is not held: %s", r.err)
		}
	}
	equal(t, "revision", h.record(h.key).seq, seq)
}

func TestResolveNotCreated(t *testing.T) {
	t.Parallel()

	h := heldRequest(t)
	h.refused(exitFailed, h.idsOf(h.name)[:1], "--not-created", "--reason", "hope")
	h.unreadable(true)
	h.refused(exitFailed, []string{"503"}, "--not-created", "--reason", "blind")
	h.unreadable(false)
	h.cancel(h.planted)
	h.refused(exitFailed, []string{h.bought}, "--not-created", "--reason", "still one")
	h.cancel(h.bought)

	r := h.resolve("--not-created", "--reason", "both were cancelled", "--by", "grace", "-o", "json")
	equal(t, "exit code", r.code, exitDone)
	var got struct {
		IdempotencyKey string `json:"idempotencyKey"`
		State          string `json:"state"`
		Resolution     struct {
			Action string `json:"action"`
			Reason string `json:"reason"`
			By     string `json:"by"`
		} `json:"resolution"`
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatalf("-o json: %v: %s", err, r.out)
	}
	equal(t, "answer", got.IdempotencyKey+" "+got.State+" "+got.Resolution.Action+" "+got.Resolution.By, h.key+" accepted not-created grace")
	h.decided("not-created", "both were cancelled", "grace")
	equal(t, "events", len(h.events(h.key)), 1)
	equal(t, "create calls before a worker runs", len(h.sim.Creates()), 1)
	h.finish()
	e := h.created(h.key)
	equal(t, "adopted", e.at("adopted"), any(false))
	equal(t, "attempts", e.at("attempts"), any(2.0))
	equal(t, "create calls", len(h.sim.Creates()), 2)
	equal(t, "vpsId", e.text("vpsId"), h.sim.Invoices()[1].VPSID)
	h.decided("not-created", "both were cancelled", "grace")
	live := slices.DeleteFunc(h.sim.Servers(), func(v simulator.VPS) bool { return v.Status == "cancelled" })
	equal(t, "live servers", len(live), 1)
}

func TestResolveAbandon(t *testing.T) {
	t.Parallel()

	for _, billed := range []string{"", "no", "yes"} {
		t.Run("billed "+billed, func(t *testing.T) {
			t.Parallel()
			h := heldRequest(t)
			args := []string{"--abandon", "--reason", "the customer cancelled", "-o", "jsonl"}
			if billed != "" {
				args = append(args, "--billed", billed)
			}
			r := h.resolve(args...)
			equal(t, "exit code", r.code, exitDone)
			if !json.Valid([]byte(r.out)) || strings.Count(r.out, "\n") != 1 {
				t.Errorf("-o jsonl is %s", r.out)
			}
			e := h.outcome(h.key)
			failure{"abandoned", "unknown", false, false, 1, 409}.with(billed).check(t, h.key, nil, e)
			if !strings.Contains(e.text("problem", "detail"), "the customer cancelled") {
				t.Errorf("the problem does not say why: %v", e.at("problem"))
			}
			// Who decided is the user of the machine unless somebody is named.
			if by := h.record(h.key).text("resolution", "by"); by == "" || strings.HasPrefix(by, "(") {
				t.Errorf("resolution.by is %q", by)
			}
			h.finish()
			equal(t, "create calls", len(h.sim.Creates()), 1)
		})
	}
}

func (f failure) with(billed string) failure {
	if billed != "" {
		f.billed = billed
	}
	return f
}

// What there is nothing to decide about.
func TestResolveNothing(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.worker("WORKER_SETTLE_UNANSWERED=1h")
	w.place(order("done", "done"))
	w.created("done")
	w.place(order("looking", "fault-cut-a"))
	w.state("looking", "unknown")
	for _, decision := range [][]string{{"--adopt", "vps_1"}, {"--not-created"}, {"--abandon"}} {
		for key, code := range map[string]int{"done": exitFailed, "looking": exitFailed, "never heard of": exitNotFound} {
			r := command(t, w.env, append([]string{"resolve", key, "--reason", "x"}, decision...)...)
			equal(t, "exit code of "+key+" "+decision[0], r.code, code)
			if !strings.Contains(r.err, key) || r.out != "" {
				t.Errorf("resolve %s %s says %q and %q", key, decision[0], r.out, r.err)
			}
		}
	}
	equal(t, "state", w.record("looking").text("state"), "unknown")
	equal(t, "events of what is looked for", len(w.events("looking")), 0)
	once(t, w)
}

// A decision is taken while workers run, one of which has the message: it is
// carried out once.
func TestResolveUnderRunningWorkers(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	p := w.worker("WORKER_INLINE_WAIT=10m")
	w.worker("WORKER_INLINE_WAIT=10m")
	const name = "fault-cut-after-x1-a"
	planted := w.plant(name, nil).ID
	w.place(order("decided", name))
	w.await("decided")
	w.state("decided", "held")
	r := command(t, w.env, "resolve", "decided", "--adopt", planted, "--reason", "this one")
	equal(t, "exit code", r.code, exitDone)
	equal(t, "vpsId", w.created("decided").text("vpsId"), planted)
	w.state("decided", "done")
	// Whoever has the message in hand gives it back; it is over.
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
	_, held := ended(t, w, "decided")
	equal(t, "holdings", held, 1)
	equal(t, "create calls", len(w.sim.Creates()), 1)
}
