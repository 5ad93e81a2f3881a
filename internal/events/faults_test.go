package events

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hostup/deploy-worker/internal/provision"
	deployv1 "github.com/hostup/deploy-worker/proto/hostup/deploy/v1"
)

func TestDecodeFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		h       nats.Header
		body    string
		pointer string
		detail  string
	}{
		"name missing":               {nil, with(t, "name", ""), "/name", "required"},
		"name null":                  {nil, with(t, "name", "null"), "/name", "required"},
		"name a number":              {nil, with(t, "name", "7"), "/name", "`name` must be a string, not a number"},
		"name with controls":         {nil, with(t, "name", `"web\n\u0000"`), "/name", "ASCII letters"},
		"name with half a surrogate": {nil, with(t, "name", `"web\ud800"`), "/name", "ASCII letters"},
		"cores as string":            {nil, with(t, "cpuCores", `"2"`), "/cpuCores", "`cpuCores` must be a whole number from 1 to 32, not the string \"2\""},
		"cores fractional":           {nil, with(t, "cpuCores", "2.5"), "/cpuCores", "must be a whole number from 1 to 32, not 2.5"},
		"cores a boolean":            {nil, with(t, "cpuCores", "true"), "/cpuCores", "not true"},
		"cores an array":             {nil, with(t, "cpuCores", "[2]"), "/cpuCores", "not an array"},
		"cores huge":                 {nil, with(t, "cpuCores", "1e309"), "/cpuCores", "must be from 1 to 32, not 1e309"},
		"cores minus huge":           {nil, with(t, "cpuCores", "-1e309"), "/cpuCores", "must be from 1 to 32, not -1e309"},
		"cores beyond int32":         {nil, with(t, "cpuCores", "4294967298"), "/cpuCores", "must be from 1 to 32, not 4294967298"},
		"cores negative":             {nil, with(t, "cpuCores", "-2"), "/cpuCores", "from 1 to 32, not -2"},
		"cores zero":                 {nil, with(t, "cpuCores", "0"), "/cpuCores", "required"},
		"memory too large":           {nil, with(t, "memoryGb", "257"), "/memoryGb", "from 1 to 256, not 257"},
		"storage in snake case":      {nil, with(t, "storageGb", "", "storage_gb", `{}`), "/storageGb", "not an object"},
		"region missing":             {nil, with(t, "region", `""`), "/region", "required"},
		"region an object":           {nil, with(t, "region", "{}"), "/region", "not an object"},
		"region with controls":       {nil, with(t, "region", `"a\u0007"`), "/region", "printable"},
		"metadata an array":          {nil, with(t, "metadata", "[]"), "/metadata", "must be an object of strings, not an array"},
		"metadata value":             {nil, with(t, "metadata", `{"a/b~":1,"c":"d"}`), "/metadata/a~1b~0", "must be strings, not 1"},
		"metadata nested":            {nil, with(t, "metadata", `{"":{"b":"c"}}`), "/metadata/", "not an object"},
		"metadata too large":         {nil, with(t, "metadata", `{"a":"`+strings.Repeat("x", 4096)+`"}`), "/metadata", "4097 bytes"},
		"deadline a word":            {nil, with(t, "deadline", `"tomorrow"`), "/deadline", `not the string "tomorrow"`},
		"deadline empty":             {nil, with(t, "deadline", `""`), "/deadline", "RFC 3339"},
		"deadline a number":          {nil, with(t, "deadline", "1764590400"), "/deadline", "not 1764590400"},
		"deadline without zone":      {nil, with(t, "deadline", `"2026-12-01T12:00:00"`), "/deadline", "RFC 3339"},
		"deadline in year 10000":     {nil, with(t, "deadline", `"9999-12-31T23:59:59-01:00"`), "/deadline", "before the year 10000"},
		"deadline zero":              {nil, with(t, "deadline", `"0001-01-01T00:00:00Z"`), "/deadline", "after 0001-01-01"},
		"keys differ":                {headers("Idempotency-Key", "other\r"), with(t), "/idempotencyKey", "`idempotencyKey` is \"order-1001\", but the header Idempotency-Key says \"other\\r\""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Decode(c.h, []byte(c.body))
			if got.Defect != nil || got.Request.Key != "order-1001" {
				t.Fatalf("key %q, defect %v", got.Request.Key, got.Defect)
			}
			if len(got.Faults) != 1 || got.Faults[0].Pointer != c.pointer || !strings.Contains(got.Faults[0].Detail, c.detail) || got.Faults[0].Code == "" {
				t.Errorf("faults %+v, want one at %s with %q", got.Faults, c.pointer, c.detail)
			}
		})
	}
}

func pointers(fs []provision.Fault) []string {
	var ps []string
	for _, f := range fs {
		ps = append(ps, f.Pointer)
	}
	return ps
}

