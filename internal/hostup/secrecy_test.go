package hostup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// echoes are answers of a server that gives the key away wherever it can.
func echoes() map[string]string {
	quoted, _ := json.Marshal("Bearer " + testKey)
	body := func(status, contentType, b string) string {
		return fmt.Sprintf("HTTP/1.1 %s\r\nX-Request-Id: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", status, testKey, contentType, len(b), b)
	}
	return map[string]string{
		"problem":        body("403 Forbidden", "application/problem+json", `{"title":"T","detail":`+string(quoted)+`,"requestId":`+string(quoted)+`,"code":`+string(quoted)+`}`),
		"unauthorized":   body("401 "+testKey, "application/problem+json", `{"title":`+string(quoted)+`}`),
		"html":           body("403 Forbidden", "text/html", "<p>"+testKey+"</p>"),
		"legacy":         body("500 Oops", "application/json", `{"error":"E","message":`+string(quoted)+`,"code":"C"}`),
		"throttled":      body("429 Slow", "text/plain", testKey),
		"created":        body("201 Created", "application/json", `{"vpsId":`+string(quoted)+`}`),
		"cut in the key": "HTTP/1.1 500 E\r\nContent-Length: 1000\r\n\r\n" + testKey[:12],
		"status line":    "HTTP/1.1 " + testKey + "\r\n\r\n",
		"protocol":       testKey + " 200 OK\r\n\r\n",
		"length":         "HTTP/1.1 200 OK\r\nContent-Length: " + testKey + "\r\n\r\n",
		"header":         "HTTP/1.1 200 OK\r\n" + testKey + "\r\n\r\n",
		"encoding":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + testKey + "\r\n\r\n",
		"trailer":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n1\r\nx\r\n0\r\n" + testKey + "\r\n\r\n",
		"redirect":       "HTTP/1.1 307 T\r\nLocation: https://x/?" + testKey + "\r\nContent-Length: 0\r\n\r\n",
		"hang up":        "",
	}
}

// TestKeyIsNeverTold drives every kind of failure against a server that echoes
// the key, and looks for it in all that comes out.
func TestKeyIsNeverTold(t *testing.T) {
	t.Parallel()
	for name, answer := range echoes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWire(t, func(c *net.TCPConn, r io.Reader) {
				buf := make([]byte, 4096)
				_, _ = r.Read(buf)
				_, _ = io.WriteString(c, answer)
			})
			spans := tracetest.NewSpanRecorder()
			reader := metric.NewManualReader()
			cfg := Config{
				BaseURL: w.url(), Token: mustStatic(t, testKey), ReadTimeout: time.Minute,
				TracerProvider: trace.NewTracerProvider(trace.WithSpanProcessor(spans)),
				MeterProvider:  metric.NewMeterProvider(metric.WithReader(reader)),
			}
			c := newTestClient(t, cfg)
			a := NewAccount(c)
			var out strings.Builder
			out.WriteString(tell(t, cfg, *c, c, c.tokens, c.create, a, c.Create(callContext(t, time.Minute), anOrder)))
			_, err := a.Facts(t.Context(), time.Now())
			out.WriteString(tellError(t, err))
			_, err = c.Servers(t.Context(), ServerFilter{Name: "web-01"})
			out.WriteString(tellError(t, err))
			_, err = c.ServerDetails(t.Context(), "vps_1")
			out.WriteString(tellError(t, err))
			var metrics metricdata.ResourceMetrics
			if err := reader.Collect(t.Context(), &metrics); err != nil {
				t.Fatal(err)
			}
			out.WriteString(tell(t, metrics))
			for _, s := range spans.Ended() {
				fmt.Fprintf(&out, "%s %v %v %v\n", s.Name(), s.Attributes(), s.Events(), s.Status())
			}
			if len(spans.Ended()) != 4 {
				t.Errorf("%d spans", len(spans.Ended()))
			}
			if leaks(out.String()) {
				t.Errorf("the key is told:\n%s", &out)
			}
		})
	}
}

// tell prints values in all the ways there are.
func tell(t *testing.T, values ...any) string {
	t.Helper()
	var b bytes.Buffer
	text := slog.New(slog.NewTextHandler(&b, nil))
	structured := slog.New(slog.NewJSONHandler(&b, nil))
	for _, v := range values {
		fmt.Fprintf(&b, "%v\n%+v\n%#v\n%s\n%q\n", v, v, v, v, v)
		text.Info("m", "v", v)
		structured.Info("m", "v", v)
	}
	if a, ok := values[len(values)-1].(provision.Answer); ok {
		b.WriteString(a.Detail + a.RequestID + a.VPSID + a.OrderID + a.InvoiceID)
		b.Write(a.Problem)
	}
	return b.String()
}

// tellError is tell for the whole chain of an error.
func tellError(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		t.Error("the call succeeded")
	}
	var out strings.Builder
	for ; err != nil; err = errors.Unwrap(err) {
		out.WriteString(tell(t, err))
		if e, ok := err.(*Error); ok { //nolint:errorlint // each link is looked at
			out.WriteString(string(e.Problem) + e.Message + e.Code + e.RequestID)
		}
	}
	return out.String()
}

