package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// doctored is what `worker doctor -o json` says, by check.
func doctored(t *testing.T, w *world, changes ...string) (code int, status map[string]string) {
	t.Helper()
	r := command(t, w.with(changes...), "doctor", "-o", "json")
	var found []struct {
		Check  string  `json:"check"`
		Status string  `json:"status"`
		Detail *string `json:"detail"`
		Fix    *string `json:"fix"`
	}
	if err := json.Unmarshal([]byte(r.out), &found); err != nil {
		t.Fatalf("%v in %q", err, r.out)
	}
	status = make(map[string]string)
	for _, f := range found {
		if f.Detail == nil || f.Fix == nil || f.Status != "ok" && f.Status != "warning" && f.Status != "failure" || f.Status == "failure" && *f.Detail == "" {
			t.Errorf("%+v", f)
		}
		status[f.Check] = f.Status
	}
	return r.code, status
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{})
	expect := func(about string, code, wantCode int, got, want map[string]string) {
		t.Helper()
		equal(t, about+": exit code", code, wantCode)
		for check, status := range want {
			equal(t, about+": "+check, got[check], status)
		}
	}

	code, got := doctored(t, w)
	expect("nothing set up", code, exitFailed, got, map[string]string{
		"nats": "ok", "nats-version": "ok", "jetstream": "ok", "stream DEPLOY": "failure", "bucket deploy-ledger": "failure",
		"consumer deploy-worker": "failure", "consumer deploy-worker-batch": "warning", "api": "ok", "deploy-gate": "ok",
	})
	w.setup()
	code, got = doctored(t, w)
	expect("set up", code, exitDone, got, map[string]string{
		"stream DEPLOY": "ok", "bucket deploy-ledger": "ok", "consumer deploy-worker": "ok", "consumer deploy-worker-batch": "ok",
		"durability DEPLOY": "warning", "durability KV_deploy-ledger": "warning", "brake": "ok", "gate": "ok", "limits": "ok",
	})

	command(t, w.env, "pause", "--reason", "test")
	code, got = doctored(t, w, "HOSTUP_API_TOKEN=wrong")
	expect("paused, with a wrong key", code, exitFailed, got, map[string]string{"brake": "warning", "api": "failure"})

	s, err := w.js.Stream(t.Context(), "DEPLOY")
	if err != nil {
		t.Fatal(err)
	}
	changed := s.CachedInfo().Config
	changed.Discard = jetstream.DiscardOld
	if _, err := w.js.UpdateStream(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	w.update(func(c *simulator.Config) { c.Gate.Closed = true })
	code, got = doctored(t, w, "WORKER_DEADLINE=1000h")
	expect("changed by hand", code, exitFailed, got, map[string]string{"stream DEPLOY": "warning", "deploy-gate": "warning", "ledger-age": "failure"})

	code, got = doctored(t, w, "NATS_URL=nats://127.0.0.1:9")
	expect("no NATS", code, exitFailed, got, map[string]string{"nats": "failure", "api": "ok"})
	r := command(t, w.env, "doctor")
	if !strings.Contains(r.out, "-> worker resume") {
		t.Errorf("the table does not say what to do:\n%s", r.out)
	}
}
