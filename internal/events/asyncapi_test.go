package events

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/hostup/deploy-worker/internal/provision"
)

// asyncAPI is proto/asyncapi.yaml as JSON values.
var asyncAPI = sync.OnceValues(func() (map[string]any, error) {
	text, err := os.ReadFile("../../proto/asyncapi.yaml")
	if err != nil {
		return nil, err
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	asJSON, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		return nil, err
	}
	return doc.(map[string]any), nil
})

func document310(t *testing.T) map[string]any {
	t.Helper()
	doc, err := asyncAPI()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// schema compiles one of the document's schemas.
func schema(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.AssertFormat()
	if err := c.AddResource("asyncapi.json", document310(t)); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("asyncapi.json#/components/schemas/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, schemaName, what string, data []byte) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema(t, schemaName).Validate(v); err != nil {
		t.Errorf("%s is no %s: %v", what, schemaName, err)
	}
}

func TestAsyncAPIIsValid(t *testing.T) {
	t.Parallel()
	f, err := os.Open("../../proto/testdata/asyncapi-3.1.0.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	meta, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("asyncapi-3.1.0.json", meta); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("asyncapi-3.1.0.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(document310(t)); err != nil {
		t.Error(err)
	}
}

// at follows a local reference.
func at(doc map[string]any, ref string) any {
	var v any = doc
	for token := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		m, _ := v.(map[string]any)
		v = m[token]
	}
	return v
}

// The meta schema knows nothing of what a reference points to.
func TestAsyncAPIReferences(t *testing.T) {
	t.Parallel()
	doc := document310(t)
	used := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, is := v["$ref"].(string); is {
				used[ref] = true
				if at(doc, ref) == nil {
					t.Errorf("%s points to nothing", ref)
				}
			}
			for _, member := range v {
				walk(member)
			}
		case []any:
			for _, item := range v {
				walk(item)
			}
		}
	}
	walk(doc)
	for _, kind := range []string{"messages", "schemas"} {
		for name := range at(doc, "#/components/"+kind).(map[string]any) {
			if !used["#/components/"+kind+"/"+name] {
				t.Errorf("the %s %s are not used", kind, name)
			}
		}
	}
}

func TestAsyncAPIOperations(t *testing.T) {
	t.Parallel()
	doc := document310(t)
	got := map[string]string{}
	for name, op := range doc["operations"].(map[string]any) {
		op := op.(map[string]any)
		channel := at(doc, op["channel"].(map[string]any)["$ref"].(string)).(map[string]any)
		got[channel["address"].(string)] = op["action"].(string)
		if _, is := op["x-nats-jetstream"].(map[string]any)["stream"].(string); !is {
			t.Errorf("%s names no stream", name)
		}
		for _, m := range op["messages"].([]any) {
			ref := m.(map[string]any)["$ref"].(string)
			if !strings.HasPrefix(ref, op["channel"].(map[string]any)["$ref"].(string)+"/messages/") {
				t.Errorf("%s sends %s, which is not in its channel", name, ref)
			}
		}
	}
	want := map[string]string{"deploy.requested": "receive", "deploy.requested.batch": "receive", "deploy.dead": "send"}
	for _, k := range []provision.Kind{provision.KindProvisioning, provision.KindFailed, provision.KindHeld} {
		want["deploy."+string(k)] = "send"
	}
	for address, action := range want {
		if got[address] != action {
			t.Errorf("%s: %q, want %q", address, got[address], action)
		}
	}
	if len(got) != len(want) || len(doc["channels"].(map[string]any)) != len(want) {
		t.Errorf("operations on %v, want %v", got, want)
	}
}

func TestAsyncAPIExamples(t *testing.T) {
	t.Parallel()
	for name, m := range at(document310(t), "#/components/messages").(map[string]any) {
		examples, _ := m.(map[string]any)["examples"].([]any)
		for _, example := range examples {
			payload, err := json.Marshal(example.(map[string]any)["payload"])
			if err != nil {
				t.Fatal(err)
			}
			validate(t, name, "the example of "+name, payload)
		}
		if len(examples) == 0 && name != "DeadLetter" {
			t.Errorf("%s has no example", name)
		}
	}
	validate(t, "DeployRequested", "the contract's request", []byte(contractRequest))
}

// What is sent is what the document says.
func TestAsyncAPIDescribesTheEvents(t *testing.T) {
	t.Parallel()
	messages := map[provision.Kind]string{
		provision.KindProvisioning: "DeployProvisioning", provision.KindFailed: "DeployFailed", provision.KindHeld: "DeployHeld",
	}
	for _, e := range []provision.Event{provisioningEvent(), failedEvent(), rejectedEvent(), heldEvent()} {
		msg := encode(t, e)
		name := messages[e.Kind]
		validate(t, name, "the event "+e.ID, msg.Data)
		validate(t, "EventHeaders", "the header of "+e.ID, headersJSON(t, msg.Header))
		// A member that the document does not know would be one that nobody
		// was told of.
		known := at(document310(t), "#/components/schemas/"+name+"/properties").(map[string]any)
		for member := range decodedJSON(t, msg.Data).(map[string]any) {
			if known[member] == nil {
				t.Errorf("%s has the member %s, which %s has not", e.ID, member, name)
			}
		}
	}
	for _, reason := range []provision.Reason{
		provision.ReasonInvalidRequest, provision.ReasonIdempotencyConflict, provision.ReasonLimitExceeded, provision.ReasonRefused,
		provision.ReasonDeadlineExceeded, provision.ReasonOutcomeUnknown, provision.ReasonAbandoned, provision.ReasonUndecodable,
	} {
		if !slices.Contains(at(document310(t), "#/components/schemas/DeployFailed/properties/reason/enum").([]any), any(string(reason))) {
			t.Errorf("the document does not know the reason %s", reason)
		}
	}
}

func headersJSON(t *testing.T, h nats.Header) []byte {
	t.Helper()
	first := map[string]string{}
	for k, v := range h {
		first[k] = v[0]
	}
	b, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The document and the worker draw the same line.
func TestAsyncAPIRequestRules(t *testing.T) {
	t.Parallel()
	s := schema(t, "DeployRequested")
	for _, body := range []string{
		with(t), with(t, "name", `"ab"`), with(t, "name", `"a_b"`), with(t, "name", ""), with(t, "cpuCores", "33"), with(t, "cpuCores", "2.0"),
		with(t, "memoryGb", "0"), with(t, "memoryGb", `"4"`), with(t, "storageGb", "49"), with(t, "storageGb", "2000"), with(t, "region", `""`),
		with(t, "metadata", `{"a":1}`), with(t, "metadata", `{"a":"b"}`), with(t, "deadline", `"soon"`), with(t, "idempotencyKey", `"å"`), with(t, "new", "[]"),
	} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		m := Decode(nil, []byte(body))
		if sound := m.Defect == nil && m.Faults == nil; sound != (s.Validate(v) == nil) {
			t.Errorf("%s: the worker says %v, the document %v", body, sound, s.Validate(v))
		}
	}
}
