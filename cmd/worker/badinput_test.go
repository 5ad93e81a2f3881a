package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
	deployv1 "github.com/hostup/deploy-worker/proto/hostup/deploy/v1"
)

// No message, however bad, goes without an answer or a dead letter, and none
// keeps the worker from the next good one.
//
//nolint:paralleltest,tparallel // the rows go through one worker, one after the other
func TestBadInput(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	p := w.worker("WORKER_CONCURRENCY=4")
	good := func(key, name string) string { return string(jsonOf(t, order(key, name))) }
	h := func(pairs ...string) nats.Header {
		m := nats.Header{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = []string{pairs[i+1]}
		}
		return m
	}
	named := func(key string) nats.Header { return h("Idempotency-Key", key) }
	const structured = "application/cloudevents+json"
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	many := strings.TrimSuffix(strings.Repeat(`"k%d":"v",`, 33), ",")
	for i := range 33 {
		many = strings.Replace(many, "%d", fmt.Sprint(i), 1)
	}
	const invalid, unreadable = "invalid-request", "undecodable"

	for i, test := range []struct {
		about  string
		body   string
		header nats.Header
		// key answers with reason; without a key there is only a dead letter.
		key, reason string
		pointers    []string
		dead        string
	}{
		{about: "empty body", dead: unreadable},
		{about: "empty body with a key", header: named("empty"), key: "empty", reason: unreadable, dead: unreadable},
		{about: "empty protobuf", header: h("content-type", "application/protobuf"), dead: "no-key"},
		{
			about: "empty protobuf with a key", header: h("content-type", "application/protobuf", "ce-id", "empty-pb"), key: "empty-pb", reason: invalid,
			pointers: []string{"/name", "/cpuCores", "/memoryGb", "/storageGb", "/region"},
		},
		{about: "white space", body: " \n\t ", header: named("blank"), key: "blank", reason: unreadable, dead: unreadable},
		{about: "not JSON", body: "order one server please", header: named("prose"), key: "prose", reason: unreadable, dead: unreadable},
		{about: "not JSON without a key", body: "order one server please", dead: unreadable},
		{about: "cut-off JSON", body: `{"idempotencyKey":"cut","name":"web`, header: h("Nats-Msg-Id", "cut"), key: "cut", reason: unreadable, dead: unreadable},
		{about: "two documents", body: good("two", "two-1") + good("two", "two-1"), header: named("two"), key: "two", reason: unreadable, dead: unreadable},
		{about: "array", body: "[" + good("array", "array-1") + "]", header: named("array"), key: "array", reason: unreadable, dead: unreadable},
		{about: "string", body: `"order"`, header: named("string"), key: "string", reason: unreadable, dead: unreadable},
		{about: "number", body: `42`, header: named("number"), key: "number", reason: unreadable, dead: unreadable},
		{about: "null", body: `null`, header: named("null"), key: "null", reason: unreadable, dead: unreadable},
		{about: "empty object", body: `{}`, dead: "no-key"},
		{about: "65 KiB", body: `{"idempotencyKey":"k65","x":"` + strings.Repeat("x", 65<<10) + `"}`, dead: "too-large"},
		{about: "65 KiB with a key in a header", body: strings.Repeat(" ", 64<<10) + good("k65", "k65"), header: named("k65"), key: "k65", reason: unreadable, dead: "too-large"},
		{about: "500 KiB", body: strings.Repeat("\x00\xff", 250<<10), dead: "too-large"},
		{about: "10 000 levels deep", body: `{"idempotencyKey":"deep","x":` + deep + `}`, header: named("deep"), key: "deep", reason: unreadable, dead: unreadable},
		{about: "only brackets", body: strings.Repeat("[", 60_000), header: named("brackets"), key: "brackets", reason: unreadable, dead: unreadable},
		{about: "invalid UTF-8", body: strings.Replace(good("utf8", "web-x"), "web-x", "web-\xff\xfe", 1), header: named("utf8"), key: "utf8", reason: unreadable, dead: unreadable},
		{about: "lone surrogate", body: strings.Replace(good("surrogate", "web-x"), "web-x", `web-\ud800`, 1), key: "surrogate", reason: invalid, pointers: []string{"/name"}},
		{about: "NUL bytes", body: strings.Repeat("\x00", 200), header: named("nul"), key: "nul", reason: unreadable, dead: unreadable},
		{about: "NUL in the name", body: strings.Replace(good("nul-name", "web-x"), "web-x", `web-\u0000x`, 1), key: "nul-name", reason: invalid, pointers: []string{"/name"}},
		{about: "NUL in the key", body: good("a\x00b", "nul-key"), dead: "invalid-key"},
		{
			about: "numbers as strings", body: `{"idempotencyKey":"quoted","name":"quoted","cpuCores":"two","memoryGb":"4GB","storageGb":"","region":"stockholm"}`,
			key: "quoted", reason: invalid, pointers: []string{"/cpuCores", "/memoryGb", "/storageGb"},
		},
		{about: "1e309", body: strings.Replace(good("huge", "huge-1"), `"cpuCores":2`, `"cpuCores":1e309`, 1), key: "huge", reason: invalid, pointers: []string{"/cpuCores"}},
		{about: "beyond 32 bits", body: strings.Replace(good("wide", "wide-1"), `"cpuCores":2`, `"cpuCores":4294967298`, 1), key: "wide", reason: invalid, pointers: []string{"/cpuCores"}},
		{about: "negative", body: strings.Replace(good("negative", "negative-1"), `"cpuCores":2`, `"cpuCores":-2`, 1), key: "negative", reason: invalid, pointers: []string{"/cpuCores"}},
		{about: "fractional cores", body: strings.Replace(good("fraction", "fraction-1"), `"cpuCores":2`, `"cpuCores":2.5`, 1), key: "fraction", reason: invalid, pointers: []string{"/cpuCores"}},
		{about: "NaN", body: strings.Replace(good("nan", "nan-1"), `"cpuCores":2`, `"cpuCores":NaN`, 1), header: named("nan"), key: "nan", reason: unreadable, dead: unreadable},
		{about: "missing key", body: good("", "missing-key"), dead: "no-key"},
		{about: "null key", body: strings.Replace(good("x", "null-key"), `"idempotencyKey":"x"`, `"idempotencyKey":null`, 1), dead: "no-key"},
		{about: "numeric key", body: strings.Replace(good("x", "number-key"), `"idempotencyKey":"x"`, `"idempotencyKey":17`, 1), dead: "invalid-key"},
		{about: "conflicting keys", body: good("in-body", "conflicting"), header: named("in-header"), key: "in-body", reason: invalid, pointers: []string{"/idempotencyKey"}},
		{about: "key of 256 characters", body: good(strings.Repeat("k", 256), "long-key"), dead: "invalid-key"},
		{about: "key beyond ASCII", body: good("nyckel-å", "swedish"), dead: "invalid-key"},
		{about: "newline in the key", body: good("a\nce-id: x", "newline-key"), dead: "invalid-key"},
		{about: "newline in the key of a CloudEvent", body: good("", "newline-ce"), header: h("ce-id", "a%0D%0AIdempotency-Key: x"), dead: "invalid-key"},
		{about: "newline in the name", body: good("newline-name", "web\r\nX: y"), key: "newline-name", reason: invalid, pointers: []string{"/name"}},
		{about: "newline in the region", body: string(jsonOf(t, with(order("newline-region", "newline-region"), "region", "a\nb"))), key: "newline-region", reason: invalid, pointers: []string{"/region"}},
		{about: "wrong content type", body: good("xml", "xml-1"), header: h("content-type", "text/xml", "Idempotency-Key", "xml"), key: "xml", reason: unreadable, dead: unreadable},
		{about: "JSON called protobuf", body: good("lie", "lie-1"), header: h("content-type", "application/protobuf"), dead: unreadable},
		{about: "protobuf called JSON", body: "\n\x03abc\x12\x05web-1", header: named("lie-2"), key: "lie-2", reason: unreadable, dead: unreadable},
		{
			about: "structured CloudEvent without data", body: `{"specversion":"1.0","id":"no-data","type":"t","source":"/s"}`, header: h("content-type", structured),
			key: "no-data", reason: invalid, pointers: []string{"/name", "/cpuCores", "/memoryGb", "/storageGb", "/region"},
		},
		{about: "structured CloudEvent that is none", body: `[]`, header: h("content-type", structured), dead: unreadable},
		{
			about: "structured CloudEvent with bad base64", body: `{"id":"bad64","datacontenttype":"application/protobuf","data_base64":"%%"}`,
			header: h("content-type", structured), key: "bad64", reason: unreadable, dead: unreadable,
		},
		{about: "structured CloudEvent in Avro", body: `x`, header: h("content-type", "application/cloudevents+avro"), dead: unreadable},
		{about: "protobuf garbage", body: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", header: h("content-type", "application/protobuf", "idempotency-key", "garbage"), key: "garbage", reason: unreadable, dead: unreadable},
		{about: "deadline in the past", body: string(jsonOf(t, with(order("past", "past-1"), "deadline", "2001-01-01T00:00:00Z"))), key: "past", reason: "deadline-exceeded"},
		{about: "deadline that is none", body: string(jsonOf(t, with(order("when", "when-1"), "deadline", 12))), key: "when", reason: invalid, pointers: []string{"/deadline"}},
		{about: "unknown region", body: string(jsonOf(t, with(order("region", "region-1"), "region", "atlantis"))), key: "region", reason: invalid, pointers: []string{"/region"}},
		{about: "too much metadata", body: string(jsonOf(t, with(order("meta", "meta-1"), "metadata", map[string]any{"k": strings.Repeat("v", 4096)}))), key: "meta", reason: invalid, pointers: []string{"/metadata"}},
		{about: "too many metadata", body: strings.Replace(good("meta-2", "meta-2"), "{", `{"metadata":{`+many+`},`, 1), key: "meta-2", reason: invalid, pointers: []string{"/metadata"}},
		{about: "name that is not one", body: good("name", "web_01.example.com"), key: "name", reason: invalid, pointers: []string{"/name"}},
		{about: "trace that is none", body: good("trace", "web 01"), header: h("traceparent", "00-zz", "tracestate", "=,="), key: "trace", reason: invalid, pointers: []string{"/name"}},
	} {
		t.Run(test.about, func(t *testing.T) {
			w.t = t
			body, before := []byte(test.body), len(w.events(""))
			seq := w.publish(body, test.header)
			if test.key != "" {
				e := w.await(test.key)
				f := failure{test.reason, "no", false, true, 0, 400}
				if test.reason == "deadline-exceeded" {
					f = failure{test.reason, "no", true, false, 0, 504}
				}
				readable(t, &e)
				f.check(t, test.key, body, e)
				if test.pointers != nil {
					if got := pointers(t, e); !slices.Equal(got, test.pointers) {
						t.Errorf("pointers are %q, want %q", got, test.pointers)
					}
				}
			}
			if test.dead != "" {
				buried(t, w, seq, body, test.dead)
				original(t, test.header, w.dead(seq))
			}
			key := fmt.Sprintf("good-%d", i)
			w.place(order(key, key))
			w.created(key)
			w.queue(0)
			if n := len(w.events("")) - before; test.key == "" && n != 1 {
				t.Errorf("%d events for a message that nobody asked for", n-1)
			}
			if m := w.letter(seq); test.dead == "" && m != nil {
				t.Errorf("there is a dead letter besides the answer: %v", m.Header)
			}
		})
	}
	w.t = t
	if !p.running() {
		t.Error("the worker ended")
	}
	for name, n := range w.bought() {
		if !strings.HasPrefix(name, "good-") || n != 1 {
			t.Errorf("%d servers were bought as %q", n, name)
		}
	}
	p.ready(http.StatusOK)
}

// Headers with bytes that no client library would send.
//
//nolint:paralleltest,tparallel // the rows go through one worker, one after the other
func TestControlCharactersInHeaders(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.worker()
	for i, test := range []struct{ about, header, dead string }{
		{"control character in the key", "Idempotency-Key: a\x01b", "invalid-key"},
		{"escape sequence in the key", "Idempotency-Key: \x1b[31mred", "invalid-key"},
		{"invalid UTF-8 in the key", "Idempotency-Key: \xff\xfe", "invalid-key"},
		{"header without a name", ": x", "no-key"},
		{"header without a colon", "Idempotency-Key", "no-key"},
		{"control character in another header", "X-Odd: a\x01\x7fb", "no-key"},
	} {
		t.Run(test.about, func(t *testing.T) {
			w.t = t
			body := jsonOf(t, order("", "odd-header"))
			raw(t, w.srv.URL, "deploy.requested", test.header+"\r\n", body)
			eventually(t, "a dead letter", func() bool { return len(w.stored("DEPLOY_DEAD", 1)) == i+1 })
			letters := w.stored("DEPLOY_DEAD", 1)
			m := letters[len(letters)-1]
			equal(t, "deploy-dead-reason", headerOf(m.Header, "deploy-dead-reason"), test.dead)
			if !bytes.Equal(m.Data, body) {
				t.Errorf("the dead letter has %q, want %q", m.Data, body)
			}
			key := fmt.Sprintf("good-%d", i)
			w.place(order(key, key))
			w.created(key)
			w.queue(0)
		})
	}
}

// setup limits what the broker takes; where somebody has lifted that limit the
// worker still answers.
func TestOneMebibyte(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.worker()
	big := bytes.Repeat([]byte("x"), 1<<20)
	_, err := w.js.Publish(t.Context(), "deploy.requested", big)
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.Code != 400 {
		t.Errorf("publishing 1 MiB: %v, want a refusal of the stream", err)
	}
	liftSize(t, w)
	seq := w.publish(big, nats.Header{"Idempotency-Key": {"big"}})
	failure{"undecodable", "no", false, true, 0, 400}.check(t, "big", big, w.await("big"))
	buried(t, w, seq, big, "too-large")
	w.place(order("good", "good"))
	w.created("good")
	w.queue(0)
}

// A message as large as the server takes does not fit again with the headers
// of a dead letter, and keeps its start.
func TestDeadLetterIsCut(t *testing.T) {
	t.Parallel()

	const limit = 256 << 10
	w := newWorld(t, simulator.Config{}, brokertest.WithMaxPayload(limit))
	w.worker()
	body := bytes.Repeat([]byte("0123456789abcdef"), limit/16)[:limit-100]
	seq := w.publish(body, nats.Header{"X-Mine": {"kept"}})
	m := w.dead(seq)
	equal(t, "deploy-dead-reason", headerOf(m.Header, "deploy-dead-reason"), "too-large")
	equal(t, "deploy-dead-truncated", headerOf(m.Header, "deploy-dead-truncated"), "true")
	equal(t, "X-Mine", headerOf(m.Header, "X-Mine"), "kept")
	if !bytes.Equal(m.Data, body[:64<<10]) {
		t.Errorf("the dead letter has %d bytes, want the first 64 KiB", len(m.Data))
	}
	w.place(order("good", "good"))
	w.created("good")
	w.queue(0)
}

// The same with headers that fill the message alone.
func TestDeadLetterWithoutItsHeaders(t *testing.T) {
	t.Parallel()

	const limit = 60 << 10
	w := newWorld(t, simulator.Config{}, brokertest.WithMaxPayload(limit))
	w.worker()
	body := []byte("not an order")
	seq := w.publish(body, nats.Header{"X-Mine": {strings.Repeat("h", limit-200)}})
	m := w.dead(seq)
	equal(t, "deploy-dead-reason", headerOf(m.Header, "deploy-dead-reason"), "undecodable")
	equal(t, "body", string(m.Data), string(body))
	w.place(order("good", "good"))
	w.created("good")
	w.queue(0)
}

// readable gives an event in protobuf the body that it would have in JSON.
func readable(t *testing.T, e *event) {
	t.Helper()
	if e.body != nil {
		return
	}
	var m deployv1.DeployFailed
	if err := proto.Unmarshal(e.data, &m); err != nil {
		t.Fatal(err)
	}
	text, err := protojson.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &e.body); err != nil {
		t.Fatal(err)
	}
}

func liftSize(t *testing.T, w *world) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := w.js.Stream(ctx, "DEPLOY")
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxMsgSize = -1
	if _, err := w.js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
}

// original checks that a dead letter has the headers of its message.
func original(t *testing.T, h nats.Header, m *jetstream.RawStreamMsg) {
	t.Helper()
	for name, values := range h {
		if strings.HasPrefix(name, "Nats-") {
			// The broker would act on it; it is kept under another name.
			name = "deploy-dead-header-" + strings.ToLower(name)
		}
		if got := m.Header[name]; !slices.Equal(got, values) {
			t.Errorf("header %s of the dead letter is %q, want %q", name, got, values)
		}
	}
}

// raw publishes with header lines as they are.
func raw(t *testing.T, address, subject, header string, body []byte) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	head := "NATS/1.0\r\n" + header + "\r\n"
	_, err = fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"headers\":true,\"user\":%q,\"pass\":%q}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n",
		u.User.Username(), password, subject, len(head), len(head)+len(body), head, body)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for buf := make([]byte, 4096); !bytes.Contains(got, []byte("PONG")); {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil || bytes.Contains(got, []byte("-ERR")) {
			t.Fatalf("the server said %q, %v", got, err)
		}
	}
}
