package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/hostup/deploy-worker/internal/simulator"
	deployv1 "github.com/hostup/deploy-worker/proto/hostup/deploy/v1"
)

// failure is what a deploy.failed has to say.
type failure struct {
	reason    string
	billed    string
	retryable bool
	rejected  bool
	attempts  int
	// status is of the problem that the worker makes; 0 does not look.
	status int
}

// check holds an event against the contract's table.
func (f failure) check(t *testing.T, key string, body []byte, e event) {
	t.Helper()
	if e.kind != "failed" {
		t.Fatalf("want a deploy.failed, have %s", e)
	}
	id := keyHash(key) + ".failed"
	if f.rejected {
		id = keyHash(key) + ".rejected." + bodyHash(body)
	}
	equal(t, "ce-id", e.id(), id)
	equal(t, "Nats-Msg-Id", headerOf(e.header, "Nats-Msg-Id"), id)
	equal(t, "ce-type", headerOf(e.header, "ce-type"), "se.hostup.deploy.failed.v1")
	equal(t, "idempotencyKey", e.text("idempotencyKey"), key)
	equal(t, "reason", e.text("reason"), f.reason)
	equal(t, "billed", e.text("billed"), f.billed)
	equal(t, "retryable", e.at("retryable"), any(f.retryable))
	equal(t, "rejected", e.at("rejected") == true, f.rejected)
	attempts, _ := e.at("attempts").(float64)
	equal(t, "attempts", int(attempts), f.attempts)
	recent(t, "requestedAt", e.text("requestedAt"), time.Now().Add(-5*time.Minute))
	recent(t, "occurredAt", e.text("occurredAt"), time.Now().Add(-5*time.Minute))
	if f.status != 0 {
		equal(t, "problem.type", e.text("problem", "type"), "urn:hostup-worker:problem:"+f.reason)
		equal(t, "problem.status", e.at("problem", "status"), any(float64(f.status)))
		if e.text("problem", "title") == "" || e.text("problem", "detail") == "" {
			t.Errorf("the problem explains nothing: %v", e.at("problem"))
		}
	}
}

// pointers lists what errors[] of an event points at.
func pointers(t *testing.T, e event) []string {
	t.Helper()
	list, _ := e.at("problem", "errors").([]any)
	var found []string
	for _, one := range list {
		m, _ := one.(map[string]any)
		p, _ := m["pointer"].(string)
		if m["detail"] == "" || m["detail"] == nil || m["code"] == "" || m["code"] == nil {
			t.Errorf("errors[] has %v, want a detail and a code too", m)
		}
		found = append(found, p)
	}
	return found
}

