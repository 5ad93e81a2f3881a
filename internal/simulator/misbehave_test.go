package simulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestFaultsOfACreate applies every kind once by name and looks at both sides:
// what the client gets and what the account knows.
func TestFaultsOfACreate(t *testing.T) {
	t.Parallel()
	c := newClock() // stands at 2026-04-27 12:34:56
	r := start(t, Config{Now: c.Now})
	for _, tt := range []struct {
		fault   string
		status  int    // 0: an error instead of an answer
		code    string // of the problem document; "-" for another body
		created bool
		outcome string
	}{
		{"400", 400, "invalid_request", false, "400"},
		{"401", 401, "unauthorized", false, "401"},
		{"403", 403, "forbidden", false, "403"},
		{"403-bare", 403, "-", false, "403"},
		{"404", 404, "not_found", false, "404"},
		{"408", 408, "request_timeout", false, "408"},
		{"409", 409, "cooldown_active", false, "409"},
		{"425", 425, "too_early", false, "425"},
		{"429", 429, "rate_limit_exceeded", false, "429"},
		{"307", 307, "temporary_redirect", false, "307"},
		{"500-before", 500, "internal_error", false, "500"},
		{"500-after", 500, "internal_error", true, "500"},
		{"502-before", 502, "upstream_cloud_quick_deploy_shape_invalid", false, "502"},
		{"502-after", 502, "upstream_cloud_quick_deploy_shape_invalid", true, "502"},
		{"503-after", 503, "upstream_unavailable", true, "503"},
		{"504-before", 504, "gateway_timeout", false, "504"},
		{"599-after", 599, "unknown_error", true, "599"},
		{"500-after:code=upstream_failed", 500, "upstream_failed", true, "500"},
		{"500-bare-before", 500, "-", false, "500"},
		{"500-bare-after", 500, "-", true, "500"},
		{"garbage", 201, "-", true, "201"},
		{"garbage-before", 201, "-", false, "201"},
		{"empty", 201, "-", true, "201"},
		{"empty-before", 201, "-", false, "201"},
		{"cut-before", 0, "", false, "cut"},
		{"cut-after", 0, "", true, "cut"},
		{"cut-after:fin", 0, "", true, "cut"},
	} {
		if err := r.sim.Update(func(cfg *Config) { cfg.Fault = MustFault(tt.fault) }); err != nil {
			t.Fatal(err)
		}
		before := len(r.sim.Invoices())
		got := r.create("web-01")
		if got.status != tt.status || (got.err != nil) != (tt.status == 0) {
			t.Errorf("%s: %d %v", tt.fault, got.status, got.err)
		}
		var p problem
		isProblem := json.Unmarshal([]byte(got.body), &p) == nil
		if tt.status != 0 && isProblem != (tt.code != "-") || isProblem && p.Code != tt.code {
			t.Errorf("%s: body %s", tt.fault, got.body)
		}
		if created := len(r.sim.Invoices()) > before; created != tt.created {
			t.Errorf("%s: created %v", tt.fault, created)
		}
		creates := r.sim.Creates()
		if last := creates[len(creates)-1]; last.Outcome != tt.outcome || last.Created != tt.created || last.Fault != MustFault(tt.fault).String() {
			t.Errorf("%s: log %+v", tt.fault, last)
		}
		if invoices := r.sim.Invoices(); tt.created && invoices[len(invoices)-1].Fault != MustFault(tt.fault).String() {
			t.Errorf("%s: invoice %+v", tt.fault, invoices[len(invoices)-1])
		}
	}
}

