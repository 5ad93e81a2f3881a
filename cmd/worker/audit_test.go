package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// finding is one element of `audit -o json`.
type finding struct {
	Finding        string   `json:"finding"`
	VPSID          string   `json:"vpsId"`
	IdempotencyKey string   `json:"idempotencyKey"`
	Name           string   `json:"name"`
	PricePerHour   *float64 `json:"pricePerHour"`
	Currency       string   `json:"currency"`
	Detail         string   `json:"detail"`
}

// audit runs `worker audit -o json`.
func audit(t *testing.T, w *world) (code int, found []finding) {
	t.Helper()
	r := command(t, w.env, "audit", "-o", "json")
	d := json.NewDecoder(strings.NewReader(r.out))
	d.DisallowUnknownFields()
	if err := d.Decode(&found); err != nil || found == nil {
		t.Fatalf("audit -o json: %v:\n%s\n%s", err, r.out, r.err)
	}
	return r.code, found
}

func TestAudit(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	for _, args := range [][]string{{"audit"}, {"audit", "-o", "json"}, {"resolve", "order-1", "--abandon", "--reason", "x"}} {
		r := command(t, w.env, args...)
		equal(t, "exit code without a ledger", r.code, exitFailed)
		if r.out != "" || !strings.Contains(r.err, "worker setup") {
			t.Errorf("without a ledger %v says %q and %q", args, r.out, r.err)
		}
	}
	w.setup()
	// Nothing at all agrees.
	code, found := audit(t, w)
	equal(t, "exit code", code, exitDone)
	equal(t, "findings", len(found), 0)
	p := w.worker()
	vps := make(map[string]string)
	for i := range 5 {
		key, name := fmt.Sprintf("order-%d", i), fmt.Sprintf("web-%d", i)
		w.place(order(key, name))
		vps[key] = w.created(key).text("vpsId")
	}
	// What was adopted is as known as what was bought.
	w.place(order("adopted", "fault-cut-after-a"))
	w.created("adopted")
	// What failed has no server, what is invalid no record.
	w.place(order("refused", "fault-409-a"))
	w.outcome("refused")
	w.place(order("invalid", "not a name"))
	w.rejection("invalid")
	w.queue(0)
	for key := range vps {
		w.state(key, "done")
	}
	w.state("adopted", "done")

	agree := func(when string) {
		t.Helper()
		code, found := audit(t, w)
		equal(t, "exit code "+when, code, exitDone)
		if len(found) != 0 {
			t.Errorf("findings %s: %+v", when, found)
		}
		r := command(t, w.env, "audit")
		equal(t, "exit code of the table "+when, r.code, exitDone)
		equal(t, "the table "+when, r.out, "ledger and account agree\n")
		r = command(t, w.env, "audit", "-o", "jsonl")
		equal(t, "the lines "+when, r.out, "")
	}
	agree("after six orders")
	// What is no business of the worker: other billing, and what is dead.
	w.plant("web-1", func(v *simulator.VPS) { v.IsPayg = false })
	w.plant("dead", func(v *simulator.VPS) { v.Status = "terminated" })
	agree("with a fixed-cycle and a dead server")
	// A server that was announced a moment ago is not missed yet: the
	// account's lists may lag behind.
	w.cancel(vps["order-4"])
	agree("after a cancellation")

	want := map[string]finding{}
	expect := func(kind, key string, v simulator.VPS) {
		// The documented example prices: 0.12 a core, 0.04 a GB of memory, 0.003
		// a GB of storage and 0.02 for the address.
		price := 0.12*float64(v.Resources.CPUCores) + 0.04*float64(v.Resources.MemoryGB) + 0.003*float64(v.Resources.StorageGB) + 0.02
		want[v.ID] = finding{kind, v.ID, key, v.Name, &price, "SEK", ""}
	}
	hour := func(v *simulator.VPS) { v.CreatedAt = time.Now().Add(-time.Hour) }
	expect("orphan", "", w.plant("nobodys", nil))
	expect("orphan", "", w.plant("nobodys-large", func(v *simulator.VPS) {
		v.Resources = simulator.Resources{CPUCores: 8, MemoryGB: 64, StorageGB: 500}
	}))
	expect("orphan", "", w.plant("suspended", func(v *simulator.VPS) { v.Status = "suspended" }))
	expect("orphan", "", w.plant("web-3", hour)) // older than the request of that name
	expect("suspected-double", "order-0", w.plant("web-0", nil))
	expect("suspected-double", "order-2", w.plant("WEB-2", nil))
	revision := w.record("order-0").seq
	bought, creates := len(w.sim.Invoices()), len(w.sim.Creates())

	code, found = audit(t, w)
	equal(t, "exit code", code, exitFailed)
	equal(t, "findings", len(found), len(want))
	for _, f := range found {
		x, ok := want[f.VPSID]
		if !ok || f.Finding != x.Finding || f.IdempotencyKey != x.IdempotencyKey || f.Name != x.Name || f.Currency != x.Currency ||
			f.PricePerHour == nil || math.Abs(*f.PricePerHour-*x.PricePerHour) > 1e-9 || f.Detail == "" {
			t.Errorf("found %+v, want %+v", f, x)
		}
		if f.Finding == "suspected-double" && !strings.Contains(f.Detail, vps[f.IdempotencyKey]) {
			t.Errorf("the detail does not name %s: %s", vps[f.IdempotencyKey], f.Detail)
		}
	}
	r := command(t, w.env, "audit", "-o", "jsonl")
	equal(t, "exit code", r.code, exitFailed)
	equal(t, "lines", strings.Count(r.out, "\n"), len(want))
	for line := range strings.Lines(r.out) {
		var f finding
		if err := json.Unmarshal([]byte(line), &f); err != nil || want[f.VPSID].Finding != f.Finding {
			t.Errorf("jsonl: %v: %s", err, line)
		}
	}
	equal(t, "stderr", r.err, "")
	r = command(t, w.env, "audit")
	equal(t, "exit code", r.code, exitFailed)
	for id, x := range want {
		if !strings.Contains(r.out, id) || !strings.Contains(r.out, x.Finding) || !strings.Contains(r.out, fmt.Sprintf("%.2f SEK", *x.PricePerHour)) {
			t.Errorf("the table lacks %+v:\n%s", x, r.out)
		}
	}
	// It has changed nothing.
	equal(t, "revision", w.record("order-0").seq, revision)
	equal(t, "invoices", len(w.sim.Invoices()), bought)
	equal(t, "create calls", len(w.sim.Creates()), creates)
	equal(t, "cancellations", w.sim.Stats().Requests["cancel"], 1)
	for key := range vps {
		one(t, w, key)
	}
	p.kill()

	// An account that cannot be read is no account without findings.
	w.update(func(c *simulator.Config) { c.Faults = []simulator.Rule{rule(t, "list/503")} })
	for _, format := range []string{"table", "json"} {
		r = command(t, w.env, "audit", "-o", format)
		equal(t, "exit code", r.code, exitFailed)
		if r.out != "" || !strings.Contains(r.err, "503") {
			t.Errorf("the audit of an account that cannot be read says %q and %q", r.out, r.err)
		}
	}
}