//nolint:paralleltest,tparallel // the rows go through one worker, one after the other
func TestFailed(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Limits: simulator.Limits{CPUCores: 64, MemoryGB: 512, StorageGB: 3000, Instances: 50}})
	// The account is changed between the rows: nothing may be known from before.
	w.worker("WORKER_INLINE_WAIT=100ms", "WORKER_LIMITS_TTL=1us")
	t.Run("invalid-request names every fault at once", func(t *testing.T) {
		w.t = t
		body := []byte(`{"idempotencyKey":"bad-1","name":"a","cpuCores":0,"memoryGb":257,"storageGb":49.5,"region":7,` +
			`"metadata":{"customer":"c-1","n":3},"deadline":"tomorrow"}`)
		w.publish(body, nats.Header{"ce-id": {"cause-1"}, "traceparent": {traceParent}})
		e := w.await("bad-1")
		failure{"invalid-request", "no", false, true, 0, 400}.check(t, "bad-1", body, e)
		got := pointers(t, e)
		want := []string{"/name", "/cpuCores", "/memoryGb", "/storageGb", "/region", "/metadata/n", "/deadline"}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("pointers are %q, want %q", got, want)
		}
		equal(t, "ce-causationid", headerOf(e.header, "ce-causationid"), "cause-1")
		equal(t, "echoed metadata", e.text("metadata", "customer"), "c-1")
		equal(t, "echoed memory", e.at("request", "memoryGb"), any(257.0))
		if !strings.Contains(headerOf(e.header, "traceparent"), traceID) {
			t.Error("the trace of the request does not go on")
		}
		// It never claimed the key.
		w.place(order("bad-1", "corrected-1"))
		w.created("bad-1")
	})

	t.Run("idempotency-conflict does not disturb the first", func(t *testing.T) {
		w.t = t
		w.place(order("conflict-1", "conflict-1"))
		w.created("conflict-1")
		body := jsonOf(t, with(order("conflict-1", "conflict-1"), "cpuCores", 4))
		w.publish(body, nil)
		failure{"idempotency-conflict", "no", false, true, 0, 422}.check(t, "conflict-1", body, w.rejection("conflict-1"))
		// Metadata and deadline do not make a request another one.
		w.place(with(with(order("conflict-1", "conflict-1"), "metadata", map[string]any{"a": "b"}), "deadline", "2099-01-01T00:00:00Z"))
		w.queue(0)
		equal(t, "events of the key", len(w.events("conflict-1")), 2)
		equal(t, "servers", w.bought()["conflict-1"], 1)
	})

	t.Run("limit-exceeded by the check", func(t *testing.T) {
		w.t = t
		o := with(with(order("limit-1", "limit-1"), "storageGb", 2000), "metadata", map[string]any{"a": "b"})
		w.place(with(order("limit-0", "limit-0"), "storageGb", 1900))
		w.created("limit-0")
		w.place(o)
		e := w.outcome("limit-1")
		failure{"limit-exceeded", "no", true, false, 0, 403}.check(t, "limit-1", nil, e)
		left := 3000
		for _, i := range w.sim.Invoices() {
			left -= i.Resources.StorageGB
		}
		detail := e.text("problem", "detail")
		for _, want := range []string{"2000", fmt.Sprint(left), "torage"} {
			if !strings.Contains(detail, want) {
				t.Errorf("detail %q does not name %q", detail, want)
			}
		}
		equal(t, "request.storageGb", e.at("request", "storageGb"), any(2000.0))
		equal(t, "metadata", e.text("metadata", "a"), "b")
		equal(t, "create calls", len(w.creates("limit-1")), 0)
	})

	t.Run("limit-exceeded by HostUp", func(t *testing.T) {
		w.t = t
		for i, name := range []string{"fault-403-limit-a", "fault-403-blocker-cpu-limit-exceeded-extensions-b"} {
			if i == 1 {
				// A fault's name may not hold an underscore, so a rule says it.
				name = "ext-limit"
				w.update(func(c *simulator.Config) {
					c.Faults = []simulator.Rule{rule(t, "ext-limit*/403:blocker=cpu_limit_exceeded,extensions")}
				})
			}
			w.place(order("hostup-limit-"+name, name))
			e := w.outcome("hostup-limit-" + name)
			failure{"limit-exceeded", "no", true, false, 1, 0}.check(t, "hostup-limit-"+name, nil, e)
			verbatim(t, e.data, w.calledFor(name)[0].answer)
		}
	})

	t.Run("the deploy gate", func(t *testing.T) {
		w.t = t
		w.update(func(c *simulator.Config) {
			c.Gate = simulator.Gate{Closed: true, Reason: "Verify your account before using Cloud VMs.", BlockerReasons: []string{"verification_required"}}
		})
		defer w.update(func(c *simulator.Config) { c.Gate = simulator.Gate{} })
		w.place(order("gate-1", "gate-1"))
		e := w.outcome("gate-1")
		failure{"limit-exceeded", "no", true, false, 0, 403}.check(t, "gate-1", nil, e)
		if !strings.Contains(string(e.data), "Verify your account") {
			t.Errorf("HostUp's reason is not in %s", e.data)
		}
	})

	t.Run("409 may be tried again", func(t *testing.T) {
		w.t = t
		w.place(order("cooldown-1", "fault-409-a"))
		e := w.outcome("cooldown-1")
		failure{"refused", "no", true, false, 1, 0}.check(t, "cooldown-1", nil, e)
		verbatim(t, e.data, w.calledFor("fault-409-a")[0].answer)
	})

	t.Run("refused keeps the problem byte for byte", func(t *testing.T) {
		w.t = t
		document := `{"type":"https://developer.hostup.se/errors/invalid_request","title":"Invalid <request> & more","status":400,` +
			`"detail":"snowman ☃ and \u2028 and a raw  \/ slash","code":"invalid_request","big":123456789012345678901234567890.10,"tiny":1e-400,` +
			`"errors":[{"pointer":"/name","detail":"no","code":"x","extra":null}],"nested":{"z":1,"a":[true,{"deep":1.0}]},"requestId":"req_1"}`
		w.answering(func(rw http.ResponseWriter, r *http.Request) bool {
			return answer(rw, r, "verbatim", http.StatusBadRequest, "application/problem+json", document)
		})
		defer w.answering(nil)
		w.place(order("verbatim-1", "verbatim-1"))
		e := w.outcome("verbatim-1")
		failure{"refused", "no", false, false, 1, 0}.check(t, "verbatim-1", nil, e)
		verbatim(t, e.data, []byte(document))

		body, err := proto.Marshal(&deployv1.DeployRequested{IdempotencyKey: "verbatim-2", Name: "verbatim-2", CpuCores: 1, MemoryGb: 1, StorageGb: 50, Region: "stockholm"})
		if err != nil {
			t.Fatal(err)
		}
		w.publish(body, nats.Header{"content-type": {"application/protobuf"}})
		var failed deployv1.DeployFailed
		if err := proto.Unmarshal(w.await("verbatim-2").data, &failed); err != nil {
			t.Fatal(err)
		}
		equal(t, "reason", failed.GetReason(), "refused")
		equal(t, "problem_json", string(failed.GetProblemJson()), document)
	})

	t.Run("refused without a problem document", func(t *testing.T) {
		w.t = t
		w.place(order("html-1", "fault-422-bare-a"))
		e := w.outcome("html-1")
		failure{"refused", "no", false, false, 1, 0}.check(t, "html-1", nil, e)
		equal(t, "problem.type", e.text("problem", "type"), "about:blank")
		equal(t, "problem.status", e.at("problem", "status"), any(422.0))
		equal(t, "problem.title", e.text("problem", "title"), "Unprocessable Entity")
		if !strings.Contains(e.text("problem", "detail"), "<h1>") {
			t.Errorf("detail %q is not the start of the body", e.text("problem", "detail"))
		}
	})

	t.Run("deadline past on arrival", func(t *testing.T) {
		w.t = t
		w.place(with(order("late-1", "late-1"), "deadline", time.Now().Add(-time.Second).Format(time.RFC3339)))
		failure{"deadline-exceeded", "no", true, false, 0, 504}.check(t, "late-1", nil, w.outcome("late-1"))
		equal(t, "create calls", len(w.creates("late-1")), 0)
	})

	t.Run("undecodable", func(t *testing.T) {
		w.t = t
		body := []byte(`{"idempotencyKey":"in-vain",`)
		seq := w.publish(body, nats.Header{"Idempotency-Key": {"broken-1"}, "X-Mine": {"a", "b"}})
		failure{"undecodable", "no", false, true, 0, 400}.check(t, "broken-1", body, w.await("broken-1"))
		buried(t, w, seq, body, "undecodable")
		if got := w.dead(seq).Header["X-Mine"]; !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("the original header is %q", got)
		}
		w.place(order("broken-1", "mended-1"))
		w.created("broken-1")
	})
	w.t = t
	w.queue(0)
}

