package main

import (
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// The API key appears nowhere, whatever HostUp does with it.
func TestTokenStaysSecret(t *testing.T) {
	t.Parallel()

	const token = "hu_SECRET-9f8e7d6c5b4a39281706"
	w := newWorld(t, simulator.Config{Token: token})
	var looks atomic.Int32
	w.answering(func(rw http.ResponseWriter, r *http.Request) bool {
		// A server that repeats the key, as some do in their errors.
		said := r.Header.Get("Authorization")
		rw.Header().Set("X-Request-Id", "req-"+said)
		rw.Header().Set("X-Echo", said)
		if r.URL.Path == "/api/v2/vps" && looks.Add(1)%4 == 1 {
			http.Error(rw, said, http.StatusBadGateway)
			return true
		}
		return answer(rw, r, "echo-refuse", http.StatusBadRequest, "application/problem+json", `{"type":"about:blank","title":"bad `+said+`","status":400,"code":"`+token+`","detail":"you sent `+said+`","`+token+`":1,"requestId":"`+token+`"}`) ||
			answer(rw, r, "echo-html", http.StatusNotFound, "text/html", "<p>"+said+"</p>") ||
			answer(rw, r, "echo-error", http.StatusInternalServerError, "application/json", `{"title":"`+said+`","status":500}`) ||
			answer(rw, r, "echo-garbage", http.StatusCreated, "text/plain", said+` "vpsId":"`+token+`"`) ||
			answer(rw, r, "echo-created", http.StatusCreated, "application/json", `{"vpsId":"vps_1","orderId":"`+token+`"}`)
	})
	p := w.worker("HOSTUP_API_TOKEN="+token, "WORKER_LOG_LEVEL=debug", "HOSTUP_CREATE_TIMEOUT=1s", "WORKER_UNKNOWN_POLICY=hold",
		"OTEL_TRACES_EXPORTER=console", "OTEL_LOGS_EXPORTER=console")
	names := []string{
		"echo-refuse", "echo-html", "echo-error", "echo-garbage", "echo-created",
		"fault-403-a", "fault-403-limit-a", "fault-400-a", "fault-500-a", "fault-502-bare-a", "fault-garbage-a", "fault-empty-a", "fault-truncated-a",
		"fault-cut-after-a", "fault-hang-a", "fault-307-a", "fault-429-retry-after-0-x1-a", "plain",
	}
	for _, name := range names {
		w.place(order("key-"+name, name))
		w.await("key-" + name)
	}
	w.publish([]byte("no order "+strings.Repeat("x", 10)), nil)
	eventually(t, "a dead letter", func() bool { return len(w.stored("DEPLOY_DEAD", 1)) == 1 })

	var pages []string
	look := func(p *process) {
		for _, path := range []string{"/metrics", "/readyz", "/healthz", "/version"} {
			_, body := p.get(path)
			pages = append(pages, path, body)
		}
	}
	// The key is refused.
	w.update(func(c *simulator.Config) { c.Token = "another" })
	w.place(order("unauthorised", "unauthorised"))
	p.authHeld()
	look(p)
	w.update(func(c *simulator.Config) { c.Token = token })
	w.created("unauthorised")
	look(p)
	for _, args := range [][]string{
		{"resolve", "key-echo-error", "--not-created", "--reason", "x"},
		{"resolve", "key-echo-garbage", "--abandon", "--reason", "x", "-o", "json"},
		{"audit"},
		{"audit", "-o", "json"},
	} {
		r := command(t, w.with("HOSTUP_API_TOKEN="+token, "WORKER_LOG_LEVEL=debug"), args...)
		pages = append(pages, r.out, r.err)
	}
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
	for _, exported := range []string{"process deploy.requested", "POST /vps/payg/deployments", "request answered"} {
		if !strings.Contains(p.out.String(), exported) {
			t.Errorf("%s was not exported, so nothing is known of what is", exported)
		}
	}
	// There is no connection, or no such host.
	for _, url := range []string{"http://127.0.0.1:1/api/v2", "https://127.0.0.1:1/api/v2", strings.Replace(w.env["HOSTUP_API_URL"], "http:", "https:", 1)} {
		lost := w.unready("HOSTUP_API_TOKEN="+token, "WORKER_INLINE_WAIT=10ms", "WORKER_LOG_LEVEL=debug", "HOSTUP_API_URL="+url)
		w.place(order(url, "no-connection"))
		lost.sees("account-unreadable")
		look(lost)
		lost.kill()
		pages = append(pages, lost.out.String(), lost.err.String())
	}
	other := command(t, w.with("HOSTUP_API_TOKEN="+token, "HOSTUP_API_URL=https://user:"+token+"@127.0.0.1/"), "run")
	pages = append(pages, other.out, other.err, p.out.String(), p.err.String())
	for _, stream := range []string{"DEPLOY_EVENTS", "DEPLOY_DEAD", "KV_deploy-ledger"} {
		messages := w.stored(stream, 1)
		if len(messages) == 0 {
			t.Errorf("%s is empty", stream)
		}
		for _, m := range messages {
			pages = append(pages, stream+" "+string(m.Data))
			for name, values := range m.Header {
				pages = append(pages, name+": "+strings.Join(values, ","))
			}
		}
	}
	for _, page := range pages {
		if i := strings.Index(page, token); i >= 0 {
			t.Errorf("the key is in: ...%q", page[max(0, i-200):min(len(page), i+60)])
		}
	}
}
