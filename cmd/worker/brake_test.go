package main

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// person is the environment of somebody at a terminal: the broker and no key.
// The brake must work when nothing else does.
func (w *world) person() map[string]string { return map[string]string{"NATS_URL": w.env["NATS_URL"]} }

// brake runs pause or resume, which has to succeed, and returns its output.
func (w *world) brake(args ...string) string {
	w.t.Helper()
	r := command(w.t, w.person(), args...)
	equal(w.t, "exit code of "+strings.Join(args, " "), r.code, exitDone)
	equal(w.t, "stderr of "+strings.Join(args, " "), r.err, "")
	return r.out
}

// braked waits until /readyz and the metrics of a worker say that the brake is
// on or off, and returns the detail of /readyz.
func (p *process) braked(on bool) string {
	p.t.Helper()
	var detail string
	eventually(p.t, "/readyz and the metrics tell of the brake", func() bool {
		var page struct {
			Ready  bool    `json:"ready"`
			Checks []check `json:"checks"`
		}
		status, body := p.get("/readyz")
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			p.t.Fatalf("/readyz is not JSON: %v: %s", err, body)
		}
		// The brake alone, and nothing else, keeps the worker from being ready.
		told, others := false, true
		for _, c := range page.Checks {
			if c.Name == "brake" {
				told, detail = c.OK != on, c.Detail
			} else {
				others = others && c.OK
			}
		}
		want, gauge := http.StatusOK, "\nhostup_worker_paused 0\n"
		if on {
			want, gauge = http.StatusServiceUnavailable, "\nhostup_worker_paused 1\n"
		}
		_, metrics := p.get("/metrics")
		return told && others && status == want && page.Ready != on && strings.Contains(metrics, gauge)
	})
	if status, _ := p.get("/healthz"); status != http.StatusOK {
		p.t.Errorf("/healthz is %d, want 200", status)
	}
	return detail
}

// pausedOrder waits until a worker has told an order to wait for the brake.
func (p *process) pausedOrder() {
	p.t.Helper()
	eventually(p.t, "an order waits for the brake", func() bool {
		_, metrics := p.get("/metrics")
		return strings.Contains(metrics, `hostup_worker_requests_total{reason="paused",result="waiting"} `)
	})
}

func TestPauseAndResumeTell(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.setup()
	says := func(out string, want ...string) {
		t.Helper()
		for _, text := range want {
			if !strings.Contains(out, text) {
				t.Errorf("%q does not say %q", out, text)
			}
		}
	}
	says(w.brake("resume", "--reason", "nothing was paused"), "not paused")
	says(w.brake("pause", "--reason", "prices look odd", "--by", "ann"), "paused", "worker resume")
	again := w.brake("pause", "--reason", "mine", "--by", "bob")
	says(again, "already paused", "ann", "prices look odd")
	if strings.Contains(again, "bob") || strings.Contains(again, "mine") {
		t.Errorf("the second takes the first one's place: %q", again)
	}
	says(w.brake("resume", "--reason", "checked", "--by", "cleo"), "resumed")
	says(w.brake("resume", "--reason", "me too", "--by", "dan"), "not paused", "cleo", "checked")

	// Reason and name from the environment.
	env := w.person()
	maps.Copy(env, map[string]string{"WORKER_BRAKE_REASON": "by cron", "WORKER_BRAKE_BY": "cron"})
	r := command(t, env, "pause")
	equal(t, "exit code", r.code, exitDone)
	says(w.brake("pause", "--reason", "x"), "already paused", "cron", "by cron")
}

// One JSON object and nothing else on stdout, whether it changes anything or
// not.
func TestPauseAndResumeInJSON(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.setup()
	began := time.Now().Add(-time.Second)
	for _, step := range []struct {
		command, by     string
		paused, changed bool
		wantBy, reason  string
	}{
		{"resume", "ann", false, false, "", ""},
		{"pause", "ann", true, true, "ann", "pause by ann"},
		{"pause", "bob", true, false, "ann", "pause by ann"},
		{"resume", "cleo", false, true, "cleo", "resume by cleo"},
		{"resume", "dan", false, false, "cleo", "resume by cleo"},
	} {
		about := step.command + " by " + step.by
		for _, format := range []string{"json", "jsonl"} {
			if format == "jsonl" && step.changed {
				continue // only once
			}
			out := w.brake(step.command, "--reason", about, "--by", step.by, "-o", format)
			var got struct {
				Paused  bool      `json:"paused"`
				Changed bool      `json:"changed"`
				Reason  string    `json:"reason"`
				By      string    `json:"by"`
				At      time.Time `json:"at"`
			}
			d := json.NewDecoder(strings.NewReader(out))
			d.DisallowUnknownFields()
			if err := d.Decode(&got); err != nil {
				t.Fatalf("%s: %v: %q", about, err, out)
			}
			if _, err := d.Token(); !errors.Is(err, io.EOF) {
				t.Errorf("%s: there is more on stdout: %q", about, out)
			}
			equal(t, about+": paused", got.Paused, step.paused)
			equal(t, about+": changed", got.Changed, step.changed)
			equal(t, about+": by", got.By, step.wantBy)
			equal(t, about+": reason", got.Reason, step.reason)
			if step.wantBy != "" && (got.At.Before(began) || got.At.After(time.Now().Add(time.Second))) {
				t.Errorf("%s: at %s", about, got.At)
			}
		}
	}
}