// The deadline also counts while nothing may be sent, and says what the last
// answer was.
func TestDeadlineWhileThrottled(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		about, inline string
		deadline      time.Duration
	}{
		{"waiting in hand", "1m", 2500 * time.Millisecond},
		// Longer than one pull: nothing is pulled while nothing may be sent.
		{"waiting on the broker", "10ms", 9 * time.Second},
	} {
		t.Run(test.about, func(t *testing.T) {
			t.Parallel()
			inTime(t, test.deadline, func(t *testing.T, room time.Duration) bool {
				t.Helper()
				w := newWorld(t, simulator.Config{})
				w.worker("WORKER_INLINE_WAIT=" + test.inline)
				o := order("throttled-1", "fault-429-retry-after-600-a")
				o["deadline"] = time.Now().Add(room).Format(time.RFC3339Nano)
				w.place(o)
				e := w.outcome("throttled-1")
				if e.at("attempts") == any(0.0) {
					return false
				}
				failure{"deadline-exceeded", "no", true, false, 1, 504}.check(t, "throttled-1", nil, e)
				equal(t, "cause.status", e.at("problem", "cause", "status"), any(429.0))
				var cause, answer any
				if err := json.Unmarshal(w.calledFor("fault-429-retry-after-600-a")[0].answer, &answer); err != nil {
					t.Fatal(err)
				}
				if cause = e.at("problem", "cause"); !reflect.DeepEqual(cause, answer) {
					t.Errorf("cause is %v, want %v", cause, answer)
				}
				equal(t, "create calls", len(w.sim.Creates()), 1)
				return true
			})
		})
	}
}

