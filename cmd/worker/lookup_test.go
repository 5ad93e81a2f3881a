package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// lost is an order whose answer gets lost in some way.
type lost struct {
	// fault is the simulator's, which ends in *1 if nothing was bought.
	fault string
	name  string
}

func (l lost) bought() bool { return !strings.HasSuffix(l.fault, "*1") }

// lose makes an order for each fault.
func lose(t *testing.T, prefix string, faults ...string) ([]lost, []simulator.Rule) {
	t.Helper()
	orders := make([]lost, len(faults))
	rules := make([]simulator.Rule, len(faults))
	for i, fault := range faults {
		orders[i] = lost{fault, fmt.Sprintf("%s-%02d", prefix, i)}
		rules[i] = rule(t, orders[i].name+"*/"+fault)
	}
	return orders, rules
}

// check checks that a lost answer ended as it has to: what was bought is
// adopted, what was not is tried again, and either way there is one server.
func (l lost) check(t *testing.T, w *world) {
	t.Helper()
	about := l.name + " (" + l.fault + ")"
	e := w.created(l.name)
	one(t, w, l.name)
	equal(t, about+": servers", w.bought()[l.name], 1)
	for _, i := range w.sim.Invoices() {
		if i.Name != l.name {
			continue
		}
		equal(t, about+": vpsId", e.text("vpsId"), i.VPSID)
		if l.bought() {
			equal(t, about+": orderId", e.at("orderId"), nil)
			equal(t, about+": invoiceId", e.at("invoiceId"), nil)
		} else {
			equal(t, about+": orderId", e.text("orderId"), i.OrderID)
			equal(t, about+": invoiceId", e.text("invoiceId"), i.InvoiceID)
		}
	}
	attempts := 2
	if l.bought() {
		attempts = 1
	}
	equal(t, about+": adopted", e.at("adopted"), any(l.bought()))
	equal(t, about+": attempts", e.at("attempts"), any(float64(attempts)))
	equal(t, about+": create calls", len(w.creates(l.name)), attempts)
	equal(t, about+": metadata", e.text("metadata", "customer"), "c-1")
}

// Whatever becomes of an answer, the order gets exactly one server: the one
// that was bought is found, and only if there is none another is bought.
func TestLostAnswers(t *testing.T) {
	t.Parallel()

	orders, rules := lose(t, "lost",
		"cut-after", "cut-after:fin", "cut-after:delay=50ms", "500-after", "500-bare-after", "502-after:code=upstream_timeout", "503-after:legacy", "503-after:retry-after=1", "504-bare-after",
		"garbage", "empty", "truncated", "truncated:at=1", "truncated:at=40", "408-after", "425-after", "301-after", "307-after", "308-after", "300-after",
		"cut*1", "cut:fin*1", "cut:delay=50ms*1", "500*1", "500-bare*1", "502:code=upstream_timeout*1", "503:legacy*1", "503:retry-after=1*1", "504-bare*1",
		"garbage-before*1", "empty-before*1", "408*1", "408-bare*1", "425*1", "302*1", "307*1", "308*1",
	)
	w := newWorld(t, simulator.Config{Faults: rules})
	p := w.worker("WORKER_CONCURRENCY=64")
	for _, l := range orders {
		for range 2 {
			w.place(with(order(l.name, l.name), "metadata", map[string]any{"customer": "c-1"}))
		}
	}
	adopted := 0
	for _, l := range orders {
		l.check(t, w)
		if l.bought() {
			adopted++
		}
	}
	w.queue(0)
	eventually(t, "the adopted are counted", func() bool {
		_, metrics := p.get("/metrics")
		return strings.Contains(metrics, fmt.Sprintf("hostup_worker_adopted_total %d\n", adopted))
	})
	// Neither duplicates nor another process change anything.
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
	p = w.worker()
	for _, l := range orders {
		w.place(order(l.name, l.name))
	}
	w.queue(0)
	for _, l := range orders {
		l.check(t, w)
	}
	p.ready(http.StatusOK)
}