// Without a ledger there is nothing to put the brake on, and nothing is made.
func TestPauseWithoutALedger(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	for _, name := range []string{"pause", "resume"} {
		r := command(t, w.person(), name, "--reason", "x", "-o", "json")
		equal(t, "exit code of "+name, r.code, exitFailed)
		equal(t, "stdout of "+name, r.out, "")
		for _, want := range []string{"deploy-ledger", "worker setup"} {
			if !strings.Contains(r.err, want) {
				t.Errorf("%s does not say %q: %s", name, want, r.err)
			}
		}
	}
	if _, err := w.js.Stream(t.Context(), "KV_deploy-ledger"); err == nil {
		t.Error("the ledger was made")
	}
}

// Whoever pauses in a hurry is told at once that there is no broker.
func TestPauseWithoutABrokerIsQuick(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	r := command(t, map[string]string{"NATS_URL": "nats://127.0.0.1:1"}, "pause", "--reason", "x")
	equal(t, "exit code", r.code, exitFailed)
	// Had it waited for one, it would tell that the time was over.
	if !strings.Contains(r.err, "no servers available") {
		t.Errorf("it says %q", r.err)
	}
}

// The brake stops creates in a running worker and in the one that comes after
// it, and nothing but resume takes it off.
func TestBrakeStopsCreates(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	p := w.worker()
	p.braked(false)
	w.place(order("before", "before"))
	w.created("before")

	w.brake("pause", "--reason", "prices look odd", "--by", "ann")
	if detail := p.braked(true); !strings.Contains(detail, "ann") || !strings.Contains(detail, "prices look odd") || !strings.Contains(detail, "worker resume") {
		t.Errorf("/readyz says %q", detail)
	}
	p.sees("prices look odd")
	for _, key := range []string{"order-1", "order-2"} {
		w.place(order(key, key))
	}
	p.pausedOrder()
	equal(t, "creates while the brake is on", len(w.sim.Creates()), 1)
	equal(t, "calls while the brake is on", len(w.calledFor("order-1"))+len(w.calledFor("order-2")), 0)
	p.kill()

	// In another process, from its first moment on.
	p = w.unready()
	p.braked(true)
	w.place(order("order-3", "order-3"))
	p.pausedOrder()
	equal(t, "creates after the restart", len(w.sim.Creates()), 1)
	for _, key := range []string{"order-1", "order-2", "order-3"} {
		equal(t, "events of "+key, len(w.events(key)), 0)
		if r := w.record(key); r != nil && r.text("state") != "accepted" {
			t.Errorf("%s is %s while the brake is on", key, r.text("state"))
		}
	}

	w.brake("resume", "--reason", "checked")
	for _, key := range []string{"order-1", "order-2", "order-3"} {
		w.created(key)
		one(t, w, key)
	}
	p.braked(false)
	w.queue(0)
	once(t, w)
}

// What was bought before the brake is looked up, adopted and announced while it
// is on.
func TestBrakeStopsNoAdoption(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Faults: []simulator.Rule{rule(t, "lost*/cut-after"), rule(t, "list/503")}})
	p := w.worker("WORKER_SETTLE_UNANSWERED=1m")
	w.place(order("lost", "lost"))
	w.state("lost", "unknown")
	equal(t, "servers", w.bought()["lost"], 1)
	w.brake("pause", "--reason", "x")
	p.braked(true)
	w.place(order("next", "next"))
	p.pausedOrder()
	equal(t, "events before a look succeeded", len(w.events("")), 0)
	// HostUp shows its servers again.
	w.update(func(c *simulator.Config) { c.Faults = nil })
	e := w.created("lost")
	equal(t, "adopted", e.at("adopted"), any(true))
	equal(t, "vpsId", e.text("vpsId"), w.sim.Invoices()[0].VPSID)
	p.braked(true)
	equal(t, "creates", len(w.sim.Creates()), 1)
	w.brake("resume", "--reason", "x")
	w.created("next")
	once(t, w)
}