func TestRateLimitHeadersOfAFault(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := start(t, Config{Now: c.Now, Rate: Rate{Limit: 1000, Window: time.Hour}})
	for fault, want := range map[string]string{
		"429":                                  "1 60 0 2026-04-27T12:34:57.000Z",
		"429:retry-after=3":                    "3   ",
		"429:date=3s":                          "Mon, 27 Apr 2026 12:34:59 GMT   ",
		"429:reset=3s":                         "   2026-04-27T12:34:59.000Z",
		"429:epoch=3s":                         "   1777293299",
		"429:none":                             "   ",
		"429:retry-after=-5":                   "-5   ",
		"429:retry-after=0":                    "0   ",
		"429:retry-after=99999999999999999999": "99999999999999999999   ",
		"429:retry-after=soon,reset=3s":        "soon   2026-04-27T12:34:59.000Z",
		"503:retry-after=2":                    "2 1000 - 2026-04-27T13:34:56.000Z",
	} {
		if err := r.sim.Update(func(cfg *Config) { cfg.Fault = MustFault(fault) }); err != nil {
			t.Fatal(err)
		}
		h := r.create("web-01").header
		left := h.Get(headerRateRemaining)
		if len(left) > 2 {
			left = "-" // of the real rate
		}
		got := fmt.Sprint(h.Get("Retry-After"), " ", h.Get(headerRateLimit), " ", left, " ", h.Get(headerRateReset))
		if got != want {
			t.Errorf("%s: %q, want %q", fault, got, want)
		}
	}
}

func TestLegacyEnvelope(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	keys := func(got reply) string {
		var names []string
		for name := range decode[map[string]any](t, got) {
			names = append(names, name)
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	got := r.create("fault-429-legacy-web").want(t, 429)
	if k := keys(got); k != "error message requestId retryAfter" || got.header.Get("Retry-After") != "1" {
		t.Errorf("429: %s", got.body)
	}
	got = r.create("fault-500-legacy-web").want(t, 500)
	if k := keys(got); k != "code error message requestId timestamp" || !strings.Contains(got.body, "INTERNAL_ERROR") {
		t.Errorf("500: %s", got.body)
	}
}

func TestBlockerReasonsOfAFault(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Faults: []Rule{
		{Prefix: "old", Fault: MustFault("403-limit:extensions")},
		{Prefix: "paid", Fault: MustFault("409:blocker=has_unpaid_invoice")},
		{Fault: MustFault("403-limit")},
	}})
	for name, want := range map[string]string{
		"web-01":  `"blockerReasons":["instance_limit_exceeded"]}`,
		"old-01":  `"extensions":{"blockerReasons":["instance_limit_exceeded"]}}`,
		"paid-01": `"blockerReasons":["has_unpaid_invoice"]}`,
	} {
		if got := r.create(name); !strings.HasSuffix(got.body, ","+want+"\n") {
			t.Errorf("%s: %s", name, got.body)
		}
	}
}

func TestRedirectComesBackToTheLog(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Fault: MustFault("307*1")})
	r.client.CheckRedirect = nil // the careless client
	r.create("web-01").want(t, 201)
	if n := len(r.sim.Creates()); n != 2 {
		t.Errorf("%d creates seen, want 2", n)
	}
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Faults: []Rule{{Prefix: "at-", Fault: MustFault("truncated:at=3")}, {Fault: MustFault("truncated")}, {Target: "limits", Fault: MustFault("truncated")}}})
	got := r.create("web-01")
	id := r.sim.Invoices()[0].VPSID
	if got.status != 201 || !errors.Is(got.err, io.ErrUnexpectedEOF) || !strings.Contains(got.body, `"vpsId":"`+id+`"`) || json.Valid([]byte(got.body)) {
		t.Errorf("%d %v %s", got.status, got.err, got.body)
	}
	if got := r.create("at-01"); got.body != `{"s` || !errors.Is(got.err, io.ErrUnexpectedEOF) {
		t.Errorf("at=3: %q %v", got.body, got.err)
	}
	if got := r.get(limitsPath); got.status != 200 || len(got.body) == 0 || !errors.Is(got.err, io.ErrUnexpectedEOF) {
		t.Errorf("read: %d %q %v", got.status, got.body, got.err)
	}
	if log := r.sim.Creates()[0]; log.Outcome != "truncated" || !log.Created {
		t.Errorf("log %+v", log)
	}
}