// More servers than one page of the account's list has, and more than one
// order of a name.
func TestAuditOfManyServers(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Limits: simulator.Limits{CPUCores: 9999, MemoryGB: 9999, StorageGB: 999999, Instances: 9999}})
	w.worker()
	for i := range 3 {
		w.place(order(fmt.Sprintf("twin-%d", i), "twin"))
	}
	for i := range 3 {
		w.created(fmt.Sprintf("twin-%d", i))
	}
	for i := range 205 {
		w.plant(fmt.Sprintf("many-%d", i), nil)
	}
	w.plant("twin", nil)
	code, found := audit(t, w)
	equal(t, "exit code", code, exitFailed)
	kinds := make(map[string]int)
	for _, f := range found {
		kinds[f.Finding]++
		if f.Finding == "suspected-double" && !strings.HasPrefix(f.IdempotencyKey, "twin-") {
			t.Errorf("a double of whom? %+v", f)
		}
	}
	equal(t, "orphans", kinds["orphan"], 205)
	equal(t, "suspected doubles", kinds["suspected-double"], 1)
}

// What a request that is not settled may have bought is pointed out as such.
func TestAuditOfAnUnsettledRequest(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.worker()
	const name = "fault-cut-after-a"
	planted := w.plant(name, nil).ID
	w.place(order("held", name))
	w.state("held", "held")
	code, found := audit(t, w)
	equal(t, "exit code", code, exitFailed)
	equal(t, "findings", len(found), 2)
	for _, f := range found {
		equal(t, "finding", f.Finding, "orphan")
		equal(t, "idempotencyKey", f.IdempotencyKey, "held")
		if !strings.Contains(f.Detail, "held") {
			t.Errorf("the detail does not say that the request is held: %s", f.Detail)
		}
	}
	r := command(t, w.env, "resolve", "held", "--adopt", w.sim.Invoices()[0].VPSID, "--reason", "x")
	equal(t, "exit code", r.code, exitDone)
	_, found = audit(t, w)
	equal(t, "findings after the decision", len(found), 1)
	equal(t, "the other one", found[0].VPSID+" "+found[0].Finding, planted+" suspected-double")
}

