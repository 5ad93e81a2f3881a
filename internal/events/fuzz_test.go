package events

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/hostup/deploy-worker/internal/provision"
)

// FuzzDecode holds Decode to what its callers build on, whatever comes in.
func FuzzDecode(f *testing.F) {
	h, binary, err := EncodeRequest(contractRequestDecoded(), provision.Protobuf)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(h["content-type"][0], "", "", binary)
	f.Add("", "", "", []byte(contractRequest))
	f.Add("application/json", "order-1001", "evt%201", []byte(contractRequest))
	f.Add("application/cloudevents+json", "k", "", []byte(`{"id":"a","data":`+contractRequest+`}`))
	f.Add("application/cloudevents+json", "", "", []byte(`{"id":"a","datacontenttype":"application/protobuf","data_base64":"EgF4"}`))
	f.Add("", "k", "", []byte(`{"metadata":{"a/~":1,"b":"\u0000"},"cpuCores":1e309,"memory_gb":"1","deadline":""}`))
	f.Add("text/plain", "", "", []byte("\xff{[\"\\"))
	f.Fuzz(func(t *testing.T, contentType, key, id string, data []byte) {
		m := Decode(headers("content-type", contentType, "Idempotency-Key", key, "Ce-Id", id), data)
		if m.Request.Key != "" && !provision.ValidKey(m.Request.Key) {
			t.Errorf("the key %q is not valid", m.Request.Key)
		}
		sound := m.Request.Key != "" && m.Request.Faults() == nil
		switch {
		case m.Defect != nil:
			if m.Faults != nil || m.Defect.Reason == "" || m.Defect.Detail == "" {
				t.Errorf("defect %+v with faults %v", m.Defect, m.Faults)
			}
		case len(m.Faults) > 0:
			if m.Request.Key == "" {
				t.Error("faults without a key cannot be answered")
			}
			for _, fault := range m.Faults {
				if !strings.HasPrefix(fault.Pointer, "/") || fault.Detail == "" || fault.Code == "" {
					t.Errorf("fault %+v", fault)
				}
			}
		case !sound:
			t.Errorf("neither defect nor fault nor sound: %+v", m.Request)
		}
		// What was read can be echoed.
		e := provision.Event{Kind: provision.KindFailed, Key: m.Request.Key, Request: m.Request, Encoding: m.Encoding, CausationID: m.CausationID, Trace: m.Trace}
		msg, err := Encode("deploy", e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeEvent(msg.Header, msg.Data); err != nil {
			t.Errorf("its event cannot be read: %v", err)
		}
	})
}

func soundRequests() *rapid.Generator[provision.Request] {
	return rapid.Custom(func(t *rapid.T) provision.Request {
		r := provision.Request{
			Key:       rapid.StringMatching(`[ -~]{1,255}`).Draw(t, "key"),
			Name:      rapid.StringMatching(`[A-Za-z0-9-]{3,63}`).Draw(t, "name"),
			CPUCores:  rapid.Int32Range(1, 32).Draw(t, "cores"),
			MemoryGB:  rapid.Int32Range(1, 256).Draw(t, "memory"),
			StorageGB: rapid.Int32Range(50, 2000).Draw(t, "storage"),
			Region:    rapid.StringMatching(`[ -~]{1,20}`).Draw(t, "region"),
			Metadata:  rapid.MapOfN(rapid.StringN(0, 10, 60), rapid.StringN(0, 10, 60), 0, 32).Draw(t, "metadata"),
		}
		if rapid.Bool().Draw(t, "has deadline") {
			r.Deadline = time.Unix(rapid.Int64Range(-62135596799, 253402300799).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanos")).UTC()
		}
		return r
	})
}

func TestRequestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := soundRequests().Draw(t, "request")
		enc := rapid.SampledFrom([]provision.Encoding{provision.JSON, provision.Protobuf}).Draw(t, "encoding")
		h, data, err := EncodeRequest(want, enc)
		if err != nil {
			t.Fatal(err)
		}
		got := Decode(h, data)
		if diff := cmp.Diff(want, got.Request, cmpopts.EquateEmpty()); diff != "" || got.Encoding != enc || got.Defect != nil || got.Faults != nil {
			t.Fatalf("%s as %s: defect %v, faults %v (-want +got):\n%s", data, got.Encoding, got.Defect, got.Faults, diff)
		}
	})
}