// TestCutSendsNothing looks at the bare connection: no byte, and a reset
// unless a polite end was asked for.
func TestCutSendsNothing(t *testing.T) {
	t.Parallel()
	for fault, wantReset := range map[string]bool{"cut-after": true, "cut-before:fin": false} {
		r := start(t, Config{Fault: MustFault(fault)})
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		body := createBody("web-01")
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer sim-token\r\nContent-Length: %d\r\n\r\n%s", createPath, len(body), body)
		got, err := io.ReadAll(conn)
		if len(got) != 0 || errors.Is(err, syscall.ECONNRESET) != wantReset {
			t.Errorf("%s: read %q, %v", fault, got, err)
		}
		_ = conn.Close()
	}
}

func TestCutOverTLS(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		sim := New(Config{Fault: MustFault("cut-after")})
		server := httptest.NewUnstartedServer(sim)
		server.EnableHTTP2 = http2
		server.StartTLS()
		defer server.Close()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+createPath, strings.NewReader(createBody("web-01")))
		req.Header.Set("Authorization", "Bearer sim-token")
		resp, err := server.Client().Do(req)
		if err == nil {
			resp.Body.Close()
			t.Errorf("http2 %v: status %d", http2, resp.StatusCode)
		}
		if log := sim.Creates(); len(log) != 1 || log[0].Outcome != "cut" || !log[0].Created {
			t.Errorf("http2 %v: log %+v", http2, log)
		}
	}
}

func TestHangEndsWithClientOrClose(t *testing.T) {
	t.Parallel()
	for fault, created := range map[string]int{"hang-before": 0, "hang-after": 1} {
		r := start(t, Config{Fault: MustFault(fault)})
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			again := time.NewTicker(time.Millisecond)
			defer again.Stop()
			for ctx.Err() == nil && !slices.ContainsFunc(r.sim.Creates(), func(c Create) bool { return c.Outcome == "hang" }) {
				<-again.C
			}
			leave()
		}()
		got := r.do(http.MethodPost, createPath, createBody("web-01"), func(q *http.Request) { *q = *q.WithContext(ctx) })
		if leave(); got.err == nil {
			t.Errorf("%s: answered %d", fault, got.status)
		}
		if log := r.sim.Creates(); len(log) != 1 || log[0].Outcome != "hang" || len(r.sim.Invoices()) != created {
			t.Errorf("%s: log %+v", fault, log)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := r.create("web-02"); got.err == nil {
				t.Errorf("%s: answered %d after Close", fault, got.status)
			}
		})
		_ = r.sim.Close()
		_ = r.sim.Close()
		wg.Wait()
	}
}

// call runs a request without a network, so that it can live in a bubble of
// synctest. It reports false if the handler aborted.
func call(sim *Server, req *http.Request) (rec *httptest.ResponseRecorder, answered bool) {
	req.Header.Set("Authorization", "Bearer sim-token")
	rec = httptest.NewRecorder()
	defer func() {
		if p := recover(); p != nil && p != any(http.ErrAbortHandler) {
			panic(p)
		}
	}()
	sim.ServeHTTP(rec, req)
	return rec, true
}

func TestSlowAndLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sim := New(Config{Latency: time.Second, Faults: []Rule{{Prefix: "late", Fault: MustFault("slow-before=3s")}, {Prefix: "slow", Fault: MustFault("slow=3s")}}})
		for name, want := range map[string]struct{ answer, invoice time.Duration }{
			"web-01":  {time.Second, time.Second},
			"slow-01": {4 * time.Second, time.Second},
			"late-01": {4 * time.Second, 4 * time.Second},
		} {
			began := time.Now()
			rec, _ := call(sim, httptest.NewRequest(http.MethodPost, createPath, strings.NewReader(createBody(name))))
			invoices := sim.Invoices()
			if took, at := time.Since(began), invoices[len(invoices)-1].At.Sub(began); rec.Code != 201 || took != want.answer || at != want.invoice {
				t.Errorf("%s: %d after %s, invoice after %s", name, rec.Code, took, at)
			}
		}
	})
}