func TestBadKeyIsNeverTold(t *testing.T) {
	t.Parallel()
	f := newTokenFile(t)
	f.write(testKey + " and more")
	c := newTestClient(t, Config{BaseURL: "http://127.0.0.1:1", Token: f.TokenSource})
	a := c.Create(callContext(t, time.Minute), anOrder)
	if a.Verdict != provision.VerdictNeverSent || !strings.Contains(a.Detail, filepath.Base(f.path)) {
		t.Errorf("%+v", a)
	}
	_, err := c.Limits(t.Context())
	if out := tell(t, c, a) + tellError(t, err); leaks(out) {
		t.Errorf("the key is told:\n%s", out)
	}
}

// TestRefusedKeyIsReadAgain: after a 401 the file is read again, and the call
// is not repeated.
func TestRefusedKeyIsReadAgain(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if r.Header.Get("Authorization") != "Bearer new" {
			respond(401, "application/problem+json", problemBody(401, "unauthorized"))(w, r)
			return
		}
		respond(201, "application/json", createdBody)(w, r)
	}))
	defer s.Close()
	f := newTokenFile(t) // its clock stands still: only Refresh looks again
	f.write("old")
	c := newTestClient(t, Config{BaseURL: s.URL, Token: f.TokenSource})
	f.expectNow("old", 1)
	f.write("new")
	if a := c.Create(callContext(t, time.Minute), anOrder); a.Refusal != provision.RefusalAuth || calls.Load() != 1 {
		t.Errorf("%+v after %d calls", a, calls.Load())
	}
	f.expectNow("new", 2)
	if a := c.Create(callContext(t, time.Minute), anOrder); a.Verdict != provision.VerdictCreated {
		t.Errorf("%+v", a)
	}
}

// TestTracing: spans have the name of the template, and HostUp receives the
// trace context whether or not anything is recorded.
func TestTracing(t *testing.T) {
	t.Parallel()
	var parent atomic.Pointer[string]
	handler := func(w http.ResponseWriter, r *http.Request) {
		p := r.Header.Get("Traceparent")
		parent.Store(&p)
		if r.Method == http.MethodPost {
			respond(201, "application/json", createdBody)(w, r)
			return
		}
		respond(200, "application/json", `{"id":"vps_1"}`)(w, r)
	}
	spans := tracetest.NewSpanRecorder()
	recorded := serve(t, Config{TracerProvider: trace.NewTracerProvider(trace.WithSpanProcessor(spans))}, handler)
	silent := serve(t, Config{}, handler)

	remote := oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: oteltrace.TraceID{1}, SpanID: oteltrace.SpanID{2}, TraceFlags: oteltrace.FlagsSampled, Remote: true,
	})
	ctx := oteltrace.ContextWithRemoteSpanContext(callContext(t, time.Minute), remote)
	silent.Create(ctx, anOrder)
	if got := *parent.Load(); got != "00-01000000000000000000000000000000-0200000000000000-01" {
		t.Errorf("traceparent %q without a provider", got)
	}
	recorded.Create(ctx, anOrder)
	if got := *parent.Load(); !strings.HasPrefix(got, "00-01000000000000000000000000000000-") || strings.Contains(got, "-0200000000000000-") {
		t.Errorf("traceparent %q", got)
	}
	if _, err := recorded.Server(ctx, "vps_1"); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range spans.Ended() {
		names = append(names, s.Name())
		if s.Parent().TraceID() != remote.TraceID() {
			t.Errorf("%s has another trace", s.Name())
		}
	}
	if got := strings.Join(names, ", "); got != "POST /vps/payg/deployments, GET /vps/{id}" {
		t.Errorf("spans %s", got)
	}
}

// TestWaitsAreCounted: what was not taken as it came is counted by kind.
func TestWaitsAreCounted(t *testing.T) {
	t.Parallel()
	reader := metric.NewManualReader()
	var after atomic.Pointer[string]
	c := serve(t, Config{MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)), RetryAfterMax: time.Minute},
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", *after.Load())
			w.WriteHeader(http.StatusTooManyRequests)
		})
	for value, want := range map[string]time.Duration{"61": time.Minute, "60": time.Minute, "0": 0, strings.Repeat("9", 30): time.Minute} {
		after.Store(&value)
		if a := c.Create(callContext(t, time.Minute), anOrder); a.Verdict != provision.VerdictThrottled || a.RetryAfter != want {
			t.Errorf("%s: %s, %v", value, a.Verdict, a.RetryAfter)
		}
	}
	got := counted(t, reader)
	if got["clamped"] != 2 || got["ignored"] != 1 {
		t.Errorf("counted %v", got)
	}
}

func counted(t *testing.T, reader *metric.ManualReader) map[string]int64 {
	t.Helper()
	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(context.WithoutCancel(t.Context()), &metrics); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int64{}
	for _, s := range metrics.ScopeMetrics {
		for _, m := range s.Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if m.Name != "hostup_worker.retry_after.clamped" || !ok {
				continue
			}
			for _, p := range sum.DataPoints {
				kind, _ := p.Attributes.Value("kind")
				kinds[kind.AsString()] = p.Value
			}
		}
	}
	return kinds
}