func TestDecodeReportsAllFaultsInOrder(t *testing.T) {
	t.Parallel()
	const body = `{"deadline":1,"metadata":{"b":1,"a":[],"c":"kept"},"storageGb":7,"memoryGb":"4","name":"-","idempotencyKey":"k"}`
	got := Decode(headers("idempotency-key", "other"), []byte(body))
	want := []string{"/idempotencyKey", "/name", "/cpuCores", "/memoryGb", "/storageGb", "/region", "/metadata/a", "/metadata/b", "/deadline"}
	if diff := cmp.Diff(want, pointers(got.Faults)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	read := provision.Request{Key: "k", Name: "-", StorageGB: 7, Metadata: map[string]string{"c": "kept"}}
	if diff := cmp.Diff(read, got.Request); diff != "" {
		t.Errorf("what could be read (-want +got):\n%s", diff)
	}
}

func TestDecodeStructuredWithoutData(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", `,"data":null`, `,"datacontenttype":"application/protobuf"`} {
		got := Decode(headers("content-type", "application/cloudevents+json"), []byte(`{"specversion":"1.0","id":"evt-1"`+data+`}`))
		want := []string{"/name", "/cpuCores", "/memoryGb", "/storageGb", "/region"}
		if diff := cmp.Diff(want, pointers(got.Faults)); diff != "" || got.Defect != nil || got.Request.Key != "evt-1" {
			t.Errorf("%s: key %q, defect %v, faults (-want +got):\n%s", data, got.Request.Key, got.Defect, diff)
		}
	}
}

func TestDecodeBoundsTheFaultsOfMetadata(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&b, `"%d":0,`, i)
	}
	got := Decode(nil, []byte(with(t, "metadata", "{"+b.String()+`"x":0}`)))
	last := got.Faults[len(got.Faults)-1]
	if len(got.Faults) != 33 || last.Pointer != "/metadata" || !strings.Contains(last.Detail, "3969 more") {
		t.Errorf("%d faults, the last is %+v", len(got.Faults), last)
	}
}

func TestDecodeProtobufDeadline(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		deadline *timestamppb.Timestamp
		faults   int
	}{
		"past":         {timestamppb.New(time.Unix(0, 0)), 0},
		"nanos":        {&timestamppb.Timestamp{Nanos: -1}, 1},
		"out of range": {&timestamppb.Timestamp{Seconds: 1 << 60}, 1},
		"zero time":    {timestamppb.New(time.Time{}), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := requestMessage(contractRequestDecoded())
			m.Deadline = c.deadline
			data, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			got := Decode(headers("content-type", "application/protobuf"), data)
			if got.Defect != nil || len(got.Faults) != c.faults || (c.faults == 0 && !got.Request.Deadline.Equal(c.deadline.AsTime())) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestDecodeProtobufFaults(t *testing.T) {
	t.Parallel()
	data, err := proto.Marshal(&deployv1.DeployRequested{Name: "web-01", CpuCores: -1, MemoryGb: 4, StorageGb: 80, Region: "nowhere"})
	if err != nil {
		t.Fatal(err)
	}
	got := Decode(headers("content-type", "application/protobuf", "Nats-Msg-Id", "k"), data)
	if diff := cmp.Diff([]string{"/cpuCores"}, pointers(got.Faults)); diff != "" || got.Request.Key != "k" {
		t.Errorf("key %q, faults (-want +got):\n%s", got.Request.Key, diff)
	}
}

// What only the core can judge decodes without a fault.
func TestDecodeLeavesTheRestToTheCore(t *testing.T) {
	t.Parallel()
	for _, body := range []string{with(t, "deadline", `"2001-01-01T00:00:00Z"`), with(t, "region", `"atlantis"`)} {
		if got := Decode(nil, []byte(body)); got.Defect != nil || got.Faults != nil {
			t.Errorf("%s: %v %v", body, got.Defect, got.Faults)
		}
	}
}

func TestDecodeTrace(t *testing.T) {
	t.Parallel()
	const other = "00-11111111111111111111111111111111-2222222222222222-00"
	for name, c := range map[string]struct {
		h    nats.Header
		body string
		want provision.Trace
	}{
		"none":                       {nil, "{}", provision.Trace{}},
		"header":                     {headers("Traceparent", traceparent, "TRACESTATE", "a=b"), "{}", provision.Trace{Parent: traceparent, State: "a=b"}},
		"bad state":                  {headers("traceparent", traceparent, "tracestate", "\x01"), "{}", provision.Trace{Parent: traceparent}},
		"bad parent":                 {headers("traceparent", "00-zz", "tracestate", "a=b"), "{}", provision.Trace{}},
		"zero parent":                {headers("traceparent", "00-00000000000000000000000000000000-0000000000000000-01"), "{}", provision.Trace{}},
		"extension":                  {headers("ce-traceparent", traceparent, "ce-tracestate", "a=b%2Cc=d"), "{}", provision.Trace{Parent: traceparent, State: "a=b,c=d"}},
		"header first":               {headers("ce-traceparent", other, "traceparent", traceparent), "{}", provision.Trace{Parent: traceparent}},
		"extension for a bad header": {headers("ce-traceparent", traceparent, "traceparent", "x"), "{}", provision.Trace{Parent: traceparent}},
		"structured":                 {headers("content-type", "application/cloudevents+json"), `{"traceparent":"` + traceparent + `","tracestate":"a=b"}`, provision.Trace{Parent: traceparent, State: "a=b"}},
		"baggage":                    {headers("Baggage", "tenant=7,plan=a%20b;p=1", "traceparent", traceparent), "{}", provision.Trace{Parent: traceparent, Baggage: "tenant=7,plan=a%20b;p=1"}},
		"baggage alone":              {headers("baggage", "tenant=7"), "{}", provision.Trace{Baggage: "tenant=7"}},
		"bad baggage":                {headers("baggage", "no baggage"), "{}", provision.Trace{}},
		"too much baggage":           {headers("baggage", "a="+strings.Repeat("x", maxBaggage)), "{}", provision.Trace{}},
		"undecodable":                {headers("traceparent", traceparent), "x", provision.Trace{Parent: traceparent}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, Decode(c.h, []byte(c.body)).Trace); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
