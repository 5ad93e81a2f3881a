package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// After a 429 no create is sent earlier than HostUp asked, in whatever form it
// asked. The times are those of the simulator's own log.
//
//nolint:paralleltest,tparallel // the rows go through one worker, one after the other
func TestRetryAfterIsKept(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	p := w.worker("WORKER_RETRY_AFTER_MAX=1500ms")
	whole := func(d time.Duration) func(time.Time) time.Time {
		return func(at time.Time) time.Time { return at.Add(d) }
	}
	seconds := func(d time.Duration) func(time.Time) time.Time {
		return func(at time.Time) time.Time { return at.Add(d).Truncate(time.Second) }
	}
	for i, test := range []struct {
		about, fault string
		// earliest is the first moment at which the next create may come.
		earliest func(time.Time) time.Time
	}{
		{"seconds", "429:retry-after=1*1", whole(time.Second)},
		{"fraction of a second", "429:retry-after=0.4*1", whole(400 * time.Millisecond)},
		{"HTTP date", "429:date=1s*1", seconds(time.Second)},
		{"reset in ISO", "429:reset=800ms*1", whole(800 * time.Millisecond)},
		{"reset in Unix seconds", "429:epoch=1s*1", seconds(time.Second)},
		{"everything that is documented", "429*1", whole(time.Second)},
		{"legacy envelope", "429:legacy,retry-after=1*1", whole(time.Second)},
		{"HTML", "429-bare:retry-after=1*1", whole(time.Second)},
		{"twice", "429:retry-after=1*2", whole(2 * time.Second)},
		{"longer than the maximum", "429:retry-after=86400*1", whole(1500 * time.Millisecond)},
		{"beyond 64 bits", "429:retry-after=99999999999999999999999999*1", whole(1500 * time.Millisecond)},
		{"zero", "429:retry-after=0*1", whole(0)},
		{"negative", "429:retry-after=-5*1", whole(0)},
		{"past date", "429:date=-1h*1", whole(0)},
		{"unreadable", "429:retry-after=soon*1", whole(0)},
		{"none", "429:none*1", whole(0)},
	} {
		t.Run(test.about, func(t *testing.T) {
			w.t = t
			name := fmt.Sprintf("web-%d", i)
			w.update(func(c *simulator.Config) { c.Faults = []simulator.Rule{rule(t, test.fault)} })
			w.place(order(name, name))
			e := w.created(name)
			creates := w.creates(name)
			times := len(creates) - 1
			equal(t, "attempts", e.at("attempts"), any(float64(times+1)))
			if times < 1 || creates[0].Outcome != "429" {
				t.Fatalf("creates are %+v, want a 429 first", creates)
			}
			if earliest := test.earliest(creates[0].At); creates[times].At.Before(earliest) {
				t.Errorf("the next create came at %s, %s too early", creates[times].At, earliest.Sub(creates[times].At))
			}
			equal(t, "servers", w.bought()[name], 1)
		})
	}
	w.t = t
	p.ready(http.StatusOK)
	_, metrics := p.get("/metrics")
	if !strings.Contains(metrics, "hostup_worker_retry_after_clamped") {
		t.Error("a clamped Retry-After is not counted")
	}
}

// While one order is throttled no other is sent either.
func TestThrottlingHoldsEverybody(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.worker()
	w.place(order("first", "fault-429-retry-after-2-x1-a"))
	eventually(t, "the first is throttled", func() bool {
		c := w.creates("fault-429-retry-after-2-x1-a")
		return len(c) > 0 && c[0].Outcome == "429"
	})
	asked := w.sim.Creates()[0].At.Add(2 * time.Second)
	for i := range 5 {
		w.place(order(fmt.Sprintf("other-%d", i), fmt.Sprintf("other-%d", i)))
	}
	for i := range 5 {
		w.created(fmt.Sprintf("other-%d", i))
	}
	w.created("first")
	early := 0
	for _, c := range w.sim.Creates()[1:] {
		if c.At.Before(asked) {
			early++
		}
	}
	// What was on its way when the answer arrived cannot be called back.
	if early > 1 {
		t.Errorf("%d creates were sent while HostUp asked to wait", early)
	}
	once(t, w)
}

// A real rate limit over everything, reads included.
func TestRateLimit(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Rate: simulator.Rate{Limit: 8, Window: time.Second}})
	w.worker("WORKER_LIMITS_TTL=5s")
	for i := range 20 {
		w.place(order(fmt.Sprintf("rate-%d", i), fmt.Sprintf("rate-%d", i)))
	}
	for i := range 20 {
		w.created(fmt.Sprintf("rate-%d", i))
		one(t, w, fmt.Sprintf("rate-%d", i))
	}
	once(t, w)
	w.queue(0)
}

