package ledger

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"time"
)

// While a fleet is upgraded, two versions of the worker change the same rows. An
// older one does not know every member that a newer one has written, and must
// write it back as it was: what it drops is forgotten for both.
//
// So each struct that is stored has a field Newer, not in the JSON itself, for
// the members that this version does not know, as they stood there. decode
// fills it and encode puts them behind the known ones. What belongs to a part is
// kept with that part: the members of an attempt go where the attempt goes, and
// end with it. They are carried along and not kept true: a newer version must
// bear that an older one has changed what stands beside them.
const newerField = "Newer"

// decode reads a row. The members that it does not know are kept.
func decode[T any](data []byte) (T, error) {
	var v T
	strict := json.NewDecoder(bytes.NewReader(data))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&v); err == nil {
		if _, err = strict.Token(); err == io.EOF {
			return v, nil // the usual case: one pass, and nothing to keep
		}
	}
	var again T // what the first reading has left is of no use
	if err := json.Unmarshal(data, &again); err != nil {
		return again, err
	}
	return again, keep(data, reflect.ValueOf(&again))
}

// encode writes a row, with the members that decode has kept. It does not escape
// for HTML: problem documents inside come back as they were, but for white space
// between members.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	data := bytes.TrimRight(b.Bytes(), "\n")
	if at := reflect.ValueOf(v); holdsNewer(at) {
		return merge(data, at)
	}
	return data, nil
}

// shape is where a struct keeps what it does not know, and where its members
// are.
type shape struct {
	newer   int
	members map[string]int // by name in lower case, as encoding/json matches them
	nested  []int          // members that may lead to more of the kind
}

var shapes sync.Map // of reflect.Type to *shape

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape) //nolint:errcheck,forcetypeassert // nothing else is stored
	}
	s := &shape{newer: -1, members: make(map[string]int)}
	for f := range t.Fields() {
		if f.Name == newerField && f.Type.Kind() == reflect.String {
			s.newer = f.Index[0]
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		s.members[strings.ToLower(name)] = f.Index[0]
		if structured(f.Type) {
			s.nested = append(s.nested, f.Index[0])
		}
	}
	shapes.Store(t, s)
	return s
}

// structured reports whether a value of this type is, points to or lists structs
// that are written member by member.
func structured(t reflect.Type) bool {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[time.Time]()
}

// holdsNewer reports whether decode has kept anything in a value.
func holdsNewer(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer:
		return !v.IsNil() && holdsNewer(v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			if holdsNewer(v.Index(i)) {
				return true
			}
		}
		return false
	default:
	}
	s := shapeOf(v.Type())
	if s.newer >= 0 && v.Field(s.newer).Len() > 0 {
		return true
	}
	for _, i := range s.nested {
		if holdsNewer(v.Field(i)) {
			return true
		}
	}
	return false
}

// keep fills the fields Newer of a value that was read from data.
func keep(data []byte, v reflect.Value) error {
	return along(data, v, func(_ *bytes.Buffer, v reflect.Value, s *shape, unknown []member) {
		if s.newer < 0 || len(unknown) == 0 {
			return
		}
		var b bytes.Buffer
		writeMembers(&b, unknown)
		v.Field(s.newer).SetString(b.String())
	}, nil)
}

// merge puts what the fields Newer of a value hold into the JSON of it.
func merge(data []byte, v reflect.Value) ([]byte, error) {
	var out bytes.Buffer
	err := along(data, v, func(out *bytes.Buffer, v reflect.Value, s *shape, _ []member) {
		if s.newer < 0 || v.Field(s.newer).Len() == 0 {
			return
		}
		if b := out.Bytes(); b[len(b)-1] != '{' {
			out.WriteByte(',')
		}
		out.WriteString(v.Field(s.newer).String())
	}, &out)
	return out.Bytes(), err
}

// member is one of an object, as it stands there.
type member struct{ name, value []byte }

func writeMembers(b *bytes.Buffer, members []member) {
	for i, m := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(m.name)
		b.WriteByte(':')
		b.Write(m.value)
	}
}

// along walks a value and its JSON side by side and calls each for every struct,
// with the members that it does not know, behind those that it does. If out is
// not nil, it gets the JSON without the former.
func along(data []byte, v reflect.Value, each func(*bytes.Buffer, reflect.Value, *shape, []member), out *bytes.Buffer) error {
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		return along(data, v.Elem(), each, out)
	case v.Kind() == reflect.Slice && v.Len() > 0 && structured(v.Type()):
		var items []json.RawMessage
		if err := json.Unmarshal(data, &items); err != nil {
			return err
		}
		put(out, "[")
		for i, item := range items {
			if i > 0 {
				put(out, ",")
			}
			if err := along(item, v.Index(i), each, out); err != nil {
				return err
			}
		}
		put(out, "]")
		return nil
	case v.Kind() != reflect.Struct || !structured(v.Type()):
		put(out, string(data))
		return nil
	}
	s := shapeOf(v.Type())
	members, err := split(data)
	if err != nil {
		return err
	}
	var unknown []member
	put(out, "{")
	comma := ""
	for _, m := range members {
		i, known := s.members[memberName(m)]
		if !known {
			unknown = append(unknown, m)
			continue
		}
		put(out, comma+string(m.name)+":")
		comma = ","
		if err := along(m.value, v.Field(i), each, out); err != nil {
			return err
		}
	}
	each(out, v, s, unknown)
	put(out, "}")
	return nil
}

func put(out *bytes.Buffer, s string) {
	if out != nil {
		out.WriteString(s)
	}
}

func memberName(m member) string {
	var name string
	_ = json.Unmarshal(m.name, &name) // split has read it as a string
	return strings.ToLower(name)
}

// split reads the members of an object, null has none, in their order.
func split(data []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	open, err := dec.Token()
	if err != nil || open == nil {
		return nil, err
	}
	if open != json.Delim('{') {
		return nil, fmt.Errorf("%v where an object should begin", open)
	}
	var members []member
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		members = append(members, member{quoted, value})
	}
	return members, nil
}