// The same for a call that ends only at HOSTUP_CREATE_TIMEOUT, and for one
// whose effect comes after that.
func TestLostToTheTimeout(t *testing.T) {
	t.Parallel()

	orders, rules := lose(t, "late", "hang-after", "hang*1", "slow=1m", "slow-before=6s")
	w := newWorld(t, simulator.Config{Faults: rules})
	w.worker("HOSTUP_CREATE_TIMEOUT=4s", "WORKER_SETTLE_UNANSWERED=12s")
	for _, l := range orders {
		w.place(with(order(l.name, l.name), "metadata", map[string]any{"customer": "c-1"}))
	}
	for _, l := range orders {
		l.check(t, w)
	}
}

// Which of the two settle times counts depends on who said that it failed: the
// other one is too long here to end.
func TestSettleTimes(t *testing.T) {
	t.Parallel()

	answered := []string{"500*1", "503:code=internal_error*1", "599*1"}
	unanswered := []string{"cut*1", "500-bare*1", "502:code=upstream_unavailable*1", "408*1", "425*1", "307*1", "garbage-before*1"}
	const short = 400 * time.Millisecond
	for _, test := range []struct {
		about      string
		env        []string
		soon, late []string
	}{
		{"HostUp said so", []string{"WORKER_SETTLE_ANSWERED=" + short.String(), "WORKER_SETTLE_UNANSWERED=1h"}, answered, unanswered},
		{"anything else", []string{"WORKER_SETTLE_ANSWERED=1h", "WORKER_SETTLE_UNANSWERED=" + short.String()}, unanswered, answered},
	} {
		t.Run(test.about, func(t *testing.T) {
			t.Parallel()
			soon, rules := lose(t, "soon", test.soon...)
			late, more := lose(t, "late", test.late...)
			w := newWorld(t, simulator.Config{Faults: append(rules, more...)})
			// Waits are not kept in hand, so that they can be seen in the ledger.
			w.worker(append(test.env, "WORKER_INLINE_WAIT=10ms", "WORKER_SETTLE_READS=3")...)
			for _, l := range append(late, soon...) {
				w.place(with(order(l.name, l.name), "metadata", map[string]any{"customer": "c-1"}))
			}
			for _, l := range soon {
				l.check(t, w)
				if c := w.creates(l.name); c[1].At.Sub(c[0].At) < short {
					t.Errorf("%s was tried again after %s", l.fault, c[1].At.Sub(c[0].At))
				}
			}
			for _, l := range late {
				// It is stored a moment after the outcome.
				eventually(t, "waitReason of "+l.fault+" is look-up", func() bool {
					return w.state(l.name, "unknown").text("waitReason") == "look-up"
				})
				equal(t, "create calls for "+l.fault, len(w.creates(l.name)), 1)
				equal(t, "events of "+l.fault, len(w.events(l.name)), 0)
			}
			w.queue(uint64(len(late)))
		})
	}
}

// With WORKER_UNKNOWN_POLICY=hold a proved server is adopted all the same, but
// a proved absence goes before a person.
func TestUnknownPolicyHold(t *testing.T) {
	t.Parallel()

	orders, rules := lose(t, "lost", "cut-after", "garbage", "500-after", "cut*1", "500*1", "408*1")
	w := newWorld(t, simulator.Config{Faults: rules})
	p := w.worker("WORKER_UNKNOWN_POLICY=hold", "WORKER_SETTLE_READS=3")
	for _, l := range orders {
		w.place(with(order(l.name, l.name), "metadata", map[string]any{"customer": "c-1"}))
	}
	held := 0
	for _, l := range orders {
		if l.bought() {
			l.check(t, w)
			continue
		}
		held++
		isHeld(t, w, l.name, w.await(l.name), nil)
		if n, _ := w.await(l.name).at("evidence", "lookups").(float64); n < 3 {
			t.Errorf("%s is held after %v look-ups, want 3", l.fault, n)
		}
		w.place(order(l.name, l.name))
	}
	w.queue(uint64(held))
	p.ready(http.StatusOK)
	for _, l := range orders {
		equal(t, "create calls for "+l.fault, len(w.creates(l.name)), 1)
		equal(t, "events of "+l.fault, len(w.events(l.name)), 1)
	}
}

