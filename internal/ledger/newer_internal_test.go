package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Every struct that is stored has a place for what a newer version writes into
// it.
func TestEveryStoredStructKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	seen := make(map[reflect.Type]bool)
	var look func(path string, of reflect.Type)
	look = func(path string, of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			look(path, of.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if of == reflect.TypeFor[time.Time]() || seen[of] {
			return
		}
		seen[of] = true
		f, ok := of.FieldByName(newerField)
		if !ok || f.Type.Kind() != reflect.String || f.Tag.Get("json") != "-" {
			t.Errorf("%s (%s) needs a field: Newer string `json:\"-\"`", path, of)
		}
		for f := range of.Fields() {
			if f.Type.Kind() == reflect.Map && structured(f.Type.Elem()) {
				t.Errorf("%s.%s: encode does not look into maps of structs", path, f.Name)
			}
			look(path+"."+f.Name, f.Type)
		}
	}
	for _, v := range []any{provision.Record{}, row{}, Replay{}, admission.Gate{}, admission.Brake{}, admission.Spend{}, provision.Audits{}} {
		look(fmt.Sprintf("%T", v), reflect.TypeOf(v))
	}
	if len(seen) < 15 {
		t.Errorf("%d structs were looked at: there are more", len(seen))
	}
}

// A record with members that nobody knows, at every depth, comes back with all
// of them.
const fromLater = `{"idempotencyKey":"k","state":"accepted","lease":{"until":"2030-01-01T00:00:00Z","n":12345678901234567890},` +
	`"request":{"name":"web-01","cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm","image":"debian <13> & \u2028"},` +
	`"trace":{"hop":"a=b"},"requestedAt":"2026-11-23T10:00:00Z","deadline":"2026-11-24T10:00:00Z",` +
	`"attempts":[{"number":1,"startedAt":"2026-11-23T10:00:00Z","verdict":"throttled","region":{"zone":["a",null,1e3]}},{"number":2,"startedAt":"2026-11-23T10:00:01Z"},{"number":3,"startedAt":"2026-11-23T10:00:02Z","weight":0.10}],` +
	`"outcome":{"kind":"failed","problem":{"type":"x","new":{"a":1}},"occurredAt":"2026-11-23T10:00:00Z","currency":"SEK"},` +
	`"search":{"looks":1,"regions":[]},"evidence":{"candidates":[{"vpsId":"vps_1","score":7}],"model":"m"},` +
	`"resolution":{"action":"abandon","reason":"r","by":"b","at":"2026-11-23T10:00:00Z","ticket":null},` +
	`"notes":[{"time":"2026-11-23T10:00:00Z","what":"waits","actor":"x"}],` +
	`"createdAt":"2026-11-23T10:00:00Z","updatedAt":"2026-11-23T10:00:00Z","zzz":false}`

