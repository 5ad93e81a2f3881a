package events

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/hostup/deploy-worker/internal/provision"
	deployv1 "github.com/hostup/deploy-worker/proto/hostup/deploy/v1"
)

var (
	requestedAt = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	occurredAt  = time.Date(2026, 11, 23, 9, 0, 2, 500_000_000, time.FixedZone("", 3600))
)

// hostupProblem has what a Struct cannot keep: an order of members, a large
// integer, a member written twice, an odd number and spaces.
const hostupProblem = `{"type": "about:blank", "status": 403, "id": 9007199254740993, "a": 1.50, "a": 2, "text": "<&> å \ud800"}`

func provisioningEvent() provision.Event {
	return provision.Event{
		ID: provision.OutcomeID("order-1001", provision.KindProvisioning), Kind: provision.KindProvisioning, Key: "order-1001",
		CausationID: "evt 1", Trace: provision.Trace{Parent: traceparent, State: "a=b"}, Request: contractRequestDecoded(),
		Attempts: 1, RequestedAt: requestedAt, OccurredAt: occurredAt, VPSID: "vps_1", OrderID: "ord_1", InvoiceID: "inv_1",
	}
}

func failedEvent() provision.Event {
	return provision.Event{
		ID: provision.OutcomeID("order-1001", provision.KindFailed), Kind: provision.KindFailed, Key: "order-1001",
		Request: contractRequestDecoded(), Attempts: 1, RequestedAt: requestedAt, OccurredAt: occurredAt,
		Reason: provision.ReasonLimitExceeded, Billed: provision.BilledNo, Retryable: true, Problem: json.RawMessage(hostupProblem),
	}
}

func rejectedEvent() provision.Event {
	return provision.Event{
		ID: provision.RejectedID("order-1001", "ba7816bf8f01cfea"), Kind: provision.KindFailed, Key: "order-1001",
		Request: provision.Request{Key: "order-1001", Name: "x"}, RequestedAt: requestedAt, OccurredAt: occurredAt,
		Reason: provision.ReasonInvalidRequest, Billed: provision.BilledNo, Rejected: true,
		Problem: json.RawMessage(`{"type":"urn:hostup-worker:problem:invalid-request","errors":[{"pointer":"/name","detail":"d","code":"c"}]}`),
	}
}

func heldEvent() provision.Event {
	return provision.Event{
		ID: provision.HeldID("order-1001", 1), Kind: provision.KindHeld, Key: "order-1001", Request: contractRequestDecoded(),
		OccurredAt: occurredAt, Problem: json.RawMessage(`{"type":"urn:hostup-worker:problem:held","status":500}`),
		Evidence: &provision.Evidence{
			Attempts: []provision.Attempt{{
				Number: 1, StartedAt: requestedAt, EndedAt: occurredAt, Verdict: provision.VerdictUnknown,
				Status: 502, RequestID: "req_1", Detail: "cut off", VPSID: "vps_1",
			}},
			Lookups:    4,
			Candidates: []provision.Candidate{{VPSID: "vps_1", Name: "web-01", CreatedAt: requestedAt, Detail: "too old"}},
		},
	}
}

func everyEvent() map[string]provision.Event {
	return map[string]provision.Event{
		"provisioning": provisioningEvent(), "failed": failedEvent(), "rejected": rejectedEvent(), "held": heldEvent(),
		"bare provisioning": {ID: "x", Kind: provision.KindProvisioning, Key: "k", VPSID: "v"},
		"bare failed":       {ID: "x", Kind: provision.KindFailed, Key: "k"},
		"bare held":         {ID: "x", Kind: provision.KindHeld, Key: "k"},
	}
}