// An outcome that could not be published is published by the next process,
// and is still HostUp's own words.
func TestOutcomeSurvivesACrash(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.setup()
	const document = `{"type":"about:blank","title":"<b>no</b> & never","status":404,"big":123456789012345678901234567890.10,"x":"\u2028 \/"}`
	w.answering(func(rw http.ResponseWriter, r *http.Request) bool {
		return answer(rw, r, "refused", http.StatusNotFound, "application/problem+json", document)
	})
	p := w.worker("WORKER_PROVISION=")
	if err := w.js.DeleteStream(t.Context(), "DEPLOY_EVENTS"); err != nil {
		t.Fatal(err)
	}
	w.place(order("refused-1", "refused-1"))
	w.place(order("bought-1", "bought-1"))
	p.sees(`publish ` + keyHash("refused-1") + `.failed`)
	p.sees(`publish ` + keyHash("bought-1") + `.provisioning`)
	p.kill()
	w.setup()
	w.worker("WORKER_PROVISION=")
	e := w.outcome("refused-1")
	failure{"refused", "no", false, false, 1, 0}.check(t, "refused-1", nil, e)
	verbatim(t, e.data, []byte(document))
	w.created("bought-1")
	w.queue(0)
	equal(t, "servers", len(w.sim.Invoices()), 1)
}

// The configured deadline bounds a request that has none or a later one.
func TestConfiguredDeadline(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Faults: []simulator.Rule{rule(t, "limits/503"), rule(t, "options/503")}})
	w.worker("WORKER_DEADLINE=700ms")
	w.place(with(order("clamped-1", "clamped-1"), "deadline", time.Now().Add(time.Hour).Format(time.RFC3339)))
	w.place(order("clamped-2", "clamped-2"))
	failure{"deadline-exceeded", "no", true, false, 0, 504}.check(t, "clamped-1", nil, w.outcome("clamped-1"))
	failure{"deadline-exceeded", "no", true, false, 0, 504}.check(t, "clamped-2", nil, w.outcome("clamped-2"))
}

// WORKER_LIMIT_POLICY=wait keeps a request until it fits.
func TestLimitPolicyWait(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Limits: simulator.Limits{CPUCores: 3, MemoryGB: 100, StorageGB: 1000, Instances: 9}})
	p := w.worker("WORKER_LIMIT_POLICY=wait")
	w.place(order("fits", "fits-1"))
	w.created("fits")
	before := w.sim.Stats().Requests["limits"]
	w.place(order("waits", "waits-1"))
	eventually(t, "the limits are looked at again", func() bool { return w.sim.Stats().Requests["limits"] >= before+3 })
	equal(t, "events while the account is full", len(w.events("waits")), 0)
	w.update(func(c *simulator.Config) { c.Limits.CPUCores = 8 })
	w.created("waits")
	p.ready(http.StatusOK)
}

// rule reads a fault rule.
func rule(t *testing.T, text string) simulator.Rule {
	t.Helper()
	r, err := simulator.ParseRule(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// answer answers the creates of names with a prefix.
func answer(rw http.ResponseWriter, r *http.Request, prefix string, status int, media, text string) bool {
	if r.Method != http.MethodPost {
		return false
	}
	body, _ := io.ReadAll(r.Body) // what cannot be read is not for us
	r.Body = nopCloser{bytes.NewReader(body)}
	if !bytes.Contains(body, []byte(`"`+prefix)) {
		return false
	}
	rw.Header().Set("Content-Type", media)
	rw.WriteHeader(status)
	_, _ = io.WriteString(rw, text)
	return true
}

// verbatim checks that an event has HostUp's document as it was sent, but for
// white space between its members.
func verbatim(t *testing.T, data, document []byte) {
	t.Helper()
	var e struct {
		Problem json.RawMessage `json:"problem"`
	}
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, document); err != nil {
		t.Fatal(err)
	}
	equal(t, "problem", string(e.Problem), want.String())
}

// buried checks a dead letter against the contract and returns it.
func buried(t *testing.T, w *world, seq uint64, body []byte, reason string) {
	t.Helper()
	m := w.dead(seq)
	if !bytes.Equal(m.Data, body) {
		t.Errorf("the dead letter has %d bytes %.80q, want %d bytes %.80q", len(m.Data), m.Data, len(body), body)
	}
	equal(t, "deploy-dead-reason", headerOf(m.Header, "deploy-dead-reason"), reason)
	if d := headerOf(m.Header, "deploy-dead-detail"); d == "" || strings.ContainsFunc(d, func(r rune) bool { return r < ' ' }) {
		t.Errorf("deploy-dead-detail is %q, want one line that explains", d)
	}
	equal(t, "deploy-dead-stream", headerOf(m.Header, "deploy-dead-stream"), "DEPLOY")
	equal(t, "deploy-dead-deliveries", headerOf(m.Header, "deploy-dead-deliveries"), "1")
	recent(t, "deploy-dead-time", headerOf(m.Header, "deploy-dead-time"), time.Now().Add(-5*time.Minute))
	equal(t, "deploy-dead-truncated", headerOf(m.Header, "deploy-dead-truncated"), "")
}