func TestNewerMembersComeBack(t *testing.T) {
	t.Parallel()
	r, err := decode[provision.Record]([]byte(fromLater))
	if err != nil {
		t.Fatal(err)
	}
	if r.Key != "k" || r.Attempts[2].Number != 3 || r.Newer == "" || r.Attempts[1].Newer != "" {
		t.Fatalf("read %+v", r)
	}
	sameJSON(t, encoded(t, &r), fromLater)

	// The members of a part go with it, wherever it goes.
	r.State, r.VPSID = provision.StateCreating, "vps_9"
	r.Attempts = append(r.Attempts[1:], provision.Attempt{Number: 4})
	r.Search = nil
	again, err := decode[provision.Record]([]byte(encoded(t, &r)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, again); d != "" {
		t.Error(d)
	}
	if again.Attempts[1].Newer != `"weight":0.10` {
		t.Errorf("the third attempt has %q", again.Attempts[1].Newer)
	}
}

// What changes a row of a newer version leaves its members in it: a record, a
// name that changes hands and is released, and what the fleet shares.
func TestOlderVersionChangesRowsOfANewer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := NewMemory()
	plant := func(key, data string) {
		t.Helper()
		if _, err := l.store.start(ctx, write{key: key, data: []byte(data)})(); err != nil {
			t.Fatal(err)
		}
	}
	has := func(key string, want map[string]string) {
		t.Helper()
		c, err := l.store.get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(c.data, &members); err != nil {
			t.Fatal(err)
		}
		for name, value := range want {
			if got := string(members[name]); got != value {
				t.Errorf("%s: %s is %s, want %s", key, name, got, value)
			}
		}
	}
	plant(recordPrefix+provision.KeyHash("k"), fromLater)
	plant(nameKey("web-01"), `{"open":false,"finished":[{"vpsId":"vps_1","at":"2026-11-23T10:00:00Z","node":"n1"}],"pool":"p"}`)
	r, err := l.Load(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	r.State, r.Outcome, r.VPSID = provision.StateCreating, nil, "vps_2"
	r.Attempts[2].Token = "t"
	if err := l.Intend(ctx, r); err != nil {
		t.Fatal(err)
	}
	has(nameKey("web-01"), map[string]string{"open": "true", "pool": `"p"`, "owner": `"k"`, "finished": `[{"vpsId":"vps_1","at":"2026-11-23T10:00:00Z","node":"n1"}]`})
	if err := l.Release(ctx, r); err != nil {
		t.Fatal(err)
	}
	has(nameKey("web-01"), map[string]string{"open": "false", "pool": `"p"`})
	has(recordPrefix+provision.KeyHash("k"), map[string]string{"state": `"creating"`, "zzz": "false", "lease": `{"until":"2030-01-01T00:00:00Z","n":12345678901234567890}`})

	plant(gateKey, `{"phase":"metered","budget":4,"perRegion":{"a":1}}`)
	plant(brakeKey, `{"on":false,"scope":["a"]}`)
	plant(spendKey, `{"creates":[{"from":"2026-11-23T10:00:00Z","sum":1,"by":"x"}],"currency":"SEK"}`)
	plant(auditKey, `{"by":"x","depth":2}`)
	plant(replayPrefix+provision.KeyHash("7"), `{"letter":"7","times":1,"at":"2026-11-23T10:00:00Z","stream":"S","sequence":1,"ticket":"T"}`)
	_, gateErr := l.UpdateGate(ctx, func(g admission.Gate) (admission.Gate, bool) { g.Used++; return g, true })
	_, brakeErr := l.UpdateBrake(ctx, func(b admission.Brake) (admission.Brake, bool) { return b.Set(time.Now(), "me", "why") })
	_, spendErr := l.UpdateSpend(ctx, func(s admission.Spend) (admission.Spend, bool) { return s.Anew(time.Now()), true })
	_, auditErr := l.UpdateAudits(ctx, func(a provision.Audits) (provision.Audits, bool) { return a.Turn(time.Now(), "me", time.Hour) })
	if err := errors.Join(gateErr, brakeErr, spendErr, auditErr, l.NoteReplay(ctx, Replay{Letter: "7", Stream: "S", Sequence: 2})); err != nil {
		t.Fatal(err)
	}
	has(gateKey, map[string]string{"used": "1", "perRegion": `{"a":1}`})
	has(brakeKey, map[string]string{"on": "true", "scope": `["a"]`})
	has(spendKey, map[string]string{"currency": `"SEK"`})
	has(auditKey, map[string]string{"by": `"me"`, "depth": "2"})
	has(replayPrefix+provision.KeyHash("7"), map[string]string{"times": "2", "ticket": `"T"`})
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "{", `{} {}`, `[]`, `{"attempts":{}}`, `{"newer":1,"attempts":[1]}`} {
		if r, err := decode[provision.Record]([]byte(data)); err == nil {
			t.Errorf("%q was read as %+v", data, r)
		}
	}
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	b, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sameJSON compares values; numbers as they are written.
func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	read := func(s string) (members map[string]json.RawMessage) {
		if err := json.Unmarshal([]byte(s), &members); err != nil {
			t.Fatalf("%v: %s", err, s)
		}
		return members
	}
	g, w := read(got), read(want)
	var order func(raw json.RawMessage) any
	order = func(raw json.RawMessage) any {
		var object map[string]json.RawMessage
		if json.Unmarshal(raw, &object) == nil && object != nil {
			out := make(map[string]any)
			for k, v := range object {
				out[k] = order(v)
			}
			return out
		}
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) == nil && list != nil {
			out := make([]any, len(list))
			for i, v := range list {
				out[i] = order(v)
			}
			return out
		}
		var text string
		if json.Unmarshal(raw, &text) == nil {
			return text
		}
		return string(raw)
	}
	for k, v := range w {
		if d := cmp.Diff(order(v), order(g[k])); d != "" {
			t.Errorf("%s: %s", k, d)
		}
	}
	for k := range g {
		if _, ok := w[k]; !ok {
			t.Errorf("%s is new", k)
		}
	}
}

// What keeping costs: nothing but one look at a record that was never read, as
// every one is on its way from order to server.
func BenchmarkRecord(b *testing.B) {
	plain, err := decode[provision.Record]([]byte(`{"idempotencyKey":"k","state":"done","request":{"name":"web-01","cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm","metadata":{"customer":"c-17"}},"requestedAt":"2026-11-23T10:00:00Z","deadline":"2026-11-24T10:00:00Z","attempts":[{"number":1,"token":"t","startedAt":"2026-11-23T10:00:00Z","verdict":"created","status":201}],"sent":1,"vpsId":"vps_1","outcome":{"kind":"provisioning","occurredAt":"2026-11-23T10:00:00Z"},"createdAt":"2026-11-23T10:00:00Z","updatedAt":"2026-11-23T10:00:00Z"}`))
	if err != nil {
		b.Fatal(err)
	}
	later, err := decode[provision.Record]([]byte(fromLater))
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	data := encodedOrNil(&plain)
	run("encode", func() error { _, err := encode(&plain); return err })
	run("encode/without", func() error { _, err := json.Marshal(&plain); return err })
	run("encode/newer", func() error { _, err := encode(&later); return err })
	run("look", func() error { holdsNewer(reflect.ValueOf(&plain)); return nil })
	run("decode", func() error { _, err := decode[provision.Record](data); return err })
	run("decode/without", func() error { var r provision.Record; return json.Unmarshal(data, &r) })
	run("decode/newer", func() error { _, err := decode[provision.Record]([]byte(fromLater)); return err })
}

func encodedOrNil(v any) []byte {
	b, err := encode(v)
	if err != nil {
		return nil
	}
	return b
}