// authHeld waits until /readyz names the key as the reason.
func (p *process) authHeld() {
	p.t.Helper()
	eventually(p.t, "/readyz names auth", func() bool {
		var page struct {
			Ready  bool `json:"ready"`
			Checks []struct {
				Name   string `json:"name"`
				OK     bool   `json:"ok"`
				Detail string `json:"detail"`
			} `json:"checks"`
		}
		status, body := p.get("/readyz")
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			p.t.Fatalf("/readyz is not JSON: %v: %s", err, body)
		}
		for _, c := range page.Checks {
			if !c.OK && c.Name == "auth" && c.Detail != "" {
				return status == http.StatusServiceUnavailable && !page.Ready
			}
		}
		return false
	})
	if status, _ := p.get("/healthz"); status != http.StatusOK {
		p.t.Errorf("/healthz is %d, want 200", status)
	}
}

// A refused key fails nothing; the queue goes on when the file has a good one.
func TestKeyIsReplaced(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	key := file(t, "key", testToken+"\n")
	p := w.worker("HOSTUP_API_TOKEN=", "HOSTUP_API_TOKEN_FILE="+key)
	w.place(order("before", "before"))
	w.created("before")

	w.update(func(c *simulator.Config) { c.Token = "the-new-key" })
	w.place(order("held-1", "held-1"))
	p.authHeld()
	w.place(order("held-2", "held-2"))
	equal(t, "events", len(w.events("")), 1)
	// As an operator replaces it, and as Kubernetes does: by a rename.
	if err := os.WriteFile(key+".new", []byte("the-new-key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(key+".new", key); err != nil {
		t.Fatal(err)
	}
	w.created("held-1")
	w.created("held-2")
	p.ready(http.StatusOK)
	w.queue(0)
	once(t, w)
}

func TestKeyIsWrongFromTheStart(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	p := w.unready("HOSTUP_API_TOKEN=not-the-key")
	eventually(t, "the streams are there", func() bool { _, err := w.js.Stream(t.Context(), "DEPLOY_EVENTS"); return err == nil })
	w.place(order("order-1", "order-1"))
	p.authHeld()
	equal(t, "events", len(w.events("")), 0)
	w.update(func(c *simulator.Config) { c.Token = "not-the-key" })
	w.created("order-1")
	p.ready(http.StatusOK)
}

// A 403 that the API did not write is about the caller, not about the order.
func TestForbiddenByAFilter(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Faults: []simulator.Rule{rule(t, "creates/403-bare*2"), rule(t, "limits/403-bare*1")}})
	p := w.worker()
	w.place(order("filtered", "filtered"))
	e := w.created("filtered")
	equal(t, "attempts", e.at("attempts"), any(3.0))
	w.update(func(c *simulator.Config) {
		c.Faults = []simulator.Rule{rule(t, "reads/403-bare"), rule(t, "creates/403-bare")}
	})
	w.place(order("filtered-2", "filtered-2"))
	p.authHeld()
	w.update(func(c *simulator.Config) { c.Faults = nil })
	w.created("filtered-2")
	once(t, w)
}

// With WORKER_AUTH_POLICY=fail the requester is told.
func TestAuthPolicyFail(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Faults: []simulator.Rule{rule(t, "refused*/401")}})
	p := w.worker("WORKER_AUTH_POLICY=fail")
	w.place(order("refused", "refused"))
	e := w.outcome("refused")
	failure{"refused", "no", false, false, 1, 0}.check(t, "refused", nil, e)
	equal(t, "problem.status", e.at("problem", "status"), any(401.0))
	w.place(order("good", "good"))
	w.created("good")
	p.ready(http.StatusOK)
}

// The check being unavailable is no refusal.
func TestAccountCannotBeRead(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{Faults: []simulator.Rule{
		rule(t, "limits/503*2"), rule(t, "limits/garbage*1"), rule(t, "limits/429:retry-after=1*1"), rule(t, "options/cut*1"), rule(t, "options/truncated*1"),
	}})
	w.worker()
	w.place(order("patient", "patient"))
	e := w.created("patient")
	equal(t, "attempts", e.at("attempts"), any(1.0))
	equal(t, "create calls", len(w.sim.Creates()), 1)
}
