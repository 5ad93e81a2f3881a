package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/simulator"
	"github.com/hostup/deploy-worker/internal/telemetry"
)

// The creation context of the requests in these tests: a span of an ordering
// system.
const (
	orderTrace  = "0af7651916cd43dd8448eb211c80319c"
	orderSpan   = "b7ad6b7169203331"
	orderParent = "00-" + orderTrace + "-" + orderSpan + "-01"
)

// tracedRun is a worker in this process whose spans and log lines can be read.
type tracedRun struct {
	*world

	spans *tracetest.InMemoryExporter
	log   *buffer
	stop  func()
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// runTraced starts a worker in this process, with spans if exported.
func runTraced(t *testing.T, cfg simulator.Config, exported bool, change func(*workerSettings)) *tracedRun {
	t.Helper()
	w := &tracedRun{world: newWorld(t, cfg), log: &buffer{}}
	s := demoSettings()
	s.natsSettings = natsSettings{NATSURL: w.srv.URL}
	s.APIURL, s.APIToken = w.env["HOSTUP_API_URL"], testToken
	s.BackoffInitial, s.BackoffMax, s.LimitsTTL = 20*time.Millisecond, 50*time.Millisecond, time.Minute
	if change != nil {
		change(&s)
	}
	o := telemetry.Options{Version: "test"}
	if exported {
		w.spans = tracetest.NewInMemoryExporter()
		o.Spans = w.spans
	}
	tel, err := telemetry.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	nc, js, err := broker.Connect(s.options())
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEngine(s, nc, js, tel, slog.New(telemetry.LogHandler(slog.NewJSONHandler(w.log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.provision(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		nc.Close()
	})
	t.Cleanup(w.stop)
	return w
}

// order publishes an order that belongs to the ordering system's trace.
func (w *tracedRun) order(key string) {
	w.t.Helper()
	w.publish(jsonOf(w.t, order(key, key)), nats.Header{
		"Traceparent": {orderParent}, "tracestate": {"shop=1"}, "baggage": {"tenant=7"},
		"ce-specversion": {"1.0"}, "ce-id": {"evt-" + key}, "ce-source": {"/shop"}, "ce-type": {"shop.order.v1"},
	})
}

// A request goes through a 429, an answer that gets lost and an adoption, in
// one delivery: all of it is in the ordering system's trace, below its span.
func TestTraceOfADelivery(t *testing.T) {
	t.Parallel()

	w := runTraced(t, simulator.Config{Faults: []simulator.Rule{rule(t, "web*/429:retry-after=0.2*1"), rule(t, "web*/cut-after*1")}}, true, nil)
	w.order("web-1")
	e := w.created("web-1")
	w.queue(0)
	w.stop()
	equal(t, "adopted", e.at("adopted"), any(true))
	golden(t, "delivery.txt", w.spans.GetSpans())
	w.carriedOn(e)
}

// The same with a wait that is too long for the hand: what is delivered again
// has a trace of its own that is linked, and the event is back in the ordering
// system's trace.
func TestTraceOfARedelivery(t *testing.T) {
	t.Parallel()

	w := runTraced(t, simulator.Config{Faults: []simulator.Rule{rule(t, "web*/429:retry-after=8*1"), rule(t, "web*/cut-after*1")}}, true, func(s *workerSettings) {
		s.InlineWait = 3 * time.Second // a turn may take a second
	})
	w.order("web-1")
	e := w.created("web-1")
	w.queue(0)
	w.stop()
	golden(t, "redelivery.txt", w.spans.GetSpans())
	w.carriedOn(e)
}

// carriedOn checks that an event belongs to the order's trace, below the span
// of its publish, with the state and the baggage that came with the order.
func (w *tracedRun) carriedOn(e event) {
	w.t.Helper()
	i := slices.IndexFunc(w.spans.GetSpans(), func(s tracetest.SpanStub) bool { return s.Name == "publish deploy.provisioning" })
	if i < 0 {
		w.t.Fatal("there is no span of the publish")
	}
	equal(w.t, "traceparent of the event", headerOf(e.header, "traceparent"),
		"00-"+orderTrace+"-"+w.spans.GetSpans()[i].SpanContext.SpanID().String()+"-01")
	equal(w.t, "tracestate of the event", headerOf(e.header, "tracestate"), "shop=1")
	equal(w.t, "baggage of the event", headerOf(e.header, "baggage"), "tenant=7")
}

// With WORKER_TRACE_RELATIONSHIP=link a first delivery has a trace of its own,
// too, and so has whatever a person publishes again.
func TestTraceLinks(t *testing.T) {
	t.Parallel()

	for about, test := range map[string]struct {
		change func(*workerSettings)
		header nats.Header
	}{
		"asked for": {func(s *workerSettings) { s.TraceRelationship = "link" }, nats.Header{"traceparent": {orderParent}}},
		"a replay":  {nil, nats.Header{"traceparent": {orderParent}, consumer.HeaderReplayOf: {"7"}}},
	} {
		t.Run(about, func(t *testing.T) {
			t.Parallel()
			w := runTraced(t, simulator.Config{}, true, test.change)
			w.publish(jsonOf(t, order("web-1", "web-1")), test.header)
			w.created("web-1")
			w.queue(0)
			w.stop()
			for _, s := range w.spans.GetSpans() {
				if s.Name != "process deploy.requested" {
					continue
				}
				if s.Parent.IsValid() || s.SpanContext.TraceID().String() == orderTrace {
					t.Errorf("the span belongs to the order's trace: %v below %v", s.SpanContext, s.Parent)
				}
				if len(s.Links) != 1 || s.Links[0].SpanContext.SpanID().String() != orderSpan {
					t.Errorf("links %v, want one to the order's span", s.Links)
				}
			}
		})
	}
}

// A request whose message is gone is driven under a span of its own, linked to
// the order's.
func TestTraceOfASweep(t *testing.T) {
	t.Parallel()

	w := runTraced(t, simulator.Config{Faults: []simulator.Rule{rule(t, "web*/429:retry-after=8*1")}}, true, func(s *workerSettings) {
		s.InlineWait, s.AckWait, s.CreateTimeout = 10*time.Millisecond, 100*time.Millisecond, 2*time.Second
	})
	w.order("web-1")
	eventually(t, "it waits", func() bool { r := w.record("web-1"); return r != nil && r.text("waitReason") == "rate-limit" })
	stream, err := w.js.Stream(t.Context(), "DEPLOY")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := w.created("web-1")
	eventually(t, "the sweep has a span", func() bool {
		for _, s := range w.spans.GetSpans() {
			if s.Name == "resume" && !s.Parent.IsValid() && len(s.Links) == 1 && s.Links[0].SpanContext.SpanID().String() == orderSpan {
				return true
			}
		}
		return false
	})
	w.stop()
	w.carriedOn(e)
	equal(t, "lines about the outcome", len(w.lines("request answered", "web-1")), 1)
}

// Without an exporter no span is made, and everything belongs to the order's
// own: the event has its trace context unchanged, and so have the calls.
func TestTraceContextWithoutExport(t *testing.T) {
	t.Parallel()

	w := runTraced(t, simulator.Config{Faults: []simulator.Rule{rule(t, "web*/429:retry-after=1*1")}}, false, func(s *workerSettings) {
		s.InlineWait = 10 * time.Millisecond // so that it is delivered again
	})
	w.order("web-1")
	e := w.created("web-1")
	w.queue(0)
	w.stop()
	for name, want := range map[string]string{"traceparent": orderParent, "tracestate": "shop=1", "baggage": "tenant=7"} {
		equal(t, name+" of the event", headerOf(e.header, name), want)
	}
	calls := w.calledFor("web-1")
	equal(t, "calls", len(calls), 2)
	for _, c := range calls {
		equal(t, "traceparent of a call", c.header.Get("traceparent"), orderParent)
		// Baggage is the requester's and goes to the requester only.
		equal(t, "baggage of a call", c.header.Get("baggage"), "")
	}
	for _, line := range w.lines("request answered", "web-1") {
		equal(t, "trace_id", line["trace_id"], any(orderTrace))
	}
}

// lines returns the log lines of a message about a key.
func (w *tracedRun) lines(message, key string) []map[string]any {
	w.t.Helper()
	var found []map[string]any
	for text := range strings.Lines(w.log.String()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			w.t.Fatalf("a log line is not JSON: %s", text)
		}
		if line["msg"] == message && line["key"] == key {
			found = append(found, line)
		}
	}
	return found
}

// Each request has one line about its outcome and one about each attempt, with
// what leads to everything else; no line has the API key, and waiting is none.
func TestLogLines(t *testing.T) {
	t.Parallel()

	w := runTraced(t, simulator.Config{Faults: []simulator.Rule{
		rule(t, "web*/429:retry-after=0.1*2"), rule(t, "web-lost*/cut-after*1"), rule(t, "bad*/400"),
	}}, false, nil)
	type outcome struct {
		key, result, verdict string
		attempts             int
	}
	outcomes := []outcome{{"web-plain", "provisioning", "created", 3}, {"web-lost", "provisioning", "unknown", 3}, {"bad-1", "failed", "refused", 1}}
	for _, o := range outcomes {
		w.order(o.key)
	}
	for _, o := range outcomes {
		w.outcome(o.key)
	}
	w.queue(0)
	w.stop()
	for _, o := range outcomes {
		answered := w.lines("request answered", o.key)
		if len(answered) != 1 {
			t.Errorf("%s has %d lines about its outcome: %v", o.key, len(answered), answered)
			continue
		}
		line := answered[0]
		equal(t, o.key+" result", line["result"], any(o.result))
		equal(t, o.key+" verdict", line["verdict"], any(o.verdict))
		equal(t, o.key+" attempt", line["attempt"], any(float64(o.attempts)))
		equal(t, o.key+" trace_id", line["trace_id"], any(orderTrace))
		made := w.creates(o.key)
		attempts := w.lines("attempt", o.key)
		equal(t, o.key+" lines about attempts", len(attempts), o.attempts)
		for i, a := range attempts {
			equal(t, o.key+" number", a["attempt"], any(float64(i+1)))
			equal(t, o.key+" trace_id of an attempt", a["trace_id"], any(orderTrace))
			if a["verdict"] == "unknown" { // that one had no answer
				equal(t, o.key+" level of an attempt", a["level"], any("WARN"))
				continue
			}
			equal(t, o.key+" level of an attempt", a["level"], any("INFO"))
			equal(t, o.key+" request_id of an attempt", a["request_id"], any(made[i].RequestID))
		}
		equal(t, o.key+" request_id", line["request_id"], attempts[len(attempts)-1]["request_id"])
	}
	if n := strings.Count(w.log.String(), "request waits"); n != 0 {
		t.Errorf("%d lines about waiting", n)
	}
	if strings.Contains(w.log.String(), testToken) {
		t.Errorf("the API key is in the log:\n%s", w.log)
	}
}

// golden compares spans with a file below testdata/traces; -update writes it.
func golden(t *testing.T, name string, spans tracetest.SpanStubs) {
	t.Helper()
	got := drawn(spans)
	path := filepath.Join("testdata", "traces", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(string(want), got); diff != "" {
		t.Errorf("spans (-%s +have):\n%s", name, diff)
	}
}

// drawn writes spans as trees, one for each trace, without what differs from
// run to run.
func drawn(spans tracetest.SpanStubs) string {
	slices.SortFunc(spans, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	d := drawing{spans: spans, traces: map[trace.TraceID]string{}, names: map[trace.SpanID]string{}}
	for _, s := range spans {
		d.names[s.SpanContext.SpanID()] = s.Name
	}
	order, _ := trace.TraceIDFromHex(orderTrace)
	parent, _ := trace.SpanIDFromHex(orderSpan)
	d.traces[order], d.names[parent] = "the order's trace", "the order's span"
	for _, s := range spans {
		if id := s.SpanContext.TraceID(); d.traces[id] == "" {
			d.traces[id] = fmt.Sprintf("trace %d", len(d.traces))
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(d.traces), func(a, b trace.TraceID) int { return cmp.Compare(d.traces[a], d.traces[b]) }) {
		fmt.Fprintf(&d.out, "%s\n", d.traces[id])
		root := trace.SpanID{}
		if id == order {
			root = parent
		}
		d.below(id, root, 1)
	}
	return d.out.String()
}

type drawing struct {
	spans  tracetest.SpanStubs
	traces map[trace.TraceID]string
	names  map[trace.SpanID]string
	out    strings.Builder
}

// below draws the children of a span in the order of their start. The last
// writes of a request run beside its ack: they come last.
func (d *drawing) below(id trace.TraceID, parent trace.SpanID, depth int) {
	var children tracetest.SpanStubs
	for _, s := range d.spans {
		if s.SpanContext.TraceID() == id && s.Parent.SpanID() == parent {
			children = append(children, s)
		}
	}
	tail := func(s tracetest.SpanStub) bool {
		return s.Name == "ledger release" || attr(s, provision.AttrState) == string(provision.StateDone)
	}
	slices.SortStableFunc(children, func(a, b tracetest.SpanStub) int {
		return cmp.Compare(map[bool]int{true: 1}[tail(a)], map[bool]int{true: 1}[tail(b)])
	})
	last := ""
	for _, s := range children {
		head, details := d.describe(s)
		text := head + details
		// How often a request asks whether it is its turn depends on the clock.
		if text == last && strings.Contains(text, `hostup_worker.reason=turn`) {
			continue
		}
		last = text
		indent := strings.Repeat("    ", depth)
		fmt.Fprintf(&d.out, "%s%s\n", indent, head)
		for line := range strings.Lines(details) {
			fmt.Fprintf(&d.out, "%s  %s", indent, line)
		}
		d.below(id, s.SpanContext.SpanID(), depth+1)
	}
}

func attr(s tracetest.SpanStub, name attribute.Key) string { return attrOf(s.Attributes, name) }

func attrOf(attrs []attribute.KeyValue, name attribute.Key) string {
	for _, kv := range attrs {
		if kv.Key == name {
			return kv.Value.String()
		}
	}
	return ""
}

// varying are the parts of attributes that differ from run to run.
var varying = []struct {
	is  *regexp.Regexp
	put string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "API"},
	{regexp.MustCompile(`vps_[0-9a-z]{16,}`), "VPS"},
	{regexp.MustCompile(`req_[0-9a-z]+`), "REQUEST"},
	{regexp.MustCompile(`(wait|server\.port|client\.id|network\.peer\.port)=\S+`), "$1=…"},
	{regexp.MustCompile(`0\.0\.0\.0|127\.0\.0\.1|localhost`), "HOST"},
}

// describe renders one span: a line for what it is, and one for each thing that
// it says.
func (d *drawing) describe(s tracetest.SpanStub) (head, details string) {
	head = s.Name + " (" + s.SpanKind.String() + ")"
	var lines []string
	for _, kv := range s.Attributes {
		value := kv.Value.String()
		if kv.Key == "messaging.message.body.size" && s.SpanKind == trace.SpanKindProducer {
			value = "…" // times with and without fractions
		}
		lines = append(lines, string(kv.Key)+"="+value)
	}
	slices.Sort(lines)
	if s.Status.Code != 0 {
		lines = append(lines, "status "+s.Status.Code.String())
	}
	for _, l := range s.Links {
		lines = append(lines, "link to "+d.names[l.SpanContext.SpanID()]+" of "+d.traces[l.SpanContext.TraceID()])
	}
	var events []string
	for _, e := range s.Events {
		if e.Name == "wait" && attr(s, "messaging.nats.num_delivered") != "1" && attrOf(e.Attributes, provision.AttrReason) == provision.WaitGate {
			continue // how much of the wait is left after it was handed back depends on the clock
		}
		text := "event " + e.Name
		for _, kv := range e.Attributes {
			if kv.Key != provision.AttrWait {
				text += " " + string(kv.Key) + "=" + kv.Value.String()
			}
		}
		events = append(events, text)
	}
	lines = append(lines, slices.Compact(events)...)
	for _, l := range lines {
		for _, v := range varying {
			l = v.is.ReplaceAllString(l, v.put)
		}
		details += l + "\n"
	}
	return head, details
}