// A late effect comes at its time, also where its goroutine gets to run later
// than a look that is not late: a busy machine must not make it later still.
func TestALateEffectIsNotLaterThanItSays(t *testing.T) {
	t.Parallel()
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			const after, lag = 550 * time.Millisecond, 100 * time.Millisecond
			sim := New(Config{VisibilityLag: lag, Faults: []Rule{{Fault: MustFault("slow-before=550ms")}}})
			began := time.Now()
			looks := make(chan int)
			for _, at := range []time.Duration{after, after + lag} {
				time.AfterFunc(at, func() {
					rec, _ := call(sim, httptest.NewRequest(http.MethodGet, limitsPath, nil))
					var limits limitsAnswer
					_ = json.Unmarshal(rec.Body.Bytes(), &limits) // what cannot be read shows nothing
					looks <- limits.Current.Instances
				})
			}
			bought := make(chan struct{})
			go func() {
				defer close(bought)
				call(sim, httptest.NewRequest(http.MethodPost, createPath, strings.NewReader(createBody("web-01"))))
			}()
			for range 2 {
				if n := <-looks; n != 1 {
					t.Errorf("after %s the account has %d servers", time.Since(began), n)
				}
			}
			<-bought
			if i := sim.Invoices(); len(i) != 1 || !i[0].At.Equal(began.Add(after)) {
				t.Errorf("invoices %+v", i)
			}
		})
	}
}

func TestCreateOutlivesItsClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sim := New(Config{Latency: time.Minute})
		ctx, leave := context.WithCancel(t.Context())
		gone := httptest.NewRequest(http.MethodPost, createPath, strings.NewReader(createBody("web-01"))).WithContext(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			call(sim, gone)
		}()
		synctest.Wait()
		leave()
		if _, answered := call(sim, httptest.NewRequest(http.MethodGet, limitsPath, nil).WithContext(ctx)); answered {
			t.Error("a read goes on without its client")
		}
		<-done
		if n := len(sim.Invoices()); n != 1 {
			t.Errorf("%d invoices", n)
		}
	})
}

func TestCloseEndsWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sim := New(Config{Latency: time.Hour})
		done := make(chan bool)
		go func() {
			_, answered := call(sim, httptest.NewRequest(http.MethodPost, createPath, strings.NewReader(createBody("web-01"))))
			done <- answered
		}()
		synctest.Wait()
		if log := sim.Creates(); len(log) != 1 || log[0].Outcome != "pending" {
			t.Errorf("while waiting: %+v", log)
		}
		_ = sim.Close()
		if <-done {
			t.Error("answered after Close")
		}
		if log := sim.Creates(); log[0].Outcome != "aborted" || len(sim.Invoices()) != 0 {
			t.Errorf("after Close: %+v", log)
		}
	})
}

func TestFaultsOfReads(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	id := decode[createdAnswer](t, r.create("web-01").want(t, 201)).VPSID
	paths := []string{limitsPath, createPath, listPath + "?name=web-01", listPath + "/" + id, listPath + "/" + id + "/details", listPath + "/" + id + "/status"}
	for fault, status := range map[string]int{
		"401": 401, "403-bare": 403, "429": 429, "500-bare-before": 500, "503-before": 503, "503-after": 503,
		"garbage": 200, "empty": 200, "cut-before": 0, "cut-after": 0,
	} {
		rule := Rule{Target: "reads", Fault: MustFault(fault)}
		if err := r.sim.Update(func(cfg *Config) { cfg.Faults = []Rule{rule} }); err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			got := r.get(path)
			if got.status != status || (got.err != nil) != (status == 0) || status == 200 && json.Valid([]byte(got.body)) {
				t.Errorf("%s %s: %d %v %s", fault, path, got.status, got.err, got.body)
			}
		}
		r.create("web-02").want(t, 201) // untouched
	}
}

// TestHalfARequestBuysNothing sends a whole document in a body that was
// announced to be longer.
func TestHalfARequestBuysNothing(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := createBody("web-01")
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer sim-token\r\nContent-Length: %d\r\n\r\n%s", createPath, len(body)+1, body)
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.ReadAll(conn)
	if log := r.sim.Creates(); len(log) != 1 || log[0].Created || log[0].BodyBytes != len(body) || len(r.sim.Invoices()) != 0 {
		t.Errorf("log %+v", log)
	}
}
