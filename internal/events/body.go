package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/hostup/deploy-worker/internal/provision"
	deployv1 "github.com/hostup/deploy-worker/proto/hostup/deploy/v1"
)

// maxDepth is how deeply JSON may be nested. A request needs two levels and a
// CloudEvent around it one more; the rest is for unknown members.
const maxDepth = 100

// body is what was read of a request, and what could not be.
type body struct {
	request provision.Request
	key     key
	faults  []provision.Fault
}

// faultf notes that a field could not be read.
func (b *body) faultf(pointer, format string, args ...any) {
	b.faults = append(b.faults, provision.Fault{
		Pointer: pointer, Code: provision.FaultInvalid, Detail: fmt.Sprintf(format, args...),
	})
}

// readProtobuf reads a binary DeployRequested.
func readProtobuf(data []byte) (body, error) {
	var p deployv1.DeployRequested
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &p); err != nil {
		// The protobuf package puts a no-break space into its errors in some
		// builds, so that nobody compares them. These become part of an event.
		return body{}, fmt.Errorf("the body is not a DeployRequested in protobuf: %s", strings.ReplaceAll(err.Error(), "\u00a0", " "))
	}
	b := body{
		request: provision.Request{
			Name: p.GetName(), CPUCores: p.GetCpuCores(), MemoryGB: p.GetMemoryGb(), StorageGB: p.GetStorageGb(),
			Region: p.GetRegion(), Metadata: p.GetMetadata(),
		},
		key: key{text: p.GetIdempotencyKey()},
	}
	if d := p.GetDeadline(); d != nil {
		if err := d.CheckValid(); err != nil {
			b.faultf("/deadline", "`deadline` is not a valid timestamp: seconds %d, nanos %d", d.GetSeconds(), d.GetNanos())
		} else {
			b.deadline(d.AsTime())
		}
	}
	return b, nil
}

// readJSON reads a DeployRequested in JSON, member by member, so that one bad
// member does not hide the others.
func readJSON(data []byte) (body, error) {
	o, err := object(data)
	if err != nil {
		return body{}, err
	}
	var b body
	r := &b.request
	b.key = keyOf(o.value("idempotencyKey", "idempotency_key"))
	b.text(&r.Name, "name", o.value("name"))
	b.size(&r.CPUCores, "cpuCores", o.value("cpuCores", "cpu_cores"), provision.MinCPUCores, provision.MaxCPUCores)
	b.size(&r.MemoryGB, "memoryGb", o.value("memoryGb", "memory_gb"), provision.MinMemoryGB, provision.MaxMemoryGB)
	b.size(&r.StorageGB, "storageGb", o.value("storageGb", "storage_gb"), provision.MinStorageGB, provision.MaxStorageGB)
	b.text(&r.Region, "region", o.value("region"))
	if raw := o.value("metadata"); raw != nil {
		b.metadata(raw)
	}
	if raw := o.value("deadline"); raw != nil {
		var t time.Time
		// RFC 3339 allows small letters, the time package does not.
		if err := t.UnmarshalText([]byte(strings.ToUpper(text(raw)))); err != nil {
			b.faultf("/deadline", "`deadline` must be an RFC 3339 time like \"2026-12-01T12:00:00Z\", not %s", shown(raw))
		} else {
			b.deadline(t)
		}
	}
	return b, nil
}

func (b *body) text(to *string, name string, raw json.RawMessage) {
	if raw != nil && raw[0] != '"' {
		b.faultf("/"+name, "`%s` must be a string, not %s", name, kind(raw))
		return
	}
	*to = text(raw)
}

// size reads a number. 2.0 and 2e0 are the same number as 2 in JSON.
func (b *body) size(to *int32, name string, raw json.RawMessage, low, high int) {
	if raw == nil {
		return
	}
	// A float64 holds every int32 exactly. What is not a number does not
	// parse; what is beyond a float64 is infinite.
	f, err := strconv.ParseFloat(string(raw), 64)
	if (err != nil && !errors.Is(err, strconv.ErrRange)) || f != math.Trunc(f) {
		b.faultf("/"+name, "`%s` must be a whole number from %d to %d, not %s", name, low, high, shown(raw))
		return
	}
	if f < math.MinInt32 || f > math.MaxInt32 {
		b.faultf("/"+name, "`%s` must be from %d to %d, not %s", name, low, high, shown(raw))
		return
	}
	*to = int32(f)
}

