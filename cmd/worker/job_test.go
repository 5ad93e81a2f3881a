package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hostup/deploy-worker/internal/simulator"
	deployv1 "github.com/hostup/deploy-worker/proto/hostup/deploy/v1"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceParent = "00-" + traceID + "-00f067aa0ba902b7-01"
	traceState  = "vendor=abc"
)

// The main job: a request in every form that the contract allows becomes one
// server and one deploy.provisioning in the same encoding.
//
//nolint:paralleltest,tparallel // the rows go through one worker, one after the other
func TestMainJob(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.setup()
	w.worker("WORKER_PROVISION=")

	metadata := map[string]any{"customer": "c-17", "note": "å <&> \" line"}
	body := func(key, name string) []byte {
		return jsonOf(t, with(order(key, name), "metadata", metadata))
	}
	binary := func(key, name string) []byte {
		b, err := proto.Marshal(&deployv1.DeployRequested{
			IdempotencyKey: key, Name: name, CpuCores: 2, MemoryGb: 4, StorageGb: 80, Region: "stockholm",
			Metadata: map[string]string{"customer": "c-17", "note": "å <&> \" line"}, Deadline: timestamppb.New(time.Now().Add(time.Hour)),
		})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	structured := func(attributes map[string]any) []byte {
		ce := map[string]any{"specversion": "1.0", "type": "se.hostup.deploy.requested.v1", "source": "/shop"}
		maps.Copy(ce, attributes)
		return jsonOf(t, ce)
	}
	const structuredJSON = "application/cloudevents+json; charset=UTF-8"

	for _, test := range []struct {
		about, key, name string
		body             []byte
		header           map[string]string
		encoding, cause  string
		trace            bool
	}{
		{about: "JSON without a header", key: "order-1001", name: "plain-json", body: body("order-1001", "plain-json"), encoding: "application/json"},
		{
			about: "JSON with content type and trace", key: "order-1002", name: "typed-json", body: body("order-1002", "typed-json"),
			header: map[string]string{"Content-Type": "application/json; charset=utf-8", "Traceparent": traceParent, "TRACESTATE": traceState}, encoding: "application/json", trace: true,
		},
		{
			about: "ProtoJSON with the names of the proto", key: "order-1003", name: "proto-json", encoding: "application/json",
			body:   []byte(`{"idempotency_key":"order-1003","name":"proto-json","cpu_cores":2,"memory_gb":4,"storage_gb":80,"region":"stockholm","metadata":{"customer":"c-17","note":"å <&> \" line"}}`),
			header: map[string]string{"content-type": "application/protobuf+json"},
		},
		{
			about: "binary protobuf", key: "order-1004", name: "binary", body: binary("order-1004", "binary"),
			header: map[string]string{"CONTENT-TYPE": "application/protobuf", "traceparent": traceParent, "tracestate": traceState}, encoding: "application/protobuf", trace: true,
		},
		{
			about: "CloudEvent in binary mode", key: "order-1005", name: "ce-binary", body: body("order-1005", "ce-binary"),
			header: map[string]string{"ce-specversion": "1.0", "ce-id": "cause-5", "ce-type": "x", "ce-source": "/shop", "content-type": "application/json", "ce-traceparent": traceParent, "ce-tracestate": traceState},
			cause:  "cause-5", encoding: "application/json", trace: true,
		},
		{
			about: "CloudEvent in binary mode, protobuf, odd cases, key from the id", key: "cause-6", name: "ce-protobuf", body: binary("", "ce-protobuf"),
			header: map[string]string{"Ce-Specversion": "1.0", "CE-ID": "cause-6", "cE-tYpe": "x", "Ce-Source": "/shop", "content-Type": "application/protobuf"},
			cause:  "cause-6", encoding: "application/protobuf",
		},
		{
			about: "structured CloudEvent", key: "order-1007", name: "ce-structured", encoding: "application/json", cause: "cause-7", trace: true,
			body: structured(map[string]any{
				"id": "cause-7", "datacontenttype": "application/json", "data": json.RawMessage(body("order-1007", "ce-structured")),
				"traceparent": traceParent, "tracestate": traceState,
			}),
			header: map[string]string{"Content-type": structuredJSON},
		},
		{
			about: "structured CloudEvent with protobuf", key: "cause-8", name: "ce-base64", encoding: "application/protobuf", cause: "cause-8",
			body: structured(map[string]any{
				"id": "cause-8", "datacontenttype": "application/protobuf",
				"data_base64": base64.StdEncoding.EncodeToString(binary("", "ce-base64")),
			}),
			header: map[string]string{"content-type": structuredJSON},
		},
		{
			about: "key from the header", key: "order 1009/\"%20\"", name: "key-header", encoding: "application/json",
			body: body("", "key-header"), header: map[string]string{"IDEMPOTENCY-key": "order 1009/\"%20\""},
		},
		{
			about: "key from Nats-Msg-Id", key: "msg-1010", name: "key-msgid", encoding: "application/json",
			body: body("", "key-msgid"), header: map[string]string{"Nats-Msg-Id": "msg-1010"},
		},
		{
			about: "unknown fields", key: "order-1011", name: "unknown-fields", encoding: "application/json",
			body: jsonOf(t, with(with(order("order-1011", "unknown-fields"), "metadata", metadata), "colour", map[string]any{"deep": []int{1}})),
		},
		{
			about: "whole numbers written oddly", key: "order-1012", name: "odd-numbers", encoding: "application/json",
			body: []byte(`{"idempotencyKey":"order-1012","name":"odd-numbers","cpuCores":2.0,"memoryGb":4e0,"storageGb":8.0e1,"region":"stockholm","metadata":{"customer":"c-17","note":"å <&> \" line"}}`),
		},
	} {
		t.Run(test.about, func(t *testing.T) {
			w.t = t
			h := nats.Header{}
			for name, value := range test.header {
				h[name] = []string{value}
			}
			before := time.Now().Add(-time.Minute)
			w.publish(test.body, h)
			id := keyHash(test.key) + ".provisioning"
			var e event
			eventually(t, "the event "+id, func() bool {
				i := slices.IndexFunc(w.events(""), func(e event) bool { return e.id() == id })
				if i >= 0 {
					e = w.seen[i]
				}
				return i >= 0
			})

			invoice := w.sim.Invoices()[len(w.sim.Invoices())-1]
			for name, want := range map[string]string{
				"ce-specversion": "1.0", "ce-id": id, "Nats-Msg-Id": id, "ce-source": "/hostup/deploy-worker",
				"ce-type": "se.hostup.deploy.provisioning.v1", "ce-datacontenttype": test.encoding, "content-type": test.encoding,
				"ce-causationid": test.cause,
			} {
				equal(t, "header "+name, headerOf(e.header, name), want)
			}
			// Attributes are percent-encoded as the CloudEvents binding asks.
			key := strings.NewReplacer("%", "%25", " ", "%20", `"`, "%22").Replace(test.key)
			equal(t, "ce-subject", headerOf(e.header, "ce-subject"), key)
			equal(t, "ce-correlationid", headerOf(e.header, "ce-correlationid"), key)
			recent(t, "ce-time", headerOf(e.header, "ce-time"), before)
			for name := range e.header {
				if name != strings.ToLower(name) && !strings.HasPrefix(name, "Nats-") {
					t.Errorf("header %s is not in lower case", name)
				}
			}
			if test.trace {
				if !strings.HasPrefix(headerOf(e.header, "traceparent"), "00-"+traceID+"-") {
					t.Errorf("traceparent of the event is %q, want the trace %s", headerOf(e.header, "traceparent"), traceID)
				}
				equal(t, "tracestate", headerOf(e.header, "tracestate"), traceState)
				called := w.calledFor(test.name)
				if len(called) != 1 || !strings.Contains(called[0].header.Get("Traceparent"), traceID) {
					t.Errorf("the create call does not continue the trace: %v", called[0].header)
				}
			}

			if test.encoding == "application/protobuf" {
				var got deployv1.DeployProvisioning
				if err := proto.Unmarshal(e.data, &got); err != nil {
					t.Fatal(err)
				}
				recent(t, "requestedAt", got.GetRequestedAt().AsTime().Format(time.RFC3339Nano), before)
				recent(t, "occurredAt", got.GetOccurredAt().AsTime().Format(time.RFC3339Nano), before)
				got.RequestedAt, got.OccurredAt = nil, nil
				want := &deployv1.DeployProvisioning{
					IdempotencyKey: test.key, Status: "provisioning", VpsId: invoice.VPSID, OrderId: invoice.OrderID, InvoiceId: invoice.InvoiceID,
					Deployment: &deployv1.Deployment{Name: test.name, Region: "stockholm", Resources: &deployv1.Resources{CpuCores: 2, MemoryGb: 4, StorageGb: 80}},
					Adopted:    new(false), Attempts: new(int32(1)), Metadata: map[string]string{"customer": "c-17", "note": "å <&> \" line"},
				}
				if !proto.Equal(&got, want) {
					t.Errorf("event is %v, want %v", &got, want)
				}
				return
			}
			recent(t, "requestedAt", e.text("requestedAt"), before)
			recent(t, "occurredAt", e.text("occurredAt"), before)
			got := with(e.body, "requestedAt", "")
			delete(got, "requestedAt")
			delete(got, "occurredAt")
			want := map[string]any{
				"idempotencyKey": test.key, "status": "provisioning", "vpsId": invoice.VPSID, "orderId": invoice.OrderID, "invoiceId": invoice.InvoiceID,
				"deployment": map[string]any{"name": test.name, "region": "stockholm", "resources": map[string]any{"cpuCores": 2.0, "memoryGb": 4.0, "storageGb": 80.0}},
				"adopted":    false, "attempts": 1.0, "metadata": metadata,
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("event is\n%v, want\n%v", got, want)
			}
		})
	}
	w.t = t
	w.queue(0)
	for name, n := range w.bought() {
		equal(t, "servers bought as "+name, n, 1)
	}
	for _, c := range w.calls {
		if got := c.header.Get("Authorization"); got != "Bearer "+testToken {
			t.Errorf("Authorization is %q", got)
		}
	}
}

// A request without metadata gets an event without metadata, and the file with
// the key is as good as the variable. The names of all places can be chosen.
func TestMainJobInOtherPlaces(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	env := w.with("WORKER_STREAM=ORDERS", "WORKER_CONSUMER=buyer", "WORKER_EVENTS_STREAM=OUTCOMES", "WORKER_DEAD_STREAM=GRAVES",
		"WORKER_LEDGER=book", "WORKER_SUBJECT_PREFIX=shop.se", "WORKER_PROVISION=",
		"HOSTUP_API_TOKEN=", "HOSTUP_API_TOKEN_FILE="+file(t, "key", testToken+"\n"))
	if r := command(t, env, "setup"); r.code != exitDone {
		t.Fatalf("setup ended with %d", r.code)
	}
	start(t, env, "run").listening().ready(200)
	if _, err := w.js.Publish(t.Context(), "shop.se.requested", jsonOf(t, order("elsewhere", "elsewhere-1"))); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.Publish(t.Context(), "shop.se.requested", []byte("?")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an event and a dead letter", func() bool { return len(w.stored("OUTCOMES", 1)) == 1 && len(w.stored("GRAVES", 1)) == 1 })
	m := w.stored("OUTCOMES", 1)[0]
	equal(t, "subject", m.Subject, "shop.se.provisioning")
	equal(t, "subject of the dead letter", w.stored("GRAVES", 1)[0].Subject, "shop.se.dead")
	if regexp.MustCompile(`"metadata"`).Match(m.Data) {
		t.Errorf("empty metadata is in the event: %s", m.Data)
	}
	if len(w.stored("KV_book", 1)) == 0 {
		t.Error("the ledger is empty")
	}
}

// recent checks a time of an event.
func recent(t *testing.T, what, text string, after time.Time) {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || at.Before(after) || at.After(time.Now().Add(time.Minute)) {
		t.Errorf("%s is %q, want about now in RFC 3339 (%s)", what, text, fmt.Sprint(err))
	}
}
