package events

import (
	"encoding/base64"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/hostup/deploy-worker/internal/provision"
)

const (
	traceparent     = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	contractRequest = `{"idempotencyKey": "order-1001", "name": "web-01", "cpuCores": 2, "memoryGb": 4, "storageGb": 80,
 "region": "stockholm", "metadata": {"customer": "c-17"}, "deadline": "2026-12-01T12:00:00Z"}`
)

func contractRequestDecoded() provision.Request {
	return provision.Request{
		Key: "order-1001", Name: "web-01", CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm",
		Metadata: map[string]string{"customer": "c-17"}, Deadline: time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC),
	}
}

// with returns the contract's request with members replaced or, by an empty
// value, removed.
func with(t *testing.T, members ...string) string {
	t.Helper()
	values := map[string]string{
		"idempotencyKey": `"order-1001"`, "name": `"web-01"`, "cpuCores": "2", "memoryGb": "4", "storageGb": "80", "region": `"stockholm"`,
	}
	for i := 0; i < len(members); i += 2 {
		values[members[i]] = members[i+1]
	}
	var parts []string
	for k, v := range values {
		if v != "" {
			parts = append(parts, `"`+k+`":`+v)
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func headers(pairs ...string) nats.Header {
	h := nats.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h[pairs[i]] = append(h[pairs[i]], pairs[i+1])
	}
	return h
}

func binaryRequest(t *testing.T) []byte {
	t.Helper()
	_, data, err := EncodeRequest(contractRequestDecoded(), provision.Protobuf)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The attributes of a CloudEvent are for its span: of either mode, bounded, and
// of characters that an exporter takes.
func TestDecodeCloudEvent(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxCausationID+1)
	for name, c := range map[string]struct {
		h    nats.Header
		body string
		want provision.CloudEvent
	}{
		"bare": {headers("ce-type", "x"), contractRequest, provision.CloudEvent{}},
		"binary": {
			headers("Ce-Id", "a%20b", "CE-TYPE", "x", "ce-source", "/s\xff", "ce-subject", long), contractRequest,
			provision.CloudEvent{ID: "a b", Source: "/s\uFFFD", Type: "x"},
		},
		"structured": {
			headers("content-type", "application/cloudevents+json"),
			`{"specversion":"1.0","id":"e","source":"/shop","type":"x","subject":"s","data":` + contractRequest + `}`,
			provision.CloudEvent{ID: "e", Source: "/shop", Type: "x", Subject: "s"},
		},
	} {
		if diff := cmp.Diff(c.want, Decode(c.h, []byte(c.body)).CloudEvent); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestDecodeSound(t *testing.T) {
	t.Parallel()
	structured := func(members string) string {
		return `{"specversion":"1.0","id":"evt-1","source":"/shop","type":"x",` + members + `}`
	}
	in64 := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	unknownField := protowire.AppendVarint(protowire.AppendTag(binaryRequest(t), 99, protowire.VarintType), 7)
	for name, c := range map[string]struct {
		h         nats.Header
		body      string
		encoding  provision.Encoding
		causation string
	}{
		"no header":             {nil, contractRequest, provision.JSON, ""},
		"json":                  {headers("content-type", "application/json"), contractRequest, provision.JSON, ""},
		"json with parameter":   {headers("Content-Type", "Application/JSON; charset=utf-8"), contractRequest, provision.JSON, ""},
		"protojson":             {headers("CONTENT-TYPE", "application/protobuf+json"), contractRequest, provision.JSON, ""},
		"empty content type":    {headers("content-type", ""), contractRequest, provision.JSON, ""},
		"protobuf":              {headers("Content-Type", "application/protobuf"), string(binaryRequest(t)), provision.Protobuf, ""},
		"protobuf, old name":    {headers("content-type", "application/x-protobuf"), string(binaryRequest(t)), provision.Protobuf, ""},
		"protobuf, older name":  {headers("content-type", "application/vnd.google.protobuf; a=b"), string(binaryRequest(t)), provision.Protobuf, ""},
		"protobuf, new field":   {headers("content-type", "application/protobuf"), string(unknownField), provision.Protobuf, ""},
		"datacontenttype alone": {headers("Ce-DataContentType", "application/protobuf", "CE-ID", "a%20b"), string(binaryRequest(t)), provision.Protobuf, "a b"},
		"binary CloudEvent":     {headers("ce-specversion", "1.0", "ce-id", "evt-1", "content-type", "application/json"), contractRequest, provision.JSON, "evt-1"},
		"structured":            {headers("content-type", "application/cloudevents+json; charset=UTF-8"), structured(`"data":` + contractRequest), provision.JSON, "evt-1"},
		"structured, typed":     {headers("content-type", "application/cloudevents+json"), structured(`"datacontenttype":"application/json","data":` + contractRequest), provision.JSON, "evt-1"},
		"structured, base64":    {headers("content-type", "application/cloudevents+json"), structured(`"data_base64":"` + in64([]byte(contractRequest)) + `"`), provision.JSON, "evt-1"},
		"structured, protobuf": {
			headers("content-type", "application/cloudevents+json"),
			structured(`"datacontenttype":"application/protobuf","data_base64":"` + in64(binaryRequest(t)) + `"`), provision.Protobuf, "evt-1",
		},
		"snake case": {nil, `{"idempotency_key":"order-1001","name":"web-01","cpu_cores":2,"memory_gb":4,"storage_gb":80,"region":"stockholm",
			"metadata":{"customer":"c-17"},"deadline":"2026-12-01t14:00:00.000+02:00"}`, provision.JSON, ""},
		"unknown members, last of two, other ways to write a number": {nil, `{"idempotencyKey":"no","name":"no","cpuCores":9,"new":{"a":[1,null]},"Name":7,
			"idempotencyKey":"order-1001","name":"web\u002d01","cpuCores":2.0,"memoryGb":4e0,"storageGb":800e-1,"region":"stockholm",
			"metadata":{"customer":"c-17","nothing":null},"deadline":"2026-12-01T12:00:00Z"}`, provision.JSON, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Decode(c.h, []byte(c.body))
			if got.CloudEvent.ID != c.causation {
				t.Errorf("the CloudEvent is %+v, want the id %q", got.CloudEvent, c.causation)
			}
			got.CloudEvent = provision.CloudEvent{}
			want := provision.Message{
				Request: contractRequestDecoded(), BodyHash: BodyHash([]byte(c.body)), Encoding: c.encoding, CausationID: c.causation,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeBodyHash(t *testing.T) {
	t.Parallel()
	if got, want := Decode(nil, []byte("abc")).BodyHash, "ba7816bf8f01cfea"; got != want {
		t.Errorf("body hash %s, want %s", got, want)
	}
}

func TestDecodeKeySources(t *testing.T) {
	t.Parallel()
	all := headers("idempotency-KEY", "from-header", "Ce-Id", "from%2Did", "Nats-Msg-Id", "from-msg-id")
	without := func(names ...string) nats.Header {
		h := maps.Clone(all)
		for _, n := range names {
			delete(h, n)
		}
		return h
	}
	structured := headers("content-type", "application/cloudevents+json", "ce-id", "unused", "nats-msg-id", "from-msg-id")
	for name, c := range map[string]struct {
		h    nats.Header
		body string
		want string
	}{
		"body":                   {without("idempotency-KEY"), with(t), "order-1001"},
		"header":                 {all, with(t, "idempotencyKey", ""), "from-header"},
		"header, null in body":   {all, with(t, "idempotencyKey", "null"), "from-header"},
		"header, empty body":     {all, with(t, "idempotencyKey", `""`), "from-header"},
		"event id":               {without("idempotency-KEY"), with(t, "idempotencyKey", ""), "from-id"},
		"event id, empty header": {headers("Idempotency-Key", "", "ce-id", "from-id"), with(t, "idempotencyKey", ""), "from-id"},
		"message id":             {without("idempotency-KEY", "Ce-Id"), with(t, "idempotencyKey", ""), "from-msg-id"},
		"structured id":          {structured, `{"id":"inner","data":` + with(t, "idempotencyKey", "") + `}`, "inner"},
		"structured, no id":      {structured, `{"data":` + with(t, "idempotencyKey", "") + `}`, "unused"},
		"longest":                {nil, with(t, "idempotencyKey", `"`+strings.Repeat("k", 255)+`"`), strings.Repeat("k", 255)},
		"blanks and quotes":      {nil, with(t, "idempotencyKey", `" a \"b\" ~"`), ` a "b" ~`},
		"same in both":           {headers("Idempotency-Key", "order-1001"), with(t), "order-1001"},
		"first spelling":         {headers("IDEMPOTENCY-KEY", "a", "Idempotency-Key", "b"), with(t, "idempotencyKey", ""), "a"},
		"lower case first":       {headers("IDEMPOTENCY-KEY", "a", "idempotency-key", "b"), with(t, "idempotencyKey", ""), "b"},
		"first value":            {headers("idempotency-key", "a", "idempotency-key", "b"), with(t, "idempotencyKey", ""), "a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Decode(c.h, []byte(c.body))
			if got.Defect != nil || got.Faults != nil || got.Request.Key != c.want {
				t.Errorf("key %q, defect %v, faults %v; want key %q", got.Request.Key, got.Defect, got.Faults, c.want)
			}
		})
	}
}

func TestDecodeDefects(t *testing.T) {
	t.Parallel()
	const structured, protobuf = "application/cloudevents+json", "application/protobuf"
	noKey := func(extra ...string) string { return with(t, append([]string{"idempotencyKey", ""}, extra...)...) }
	for name, c := range map[string]struct {
		h      nats.Header
		body   string
		reason provision.DeadReason
		key    string
		detail string
	}{
		"empty":                   {nil, "", provision.DeadUndecodable, "", "the body is empty"},
		"blank":                   {headers("Idempotency-Key", "k"), " \n", provision.DeadUndecodable, "k", "the body is empty"},
		"not JSON":                {headers("Ce-Id", "k", "nats-msg-id", "n"), "hello", provision.DeadUndecodable, "k", "the body is not JSON: invalid character 'h' looking for beginning of value at byte 1"},
		"cut off":                 {headers("Nats-Msg-Id", "k"), contractRequest[:40], provision.DeadUndecodable, "k", "at byte 40"},
		"trailing garbage":        {nil, contractRequest + "x", provision.DeadUndecodable, "", "after top-level value"},
		"two documents":           {nil, contractRequest + contractRequest, provision.DeadUndecodable, "", "after top-level value"},
		"array":                   {headers("Idempotency-Key", "bad\n", "ce-id", "not-asked"), "[1]", provision.DeadUndecodable, "", "the body must be a JSON object, not an array"},
		"string":                  {nil, `"x"`, provision.DeadUndecodable, "", "not a string"},
		"number":                  {nil, ` 7`, provision.DeadUndecodable, "", "not a number"},
		"null":                    {nil, `null`, provision.DeadUndecodable, "", "not null"},
		"boolean":                 {nil, `true`, provision.DeadUndecodable, "", "not a boolean"},
		"too deep":                {headers("Idempotency-Key", "k"), strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), provision.DeadUndecodable, "k", "deeper than 100 levels at byte 100"},
		"too deep, unknown":       {nil, with(t, "new", strings.Repeat(`{"a":`, 100)+"1"+strings.Repeat("}", 100)), provision.DeadUndecodable, "", "deeper than 100 levels"},
		"invalid UTF-8":           {nil, "{\"name\":\"\xff\"}", provision.DeadUndecodable, "", "the body is not UTF-8 at byte 9"},
		"invalid UTF-8, unknown":  {nil, "{\"x\xc3\":1}", provision.DeadUndecodable, "", "the body is not UTF-8 at byte 3"},
		"NUL":                     {nil, "\x00\x00\x00", provision.DeadUndecodable, "", `'\x00'`},
		"NUL in a string":         {nil, "{\"name\":\"a\x00b\"}", provision.DeadUndecodable, "", "in string literal"},
		"too large":               {headers("Idempotency-Key", "k"), strings.Repeat("x", 1<<20), provision.DeadTooLarge, "k", "the body has 1048576 bytes; at most 65536 are allowed"},
		"too large by one":        {nil, with(t, "new", `"`+strings.Repeat("x", MaxBody)+`"`), provision.DeadTooLarge, "", "at most 65536"},
		"content type":            {headers("Content-Type", "text/xml; charset=x", "ce-id", "k"), with(t), provision.DeadUndecodable, "k", `the content type "text/xml" is not supported`},
		"content type, odd":       {headers("Content-Type", "\x01\n"), with(t), provision.DeadUndecodable, "", `"\x01"`},
		"cloudevents in protobuf": {headers("content-type", "application/cloudevents+protobuf"), with(t), provision.DeadUndecodable, "", `the content type "application/cloudevents+protobuf" is not supported`},
		"cloudevents batch":       {headers("content-type", "application/cloudevents-batch+json"), "[]", provision.DeadUndecodable, "", "is not supported"},
		"protobuf garbage":        {headers("content-type", protobuf, "Idempotency-Key", "k"), "\xff\xff\xff", provision.DeadUndecodable, "k", "the body is not a DeployRequested in protobuf"},
		"protobuf in JSON":        {headers("content-type", protobuf), contractRequest, provision.DeadUndecodable, "", "not a DeployRequested"},
		"protobuf, invalid UTF-8": {headers("content-type", protobuf), "\x12\x01\xff", provision.DeadUndecodable, "", "UTF-8"},

		"structured, not JSON":                {headers("content-type", structured, "ce-id", "k"), "x", provision.DeadUndecodable, "k", "the CloudEvent cannot be read"},
		"structured, an array":                {headers("content-type", structured), "[]", provision.DeadUndecodable, "", "not an array"},
		"structured, data shape":              {headers("content-type", structured), `{"id":"k","data":"x"}`, provision.DeadUndecodable, "k", "the body must be a JSON object, not a string"},
		"structured, both":                    {headers("content-type", structured), `{"id":"k","data":{},"data_base64":"e30="}`, provision.DeadUndecodable, "k", "both"},
		"structured, bad base64":              {headers("content-type", structured), `{"id":"k","data_base64":"%"}`, provision.DeadUndecodable, "k", "not a base64 string"},
		"structured, odd base64":              {headers("content-type", structured), `{"id":"k","data_base64":{}}`, provision.DeadUndecodable, "k", "not a base64 string"},
		"structured, data type":               {headers("content-type", structured), `{"id":"k","datacontenttype":"text/plain","data":{}}`, provision.DeadUndecodable, "k", `"text/plain"`},
		"structured, protobuf without base64": {headers("content-type", structured), `{"id":"k","datacontenttype":"application/protobuf","data":{}}`, provision.DeadUndecodable, "k", "no data_base64"},
		"structured, hidden garbage":          {headers("content-type", structured), `{"id":"k","datacontenttype":"application/protobuf","data_base64":"////"}`, provision.DeadUndecodable, "k", "not a DeployRequested"},

		"no key":                 {nil, noKey(), provision.DeadNoKey, "", "there is no idempotencyKey"},
		"no key, all empty":      {headers("Idempotency-Key", "", "ce-id", "", "Nats-Msg-Id", ""), with(t, "idempotencyKey", `""`), provision.DeadNoKey, "", "there is no"},
		"no key, empty object":   {nil, "{}", provision.DeadNoKey, "", "there is no"},
		"no key, protobuf":       {headers("content-type", protobuf), "", provision.DeadNoKey, "", "there is no"},
		"key too long":           {headers("Idempotency-Key", "fine"), with(t, "idempotencyKey", `"`+strings.Repeat("k", 256)+`"`), provision.DeadInvalidKey, "", `"... (256 bytes)`},
		"key with a newline":     {nil, with(t, "idempotencyKey", `"a\nb"`), provision.DeadInvalidKey, "", `not "a\nb"`},
		"key not ASCII":          {nil, with(t, "idempotencyKey", `"beställning"`), provision.DeadInvalidKey, "", "printable ASCII"},
		"key in header":          {headers("Idempotency-Key", "a\x07"), noKey(), provision.DeadInvalidKey, "", `not "a\a"`},
		"key encoded in id":      {headers("ce-id", "a%0Ab"), noKey(), provision.DeadInvalidKey, "", `not "a\nb"`},
		"key a number":           {headers("Idempotency-Key", "fine"), with(t, "idempotencyKey", "7"), provision.DeadInvalidKey, "", `must be a string, not a number: "7"`},
		"key an object":          {nil, with(t, "idempotencyKey", `{"a":1}`), provision.DeadInvalidKey, "", "must be a string, not an object"},
		"structured id a number": {headers("content-type", structured), `{"id":7,"data":` + noKey() + `}`, provision.DeadInvalidKey, "", "not a number"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Decode(c.h, []byte(c.body))
			if got.Defect == nil {
				t.Fatalf("no defect in %+v", got)
			}
			if got.Defect.Reason != c.reason || !strings.Contains(got.Defect.Detail, c.detail) {
				t.Errorf("defect %v, want %s with %q", *got.Defect, c.reason, c.detail)
			}
			if got.Request.Key != c.key || got.Faults != nil {
				t.Errorf("key %q, faults %v; want key %q", got.Request.Key, got.Faults, c.key)
			}
			if strings.ContainsFunc(got.Defect.Detail, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("the detail %q cannot be a header", got.Defect.Detail)
			}
		})
	}
}

func TestDecodeLargestBody(t *testing.T) {
	t.Parallel()
	body := with(t, "new", `"`+strings.Repeat("x", MaxBody-len(with(t, "new", `""`)))+`"`)
	if got := Decode(nil, []byte(body)); len(body) != MaxBody || got.Defect != nil || got.Faults != nil {
		t.Errorf("%d bytes: %v %v", len(body), got.Defect, got.Faults)
	}
}