// On a timer the findings go to the log and the metrics, of a worker that goes
// on working.
func TestAuditEvery(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Faults: []simulator.Rule{rule(t, "limits/503*2")}})
	p := w.worker("WORKER_AUDIT_EVERY=100ms")
	other := w.worker("WORKER_AUDIT_EVERY=100ms")
	w.place(order("order-1", "web-1"))
	w.created("order-1")
	gauge := func(kind string, n int) {
		t.Helper()
		for _, p := range []*process{p, other} {
			eventually(t, fmt.Sprintf("the metrics say %d %s", n, kind), func() bool {
				_, metrics := p.get("/metrics")
				return strings.Contains(metrics, fmt.Sprintf("hostup_worker_audit_findings{finding=%q} %d\n", kind, n))
			})
		}
	}
	for _, kind := range []string{"orphan", "suspected-double", "vanished"} {
		gauge(kind, 0)
	}
	orphan, double := w.plant("nobodys", nil).ID, w.plant("web-1", nil).ID
	gauge("orphan", 1)
	gauge("suspected-double", 1)
	for id, kind := range map[string]string{orphan: "orphan", double: "suspected-double"} {
		// The brake names the double before the audit does.
		eventually(t, "a log names the "+kind, func() bool {
			logged := false
			for line := range strings.Lines(p.err.String() + other.err.String()) {
				var entry struct {
					Msg      string  `json:"msg"`
					Level    string  `json:"level"`
					Finding  string  `json:"finding"`
					VPSID    string  `json:"vps_id"`
					Key      string  `json:"key"`
					Price    float64 `json:"price_per_hour"`
					Currency string  `json:"currency"`
				}
				if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "audit" && entry.VPSID == id {
					logged = true
					equal(t, "what the log says", fmt.Sprintf("%s %s %.2f %s", entry.Level, entry.Finding, entry.Price, entry.Currency), "WARN "+kind+" 0.66 SEK")
					equal(t, "key", entry.Key, map[string]string{double: "order-1"}[id])
				}
			}
			return logged
		})
	}
	w.cancel(orphan)
	w.cancel(double)
	gauge("orphan", 0)
	gauge("suspected-double", 0)

	// The double has put the brake on, and only a person takes it off.
	p.ready(http.StatusServiceUnavailable)
	w.place(order("order-2", "web-2"))
	eventually(t, "the order waits for the brake", func() bool {
		_, metrics := p.get("/metrics")
		_, others := other.get("/metrics")
		return strings.Contains(metrics+others, `hostup_worker_requests_total{reason="paused",result="waiting"} `)
	})
	equal(t, "creates while the brake is on", len(w.creates("web-2")), 0)
	resume := command(t, w.env, "resume", "--reason", "looked at it")
	equal(t, "exit code of resume", resume.code, exitDone)
	w.created("order-2")
	p.ready(http.StatusOK)
}