// metadata reads what it can: the readable entries of a request that will be
// rejected are echoed all the same.
func (b *body) metadata(raw json.RawMessage) {
	if raw[0] != '{' {
		b.faultf("/metadata", "`metadata` must be an object of strings, not %s", kind(raw))
		return
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil {
		b.faultf("/metadata", "`metadata` cannot be read: %v", err)
		return
	}
	var odd []string
	for k, v := range entries {
		switch v[0] {
		case '"':
			if b.request.Metadata == nil {
				b.request.Metadata = make(map[string]string, len(entries))
			}
			b.request.Metadata[k] = text(v)
		case 'n': // null: absent
		default:
			odd = append(odd, k)
		}
	}
	slices.Sort(odd)
	for i, k := range odd {
		if i == provision.MaxMetadataEntries {
			// More would not fit into an event.
			b.faultf("/metadata", "`metadata` has %d more values that are not strings", len(odd)-i)
			break
		}
		b.faultf("/metadata/"+pointerEscapes.Replace(k), "values of `metadata` must be strings, not %s", shown(entries[k]))
	}
}

// pointerEscapes are those of RFC 6901.
var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// deadline keeps a deadline that protobuf can express and that is not the zero
// time, which means none inside the worker.
func (b *body) deadline(t time.Time) {
	t = t.UTC()
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		b.faultf("/deadline", "`deadline` must lie after 0001-01-01T00:00:00Z and before the year 10000")
		return
	}
	b.request.Deadline = t
}

// members are those of a JSON object. Of a name that is written twice the last
// value counts.
type members map[string]json.RawMessage

// object reads a JSON object without looking into its members. The error says
// where and why it cannot.
func object(data []byte) (members, error) {
	if len(bytes.TrimLeft(data, " \t\r\n")) == 0 {
		return nil, errors.New("the body is empty")
	}
	if at := invalidUTF8(data); at >= 0 {
		return nil, fmt.Errorf("the body is not UTF-8 at byte %d", at)
	}
	if at := deeper(data, maxDepth); at >= 0 {
		return nil, fmt.Errorf("the JSON is nested deeper than %d levels at byte %d", maxDepth, at)
	}
	var o members
	err := json.Unmarshal(data, &o)
	if syntax, is := errors.AsType[*json.SyntaxError](err); is {
		return nil, fmt.Errorf("the body is not JSON: %w at byte %d", err, syntax.Offset)
	}
	if o == nil {
		// Not an object, or null.
		return nil, fmt.Errorf("the body must be a JSON object, not %s", kind(bytes.TrimLeft(data, " \t\r\n")))
	}
	return o, nil
}

// value returns the member with the first of these names that there is, nil
// when there is none or it is null.
func (o members) value(names ...string) json.RawMessage {
	for _, name := range names {
		if raw := o[name]; raw != nil && raw[0] != 'n' {
			return raw
		}
	}
	return nil
}

// text returns the value of a JSON string, "" of anything else.
func text(raw json.RawMessage) string {
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return ""
	}
	return s
}

// kind names the type of a JSON value for people.
func kind(raw []byte) string {
	switch raw[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// shown renders a JSON value in a detail.
func shown(raw json.RawMessage) string {
	switch raw[0] {
	case '"':
		return "the string " + quoted(text(raw))
	case '{', '[':
		return kind(raw)
	}
	return strings.Trim(quoted(string(raw)), `"`)
}

// invalidUTF8 returns the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	at := 0
	for {
		r, size := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && size <= 1 {
			return at
		}
		at += size
	}
}

// deeper returns the offset at which JSON is nested deeper than limit, or -1.
// It looks at brackets only, which is enough to refuse before parsing.
func deeper(data []byte, limit int) int {
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > limit {
				return i
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return -1
}
