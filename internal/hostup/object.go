package hostup

import (
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// object is a JSON object read tolerantly: a member that is absent, null or of
// another type than expected is simply not there. Names are case sensitive;
// of a repeated one the last counts.
type object map[string]json.RawMessage

// parseObject reports false for anything that is not a JSON object.
func parseObject(b []byte) (object, bool) {
	var o object
	if err := json.Unmarshal(b, &o); err != nil || o == nil {
		return nil, false
	}
	return o, true
}

// unwrapped returns o, or the object in its member data if o does not have the
// member name itself: both forms are seen from HostUp.
func (o object) unwrapped(name string) object {
	if _, ok := o[name]; ok {
		return o
	}
	if data := o.object("data"); data != nil {
		return data
	}
	return o
}

func (o object) object(name string) object {
	child, _ := parseObject(o[name])
	return child
}

func (o object) array(name string) ([]json.RawMessage, bool) {
	var a []json.RawMessage
	if err := json.Unmarshal(o[name], &a); err != nil || a == nil {
		return nil, false
	}
	return a, true
}

func (o object) text(name string) string { return textOf(o[name]) }

func textOf(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// blockers returns blockerReasons: the strings of the array, and the code of
// each object in it.
func (o object) blockers() []string {
	a, _ := o.array("blockerReasons")
	var ts []string
	for _, raw := range a {
		t := textOf(raw)
		if child, ok := parseObject(raw); ok {
			t = child.text("code")
		}
		if t != "" {
			ts = append(ts, t)
		}
	}
	return ts
}

func (o object) boolean(name string) (value, ok bool) {
	var b *bool
	if json.Unmarshal(o[name], &b) != nil || b == nil {
		return false, false
	}
	return *b, true
}

// number also takes a number in quotes.
func (o object) number(name string) (float64, bool) {
	raw := o[name]
	if t := textOf(raw); t != "" {
		raw = json.RawMessage(t)
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

// whole returns a number rounded down: of half a core nothing can be made.
func (o object) whole(name string) (int64, bool) {
	f, ok := o.number(name)
	if !ok {
		return 0, false
	}
	return int64(max(-Unlimited, min(math.Floor(f), Unlimited))), true
}

// time returns a point in time, zero when it cannot be read.
func (o object) time(name string) time.Time {
	t, err := time.Parse(time.RFC3339, o.text(name))
	if err != nil {
		return time.Time{}
	}
	return t
}
