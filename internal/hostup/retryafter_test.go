package hostup

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseWait(t *testing.T) {
	t.Parallel()
	local := time.Date(2026, 4, 27, 12, 0, 0, 0, time.UTC)
	server := local.Add(-20 * time.Minute) // its clock is behind
	date := server.Format(http.TimeFormat)
	digits80 := strings.Repeat("9", 80)
	used := func(d time.Duration) wait { return wait{length: d} }
	clamped := wait{length: time.Hour, clamped: true}
	ignored := wait{ignored: true}
	for name, tc := range map[string]struct {
		after, reset, date string
		want               wait
	}{
		"nothing":             {want: wait{}},
		"seconds":             {after: "30", want: used(30 * time.Second)},
		"blanks":              {after: " 30 ", want: used(30 * time.Second)},
		"zeros in front":      {after: "0030", want: used(30 * time.Second)},
		"decimals":            {after: "1.5", want: used(2 * time.Second)},
		"decimals of zero":    {after: "2.000", want: used(2 * time.Second)},
		"the maximum":         {after: "3600", want: used(time.Hour)},
		"above it":            {after: "3601", want: clamped},
		"beyond a duration":   {after: "9223372036854775807", want: clamped},
		"beyond 64 bits":      {after: digits80, want: clamped},
		"zero":                {after: "0", want: ignored},
		"negative":            {after: "-1509450059", want: ignored},
		"plus":                {after: "+5", want: ignored},
		"exponent":            {after: "1e3", want: ignored},
		"hexadecimal":         {after: "0x10", want: ignored},
		"words":               {after: "soon", want: ignored},
		"dot":                 {after: ".", want: ignored},
		"date":                {after: local.Add(time.Minute).Format(http.TimeFormat), want: used(time.Minute)},
		"date, their clock":   {after: server.Add(time.Minute).Format(http.TimeFormat), date: date, want: used(time.Minute)},
		"date, RFC 850":       {after: server.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT"), date: date, want: used(time.Minute)},
		"date, asctime":       {after: server.Add(time.Minute).Format(time.ANSIC), date: date, want: used(time.Minute)},
		"date far away":       {after: "Fri, 31 Dec 9999 23:59:59 GMT", want: clamped},
		"date in the past":    {after: local.Add(-time.Minute).Format(http.TimeFormat), want: ignored},
		"date, bad Date":      {after: local.Add(time.Minute).Format(http.TimeFormat), date: "yesterday", want: used(time.Minute)},
		"reset":               {reset: local.Add(time.Minute).Format(time.RFC3339), want: used(time.Minute)},
		"reset, fraction":     {reset: "2026-04-27T12:01:00.000Z", want: used(time.Minute)},
		"reset, zone":         {reset: "2026-04-27T14:01:00+02:00", want: used(time.Minute)},
		"reset, their clock":  {reset: server.Add(time.Minute).Format(time.RFC3339), date: date, want: used(time.Minute)},
		"reset, seconds":      {reset: "1777291260", want: used(time.Minute)},
		"reset, milliseconds": {reset: "1777291260000", want: used(time.Minute)},
		"reset, decimals":     {reset: "1777291260.5", want: used(time.Minute)},
		"reset, HTTP date":    {reset: local.Add(time.Minute).Format(http.TimeFormat), want: used(time.Minute)},
		"reset, far":          {reset: "9999-12-31T23:59:59Z", want: clamped},
		"reset, far number":   {reset: digits80, want: clamped},
		"reset, past":         {reset: "2026-04-27T11:59:59Z", want: ignored},
		"reset, zero":         {reset: "0", want: ignored},
		"reset, words":        {reset: "later", want: ignored},
		"both":                {after: "5", reset: local.Add(time.Minute).Format(time.RFC3339), want: used(5 * time.Second)},
		"bad and reset":       {after: "soon", reset: local.Add(time.Minute).Format(time.RFC3339), want: wait{length: time.Minute, ignored: true}},
		"both bad":            {after: "0", reset: "0", want: ignored},
	} {
		h := http.Header{}
		for k, v := range map[string]string{"Retry-After": tc.after, "X-RateLimit-Reset": tc.reset, "Date": tc.date} {
			if v != "" {
				h.Set(k, v)
			}
		}
		got := parseWait(h, local, time.Hour, true)
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(wait{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	informative := http.Header{"X-Ratelimit-Reset": {"2026-04-27T12:01:00Z"}}
	if got := parseWait(informative, local, time.Hour, false); got != (wait{}) {
		t.Errorf("a reset outside a 429 was used: %+v", got)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"30", "1.5", "-1", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "2026-04-27T12:01:00Z", "1777291260000", "\x00"} {
		f.Add(s, s, s, int64(time.Hour))
	}
	f.Fuzz(func(t *testing.T, after, reset, date string, longest int64) {
		if longest <= 0 {
			return
		}
		h := http.Header{"Retry-After": {after}, "X-Ratelimit-Reset": {reset}, "Date": {date}}
		w := parseWait(h, time.Unix(1777291200, 0), time.Duration(longest), true)
		if w.length < 0 || w.length > time.Duration(longest) {
			t.Errorf("%v is outside 0 to %v", w.length, time.Duration(longest))
		}
		if w.clamped && w.length != time.Duration(longest) {
			t.Errorf("clamped to %v, not %v", w.length, time.Duration(longest))
		}
	})
}
