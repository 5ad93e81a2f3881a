package events

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/provision"
)

// The same order under another key is the same order, however it was written.
func TestRekey(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	want := provision.Request{
		Key: "new", Name: "web-1", CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm",
		Metadata: map[string]string{"a": "ä"}, Deadline: time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC),
	}
	old := want
	old.Key = "old"
	_, protobuf, err := EncodeRequest(old, provision.Protobuf)
	if err != nil {
		t.Fatal(err)
	}
	_, plain, err := EncodeRequest(old, provision.JSON)
	if err != nil {
		t.Fatal(err)
	}
	keyless := strings.Replace(string(plain), `"idempotencyKey":"old",`, "", 1)
	event := func(data string) []byte {
		return []byte(`{"specversion":"1.0","id":"their id","datacontenttype":"application/protobuf","traceparent":"` + parent + `",` + data + `}`)
	}
	for _, tc := range []struct {
		about     string
		header    nats.Header
		data      []byte
		encoding  provision.Encoding
		causation string
		trace     string
	}{
		{"JSON", nats.Header{"X-Odd": {"a", "b"}}, plain, provision.JSON, "", ""},
		{"JSON with the key beside it", nats.Header{"IDEMPOTENCY-key": {"old"}, "Nats-Msg-Id": {"old"}, "Traceparent": {parent}}, plain, provision.JSON, "", parent},
		{"JSON without a key", nats.Header{"nats-msg-id": {"old"}}, []byte(keyless), provision.JSON, "", ""},
		{"a key that is none", nil, []byte(strings.Replace(string(plain), `"old"`, `["old"]`, 1)), provision.JSON, "", ""},
		{"protobuf", nats.Header{"content-type": {"application/protobuf"}, "ce-id": {"theirs"}, "ce-datacontenttype": {"application/protobuf"}}, protobuf, provision.Protobuf, "theirs", ""},
		{"a structured CloudEvent", nats.Header{"content-type": {"application/cloudevents+json"}}, event(`"data_base64":"` + base64.StdEncoding.EncodeToString(protobuf) + `"`), provision.Protobuf, "their id", parent},
	} {
		h, data, err := Rekey(tc.header, tc.data, "new")
		if err != nil {
			t.Errorf("%s: %v", tc.about, err)
			continue
		}
		m := Decode(h, data)
		if diff := cmp.Diff(want, m.Request); diff != "" || m.Defect != nil || len(m.Faults) > 0 {
			t.Errorf("%s: %+v %v (-want +got):\n%s", tc.about, m.Defect, m.Faults, diff)
		}
		if m.Encoding != tc.encoding || m.CausationID != tc.causation || m.Trace.Parent != tc.trace {
			t.Errorf("%s: encoding %s, causation %q, trace %q", tc.about, m.Encoding, m.CausationID, m.Trace.Parent)
		}
		if diff := cmp.Diff(tc.header["X-Odd"], h["X-Odd"]); diff != "" {
			t.Errorf("%s: another header: %s", tc.about, diff)
		}
	}
	for about, data := range map[string]string{
		"unreadable": "nothing", "a broken rule": `{"name":"x"}`,
		"a value that is lost": strings.Replace(keyless, `"ä"`, `["ä"]`, 1),
	} {
		if h, _, err := Rekey(nil, []byte(data), "new"); err == nil {
			t.Errorf("%s got another key: %v", about, h)
		}
	}
}