func encode(t *testing.T, e provision.Event) *nats.Msg {
	t.Helper()
	msg, err := Encode("deploy", e)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func decodedJSON(t *testing.T, data []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}

// The members of every event, to the last one: what is not here is not there.
func TestEncodeBody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		event provision.Event
		want  string
	}{
		"provisioning": {provisioningEvent(), `{"idempotencyKey": "order-1001", "status": "provisioning", "vpsId": "vps_1", "orderId": "ord_1", "invoiceId": "inv_1",
			"deployment": {"name": "web-01", "region": "stockholm", "resources": {"cpuCores": 2, "memoryGb": 4, "storageGb": 80}},
			"adopted": false, "attempts": 1, "metadata": {"customer": "c-17"}, "requestedAt": "2026-11-23T08:00:00Z", "occurredAt": "2026-11-23T08:00:02.500Z"}`},
		"failed": {failedEvent(), `{"idempotencyKey": "order-1001", "reason": "limit-exceeded", "billed": "no", "retryable": true,
			"problem": ` + hostupProblem + `,
			"request": {"name": "web-01", "cpuCores": 2, "memoryGb": 4, "storageGb": 80, "region": "stockholm"},
			"attempts": 1, "metadata": {"customer": "c-17"}, "requestedAt": "2026-11-23T08:00:00Z", "occurredAt": "2026-11-23T08:00:02.500Z"}`},
		"rejected": {rejectedEvent(), `{"idempotencyKey": "order-1001", "reason": "invalid-request", "billed": "no", "retryable": false, "rejected": true,
			"problem": {"type":"urn:hostup-worker:problem:invalid-request","errors":[{"pointer":"/name","detail":"d","code":"c"}]},
			"request": {"name": "x"}, "attempts": 0, "requestedAt": "2026-11-23T08:00:00Z", "occurredAt": "2026-11-23T08:00:02.500Z"}`},
		"held": {heldEvent(), `{"idempotencyKey": "order-1001", "problem": {"type":"urn:hostup-worker:problem:held","status":500},
			"evidence": {"attempts": [{"number": 1, "startedAt": "2026-11-23T08:00:00Z", "endedAt": "2026-11-23T08:00:02.500Z", "verdict": "unknown",
				"status": 502, "requestId": "req_1", "detail": "cut off", "vpsId": "vps_1"}], "lookups": 4,
				"candidates": [{"vpsId": "vps_1", "name": "web-01", "createdAt": "2026-11-23T08:00:00Z", "detail": "too old"}]},
			"metadata": {"customer": "c-17"}, "occurredAt": "2026-11-23T08:00:02.500Z"}`},
		"adopted, no order": {
			provision.Event{Kind: provision.KindProvisioning, Key: "k", VPSID: "v", Adopted: true},
			`{"idempotencyKey": "k", "status": "provisioning", "vpsId": "v", "deployment": {"resources": {}}, "adopted": true, "attempts": 0}`,
		},
		"held, nothing known": {provision.Event{Kind: provision.KindHeld, Key: "k"}, `{"idempotencyKey": "k", "evidence": {}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := encode(t, c.event).Data
			if diff := cmp.Diff(decodedJSON(t, []byte(c.want)), decodedJSON(t, got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if bytes.ContainsAny(got, "\n\t") {
				t.Errorf("not compact: %s", got)
			}
		})
	}
}

func TestEncodeHeaders(t *testing.T) {
	t.Parallel()
	e := provisioningEvent()
	e.Key = `a "100%" key`
	e.CausationID = "é\n"
	msg := encode(t, e)
	want := nats.Header{
		"Nats-Msg-Id": {e.ID}, "content-type": {"application/json"}, "ce-specversion": {"1.0"}, "ce-id": {e.ID},
		"ce-source": {"/hostup/deploy-worker"}, "ce-type": {"se.hostup.deploy.provisioning.v1"},
		"ce-subject": {"a%20%22100%25%22%20key"}, "ce-time": {"2026-11-23T08:00:02.5Z"}, "ce-datacontenttype": {"application/json"},
		"ce-correlationid": {"a%20%22100%25%22%20key"}, "ce-causationid": {"%C3%A9%0A"}, "traceparent": {traceparent}, "tracestate": {"a=b"},
	}
	if diff := cmp.Diff(want, msg.Header); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if msg.Subject != "deploy.provisioning" {
		t.Errorf("subject %s", msg.Subject)
	}
	bare := encode(t, provision.Event{ID: "x", Kind: provision.KindHeld, Key: "k", Encoding: provision.Protobuf})
	want = nats.Header{
		"Nats-Msg-Id": {"x"}, "content-type": {"application/protobuf"}, "ce-specversion": {"1.0"}, "ce-id": {"x"},
		"ce-source": {"/hostup/deploy-worker"}, "ce-type": {"se.hostup.deploy.held.v1"}, "ce-subject": {"k"},
		"ce-datacontenttype": {"application/protobuf"}, "ce-correlationid": {"k"},
	}
	if diff := cmp.Diff(want, bare.Header); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEncodeIsDeterministic(t *testing.T) {
	t.Parallel()
	for name, e := range everyEvent() {
		e.Request.Metadata = map[string]string{"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}
		for _, enc := range []provision.Encoding{provision.JSON, provision.Protobuf} {
			e.Encoding = enc
			first := encode(t, e).Data
			for range 20 {
				if !bytes.Equal(first, encode(t, e).Data) {
					t.Fatalf("%s in %s differs from itself", name, enc)
				}
			}
		}
	}
}

// The JSON is ProtoJSON of the generated messages, for every member.
func TestEncodeIsProtoJSON(t *testing.T) {
	t.Parallel()
	for name, e := range everyEvent() {
		if name == "failed" {
			e.Problem = json.RawMessage(`{"type":"about:blank","status":403,"a":[null,true,{"b":1.5}]}`)
		}
		msg := encode(t, e)
		m, err := emptyMessage(msg.Header.Get("ce-type"))
		if err != nil {
			t.Fatal(err)
		}
		if err := protojson.Unmarshal(msg.Data, m); err != nil {
			t.Errorf("%s: %v in %s", name, err, msg.Data)
			continue
		}
		again, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decodedJSON(t, msg.Data), decodedJSON(t, again)); diff != "" {
			t.Errorf("%s through protojson (-before +after):\n%s", name, diff)
		}
	}
}

func TestEncodeKeepsTheProblem(t *testing.T) {
	t.Parallel()
	e := failedEvent()
	var compact bytes.Buffer
	if err := json.Compact(&compact, e.Problem); err != nil {
		t.Fatal(err)
	}
	if got := encode(t, e).Data; !bytes.Contains(got, compact.Bytes()) {
		t.Errorf("%s is not in %s", compact.Bytes(), got)
	}
	e.Encoding = provision.Protobuf
	var m deployv1.DeployFailed
	if err := proto.Unmarshal(encode(t, e).Data, &m); err != nil {
		t.Fatal(err)
	}
	if string(m.GetProblemJson()) != hostupProblem {
		t.Errorf("problem_json is %s", m.GetProblemJson())
	}
	if got := m.GetProblem().GetFields()["status"].GetNumberValue(); got != 403 {
		t.Errorf("problem.status is %v", got)
	}
}

// Whatever the API wrote, the order gets its answer.
func TestEncodeSurvivesTheAPI(t *testing.T) {
	t.Parallel()
	for _, problem := range []string{`{"n":1e999}`, "{\"t\":\"\xff\"}", `[1]`, `nonsense`, "\xff\xfe", ` `, `null`, `{"a":1} `, `{}`} {
		for _, enc := range []provision.Encoding{provision.JSON, provision.Protobuf} {
			e := heldEvent()
			e.Encoding, e.Problem = enc, json.RawMessage(problem)
			e.Evidence.Attempts[0].Detail = "cut \xc3"
			e.Evidence.Candidates[0].CreatedAt = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)
			msg := encode(t, e)
			got, err := DecodeEvent(msg.Header, msg.Data)
			if err != nil {
				t.Errorf("%q in %s: %v", problem, enc, err)
				continue
			}
			if _, err := object(got.Problem); err != nil {
				t.Errorf("%q in %s became %s: %v", problem, enc, got.Problem, err)
			}
			if got.Evidence.Attempts[0].Detail != "cut \uFFFD" {
				t.Errorf("detail %q", got.Evidence.Attempts[0].Detail)
			}
		}
	}
	p := provisioningEvent()
	p.VPSID, p.OrderID = "vps\xff", "\xfe"
	encode(t, p)
}

func TestEncodeUnknownKind(t *testing.T) {
	t.Parallel()
	if _, err := Encode("deploy", provision.Event{Kind: "gone"}); err == nil {
		t.Error("no error")
	}
}

func TestDecodeEvent(t *testing.T) {
	t.Parallel()
	for name, e := range everyEvent() {
		for _, enc := range []provision.Encoding{provision.JSON, provision.Protobuf} {
			e.Encoding = enc
			msg := encode(t, e)
			got, err := DecodeEvent(msg.Header, msg.Data)
			if err != nil {
				t.Errorf("%s in %s: %v", name, enc, err)
				continue
			}
			want := e
			want.OccurredAt = e.OccurredAt.UTC()
			want.Request.Key, want.Request.Deadline = e.Key, time.Time{}
			switch {
			case e.Kind == provision.KindHeld:
				want.Request = provision.Request{Key: e.Key, Metadata: e.Request.Metadata}
				if e.Evidence == nil {
					want.Evidence = &provision.Evidence{}
				}
			case enc == provision.JSON && e.Problem != nil:
				var compact bytes.Buffer
				if err := json.Compact(&compact, e.Problem); err != nil {
					t.Fatal(err)
				}
				want.Problem = compact.Bytes()
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(time.Time.Equal)); diff != "" {
				t.Errorf("%s in %s (-want +got):\n%s", name, enc, diff)
			}
		}
	}
}

func TestDecodeEventRefuses(t *testing.T) {
	t.Parallel()
	msg := encode(t, failedEvent())
	for name, c := range map[string]struct {
		h    nats.Header
		data string
	}{
		"no type":      {nil, string(msg.Data)},
		"other type":   {headers("ce-type", "se.hostup.deploy.requested.v1"), "{}"},
		"short type":   {headers("ce-type", "failed"), "{}"},
		"content type": {headers("ce-type", "se.hostup.deploy.failed.v1", "content-type", "text/plain"), "{}"},
		"not JSON":     {msg.Header, "x"},
		"wrong member": {msg.Header, `{"reason":1}`},
		"not protobuf": {headers("ce-type", "se.hostup.deploy.held.v1", "content-type", "application/protobuf"), "\xff"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if e, err := DecodeEvent(c.h, []byte(c.data)); err == nil {
				t.Errorf("got %+v", e)
			}
		})
	}
}

func TestEncodeRequest(t *testing.T) {
	t.Parallel()
	h, data, err := EncodeRequest(contractRequestDecoded(), provision.JSON)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(decodedJSON(t, []byte(contractRequest)), decodedJSON(t, data)); diff != "" || h.Get("content-type") != "application/json" {
		t.Errorf("%v (-want +got):\n%s", h, diff)
	}
	for _, r := range []provision.Request{{Key: "k", Name: "\xff"}, {Key: "k", Deadline: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)}} {
		if _, _, err := EncodeRequest(r, provision.JSON); err == nil {
			t.Errorf("no error for %+v", r)
		}
	}
}