// isHeld checks a deploy.held against the contract. The order was for "c-1".
func isHeld(t *testing.T, w *world, key string, e event, candidates []string) {
	t.Helper()
	if e.kind != "held" {
		t.Fatalf("%s: want a deploy.held, have %s", key, e)
	}
	equal(t, "ce-id", e.id(), keyHash(key)+".held.1")
	equal(t, "Nats-Msg-Id", headerOf(e.header, "Nats-Msg-Id"), keyHash(key)+".held.1")
	equal(t, "ce-type", headerOf(e.header, "ce-type"), "se.hostup.deploy.held.v1")
	equal(t, "idempotencyKey", e.text("idempotencyKey"), key)
	equal(t, "problem.type", e.text("problem", "type"), "urn:hostup-worker:problem:held")
	equal(t, "metadata", e.text("metadata", "customer"), "c-1")
	recent(t, "occurredAt", e.text("occurredAt"), time.Now().Add(-5*time.Minute))
	attempts, _ := e.at("evidence", "attempts").([]any)
	if len(attempts) != 1 {
		t.Fatalf("%s: the evidence is %v, want one attempt", key, e.at("evidence"))
	}
	a, _ := attempts[0].(map[string]any)
	if a["verdict"] != "unknown" || a["number"] != 1.0 || a["detail"] == nil || a["startedAt"] == nil {
		t.Errorf("%s: the attempt is %v", key, a)
	}
	var got []string
	list, _ := e.at("evidence", "candidates").([]any)
	for _, one := range list {
		c, _ := one.(map[string]any)
		id, _ := c["vpsId"].(string)
		got = append(got, id)
	}
	slices.Sort(got)
	slices.Sort(candidates)
	if !slices.Equal(got, candidates) {
		t.Errorf("%s: the candidates are %q, want %q", key, got, candidates)
	}
	r := w.state(key, "held")
	if r.text("heldReason") == "" {
		t.Errorf("%s: the record does not say why it is held", key)
	}
}

// Two servers that could be the one are never guessed at, however the second
// one writes its name and whatever policy is set.
func TestTwoCandidatesAreHeld(t *testing.T) {
	t.Parallel()

	orders, rules := lose(t, "double", "cut-after", "500-after", "garbage", "cut*1", "500*1")
	w := newWorld(t, simulator.Config{Faults: rules})
	p := w.worker()
	for _, l := range orders {
		w.plant(strings.ToUpper(l.name), nil)
		if !l.bought() {
			w.plant(l.name, nil)
		}
		w.place(with(order(l.name, l.name), "metadata", map[string]any{"customer": "c-1"}))
	}
	for _, l := range orders {
		isHeld(t, w, l.name, w.await(l.name), w.idsOf(l.name))
		w.place(order(l.name, l.name))
	}
	// Another name is not disturbed, another process changes nothing.
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
	p = w.worker()
	w.place(order("good", "good"))
	w.created("good")
	w.queue(uint64(len(orders)))
	for _, l := range orders {
		equal(t, "create calls for "+l.fault, len(w.creates(l.name)), 1)
		equal(t, "events of "+l.fault, len(w.events(l.name)), 1)
	}
	p.ready(http.StatusOK)
}

// A request that is held, or still being looked up, ends at its deadline: the
// requester is told that nobody knows.
//
//nolint:tparallel // one try after the other
func TestUnknownAtTheDeadline(t *testing.T) {
	t.Parallel()

	inTime(t, 6*time.Second, func(t *testing.T, room time.Duration) bool {
		t.Helper()
		w := newWorld(t, simulator.Config{Faults: []simulator.Rule{rule(t, "list:unreadable*/503")}})
		w.worker("WORKER_SETTLE_UNANSWERED=1h")
		w.plant("fault-cut-after-held", nil)
		w.answering(func(rw http.ResponseWriter, r *http.Request) bool {
			return answer(rw, r, "unreadable", http.StatusBadGateway, "text/html", "<html>")
		})
		// What is never found, never read or never decided: one server was bought
		// for the first and may have been for the others.
		names := map[string]string{"held": "fault-cut-after-held", "looking": "fault-cut-looking", "unreadable": "unreadable"}
		deadline := time.Now().Add(room)
		for key, name := range names {
			w.place(with(order(key, name), "deadline", deadline.Format(time.RFC3339Nano)))
		}
		for key := range names {
			e := w.outcome(key)
			if time.Now().Before(deadline) {
				t.Errorf("%s ended before its deadline", key)
			}
			_, held := ended(t, w, key)
			if e.at("attempts") == any(0.0) || key == "held" && held == 0 {
				return false
			}
			failure{"outcome-unknown", "unknown", false, false, 1, 500}.check(t, key, nil, e)
			equal(t, "holdings of "+key, held > 0, key == "held")
		}
		w.queue(0)
		once(t, w)
		return true
	})
}

// A server that the account's lists do not show at once is found before the
// settle time ends, also by another process than the one that bought it.
func TestVisibilityLag(t *testing.T) {
	t.Parallel()

	orders, rules := lose(t, "hidden", "cut-after", "500-after", "truncated", "empty")
	w := newWorld(t, simulator.Config{Faults: rules, VisibilityLag: 2 * time.Second})
	env := []string{"WORKER_SETTLE_ANSWERED=6s", "WORKER_SETTLE_UNANSWERED=6s", "WORKER_SETTLE_READS=6"}
	p := w.worker(env...)
	for _, l := range orders {
		w.place(with(order(l.name, l.name), "metadata", map[string]any{"customer": "c-1"}))
	}
	eventually(t, "the call for each is over, and there were looks in vain", func() bool {
		for _, l := range orders {
			// A slow machine finds one before it has called for another.
			if r := w.record(l.name); r == nil || r.text("state") == "accepted" || r.text("state") == "creating" {
				return false
			}
		}
		return w.sim.Stats().Requests["list"] >= len(orders)
	})
	p.kill()
	w.worker(env...)
	for _, l := range orders {
		l.check(t, w)
	}
}

// Namesakes that cannot be the server of the request are not taken for it.
func TestNamesakes(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.worker("WORKER_CONCURRENCY=32")
	type namesake struct {
		about  string
		change func(*simulator.VPS)
	}
	namesakes := []namesake{
		{"older", func(v *simulator.VPS) { v.CreatedAt = time.Now().Add(-time.Hour) }},
		{"a little older than clocks differ", func(v *simulator.VPS) { v.CreatedAt = time.Now().Add(-3 * time.Minute) }},
		{"fixed-cycle", func(v *simulator.VPS) { v.IsPayg = false }},
		{"more cores", func(v *simulator.VPS) { v.Resources.CPUCores++ }},
		{"more memory", func(v *simulator.VPS) { v.Resources.MemoryGB++ }},
		{"less storage", func(v *simulator.VPS) { v.Resources.StorageGB-- }},
		{"cancelled", func(v *simulator.VPS) { v.Status = "cancelled" }},
		{"terminated", func(v *simulator.VPS) { v.Status = "terminated" }},
		{"expired", func(v *simulator.VPS) { v.Status = "expired" }},
		{"fraud", func(v *simulator.VPS) { v.Status = "fraud" }},
		{"a longer name", func(v *simulator.VPS) { v.Name += "-2" }},
	}
	for i, n := range namesakes {
		for _, fault := range []string{"cut-after", "cut-x1"} {
			name := fmt.Sprintf("fault-%s-%d", fault, i)
			w.plant(name, n.change)
			w.place(order(name, name))
		}
	}
	for i, n := range namesakes {
		for fault, attempts := range map[string]float64{"cut-after": 1, "cut-x1": 2} {
			name := fmt.Sprintf("fault-%s-%d", fault, i)
			e := w.created(name)
			one(t, w, name)
			equal(t, n.about+": servers", w.bought()[name], 1)
			equal(t, n.about+": attempts", e.at("attempts"), any(attempts))
			equal(t, n.about+": adopted", e.at("adopted"), any(fault == "cut-after"))
			for _, i := range w.sim.Invoices() {
				if i.Name == name {
					equal(t, n.about+": vpsId", e.text("vpsId"), i.VPSID)
				}
			}
		}
	}
}

// A server that was announced for one request is not adopted for the next of
// the same name.
func TestNamesakeOfAnotherRequest(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Faults: []simulator.Rule{rule(t, "twin-a*/cut-after"), rule(t, "twin-b*/cut*1")}})
	w.worker("WORKER_CONCURRENCY=32")
	seen := make(map[string]string)
	for round := range 3 {
		for _, name := range []string{"twin-a", "twin-b"} {
			w.place(order(fmt.Sprintf("%s-%d", name, round), name))
		}
	}
	for round := range 3 {
		for _, name := range []string{"twin-a", "twin-b"} {
			key := fmt.Sprintf("%s-%d", name, round)
			id := w.created(key).text("vpsId")
			one(t, w, key)
			if other := seen[id]; other != "" {
				t.Errorf("%s was announced for %s and for %s", id, other, key)
			}
			seen[id] = key
		}
	}
	equal(t, "servers of twin-a", w.bought()["twin-a"], 3)
	equal(t, "servers of twin-b", w.bought()["twin-b"], 3)
}

// A look-up that fails proves nothing, neither presence nor absence: it is
// repeated, and then the request ends as it would have.
func TestFailingLookups(t *testing.T) {
	t.Parallel()

	const failures = 4
	kinds := []string{"cut", "500", "503-bare", "garbage", "empty", "truncated", "408", "404", "307", "truncated:at=0"}
	var rules []simulator.Rule
	var orders []lost
	for i, kind := range kinds {
		for _, fault := range []string{"cut-after", "cut*1"} {
			l := lost{fault, fmt.Sprintf("blind-%d-%d", i, len(fault))}
			orders = append(orders, l)
			rules = append(rules, rule(t, l.name+"*/"+fault), rule(t, fmt.Sprintf("list:%s*/%s*%d", l.name, kind, failures)))
		}
	}
	rules = append(rules, rule(t, "details/503*3"), rule(t, "details/garbage*3"))
	w := newWorld(t, simulator.Config{Faults: rules})
	var mu sync.Mutex
	looks := make(map[string]int)
	atPost := make(map[string][]int) // looks before each create
	w.answering(func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodGet && r.URL.Path == "/api/v2/vps" {
			looks[r.URL.Query().Get("name")]++
		}
		if r.Method == http.MethodPost {
			for name := range looks {
				atPost[name] = append(atPost[name], looks[name])
			}
		}
		return false
	})
	p := w.worker("WORKER_CONCURRENCY=32")
	for _, l := range orders {
		w.place(with(order(l.name, l.name), "metadata", map[string]any{"customer": "c-1"}))
	}
	for i, l := range orders {
		l.check(t, w)
		mu.Lock()
		least := failures + 1
		if !l.bought() {
			least = failures + 2 // WORKER_SETTLE_READS
		}
		if looks[l.name] < least {
			t.Errorf("%s: after %d failed look-ups it ended with %d in all, want %d", kinds[i/2], failures, looks[l.name], least)
		}
		mu.Unlock()
	}
	equal(t, "requests for details", w.sim.Stats().Requests["details"] >= 6+len(kinds), true)
	p.ready(http.StatusOK)
}

// A throttled look-up closes the gate like any other 429: until then there is
// neither a look-up nor a create.
func TestThrottledLookups(t *testing.T) {
	t.Parallel()

	orders, rules := lose(t, "lost", "cut-after", "cut*1")
	w := newWorld(t, simulator.Config{Faults: append(rules, rule(t, "list/429:retry-after=1*2"), rule(t, "details/429:retry-after=1*1"))})
	var mu sync.Mutex
	var until time.Time // that is how long HostUp has asked to wait
	early := 0
	w.answering(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || (r.URL.Path != "/api/v2/vps" && !strings.HasSuffix(r.URL.Path, "/details")) {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if time.Now().Before(until) {
			early++
		}
		answer := httptest.NewRecorder()
		w.sim.ServeHTTP(answer, r)
		if answer.Code == http.StatusTooManyRequests {
			until = time.Now().Add(time.Second)
		}
		maps.Copy(rw.Header(), answer.Header())
		rw.WriteHeader(answer.Code)
		_, _ = rw.Write(answer.Body.Bytes())
		return true
	})
	w.worker()
	for _, l := range orders {
		w.place(with(order(l.name, l.name), "metadata", map[string]any{"customer": "c-1"}))
	}
	for _, l := range orders {
		l.check(t, w)
	}
	mu.Lock()
	defer mu.Unlock()
	// What was on its way when the answer arrived cannot be called back.
	if early > 3 {
		t.Errorf("%d look-ups were sent while HostUp asked to wait", early)
	}
}

// The ledger has lost everything, as a broker can that confirmed writes which
// were on no disk yet. The request that comes again finds the server that was
// bought for it.
func TestLedgerForgetsACall(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.setup()
	p := w.worker("WORKER_PROVISION=")
	names := []string{"fault-hang-after-a", "fault-hang-before-b"}
	for _, name := range names {
		w.place(order(name, name))
	}
	eventually(t, "both calls hang, one server is bought", func() bool {
		return len(w.sim.Creates()) == 2 && len(w.sim.Invoices()) == 1
	})
	p.kill()
	kv, err := w.js.Stream(t.Context(), "KV_deploy-ledger")
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if w.record(name) != nil {
			t.Fatal("the ledger still knows " + name)
		}
	}
	// The second one never was anything: it is simply sent.
	w.update(func(c *simulator.Config) { c.Latency = 0 })
	w.answering(func(rw http.ResponseWriter, r *http.Request) bool {
		return answer(rw, r, "fault-hang-before-b", http.StatusCreated, "application/json", `{"status":"provisioning","vpsId":"vps_b","orderId":"o","invoiceId":"i"}`)
	})
	w.worker("WORKER_PROVISION=")
	e := w.created(names[0])
	equal(t, "adopted", e.at("adopted"), any(true))
	equal(t, "vpsId", e.text("vpsId"), w.sim.Invoices()[0].VPSID)
	e = w.created(names[1])
	equal(t, "adopted", e.at("adopted"), any(false))
	equal(t, "vpsId", e.text("vpsId"), "vps_b")
	w.queue(0)
	for _, name := range names {
		one(t, w, name)
	}
	equal(t, "create calls for the first", len(w.creates(names[0])), 1)
	equal(t, "servers", len(w.sim.Invoices()), 1)
}

// One record alone is lost, and there is a namesake that nobody can tell from
// the server which was bought: held, and nothing is bought.
func TestLedgerForgetsACallWithANamesake(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	p := w.worker()
	const name = "fault-hang-after-a"
	w.place(with(order(name, name), "metadata", map[string]any{"customer": "c-1"}))
	eventually(t, "the server is bought", func() bool { return len(w.sim.Invoices()) == 1 })
	p.kill()
	w.plant(name, nil)
	kv, err := w.js.KeyValue(t.Context(), "deploy-ledger")
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(t.Context(), "rec."+keyHash(name), jetstream.PurgeTTL(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.worker()
	isHeld(t, w, name, w.await(name), w.idsOf(name))
	equal(t, "create calls", len(w.creates(name)), 1)
}
