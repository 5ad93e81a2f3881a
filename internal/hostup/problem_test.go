package hostup

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestReadDocumentKeepsProblems(t *testing.T) {
	t.Parallel()
	problem := http.Header{"Content-Type": {"application/problem+json; charset=utf-8"}}
	plain := http.Header{"Content-Type": {"application/json"}}
	for name, tc := range map[string]struct {
		header http.Header
		body   string
	}{
		"documented":       {plain, problemBody(403, "forbidden")},
		"unknown members":  {plain, `{"title":"T","x":{"deep":[1,2,{"y":null}]},"z":"å\u00e5"}`},
		"repeated members": {plain, `{"title":"A","title":"B","detail":"D"}`},
		"long numbers":     {plain, `{"type":"t","balance":9007199254740993.000000000000000001,"n":123456789012345678901234567890}`},
		"white space":      {plain, " {\n \"title\" : \"T\"\t} \r\n"},
		"HTML in it":       {plain, `{"title":"<b>&</b>"}`},
		"no media type":    {http.Header{}, `{"detail":"D"}`},
		"code and status":  {plain, `{"code":"forbidden","status":403}`},
		"by media type":    {problem, `{"whatever":1}`},
	} {
		d := readDocument(403, tc.header, []byte(tc.body))
		if d.origin != originProblem || string(d.raw) != tc.body {
			t.Errorf("%s: origin %d, %s", name, d.origin, d.raw)
		}
	}
}

func TestReadDocumentMakesProblems(t *testing.T) {
	t.Parallel()
	problem := http.Header{"Content-Type": {"application/problem+json"}}
	for name, tc := range map[string]struct {
		status int
		header http.Header
		body   string
		origin origin
		want   string
	}{
		"empty": {403, nil, "", originElsewhere, `{"type":"about:blank","title":"Forbidden","status":403}`},
		"html": {
			403, nil, "<h1>No\r\n\tbots\x00\x1b[0m</h1>", originElsewhere,
			`{"type":"about:blank","title":"Forbidden","status":403,"detail":"\u003ch1\u003eNo bots [0m\u003c/h1\u003e"}`,
		},
		"unregistered status": {599, nil, "", originElsewhere, `{"type":"about:blank","title":"HTTP status 599","status":599}`},
		"array":               {400, problem, `["title"]`, originElsewhere, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"[\"title\"]"}`},
		"empty object":        {400, problem, `{}`, originElsewhere, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"{}"}`},
		"wrong types":         {400, nil, `{"title":1,"type":null}`, originElsewhere, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"{\"title\":1,\"type\":null}"}`},
		"legacy": {
			403, nil, `{"error":"Forbidden","message":"Not allowed","code":"FORBIDDEN","timestamp":"2026-04-27T12:34:56Z","requestId":"7b0c"}`, originLegacy,
			`{"type":"about:blank","title":"Forbidden","status":403,"detail":"Not allowed","code":"FORBIDDEN","requestId":"7b0c"}`,
		},
		"legacy 429": {
			429, nil, `{"error":"Too many","message":"Slow down","retryAfter":"60","requestId":"7b0c"}`, originLegacy,
			`{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Slow down","requestId":"7b0c"}`,
		},
	} {
		d := readDocument(tc.status, tc.header, []byte(tc.body))
		if d.origin != tc.origin || string(d.raw) != tc.want {
			t.Errorf("%s: origin %d\n got %s\nwant %s", name, d.origin, d.raw, tc.want)
		}
	}
}

func TestReadDocumentBounds(t *testing.T) {
	t.Parallel()
	large := `{"type":"https://x/forbidden","code":"cpu_limit_exceeded","detail":"D","pad":"` + strings.Repeat("x", maxProblem) + `"}`
	d := readDocument(403, nil, []byte(large))
	if want := `{"type":"https://x/forbidden","title":"Forbidden","status":403,"detail":"D","code":"cpu_limit_exceeded"}`; string(d.raw) != want {
		t.Errorf("of a large document remains %s", d.raw)
	}
	if d.origin != originProblem || !d.limit() {
		t.Error("a large document is a document all the same")
	}
	d = readDocument(403, nil, []byte("{\"title\":\"a\xffb\"}"))
	if want := "{\"title\":\"a\uFFFDb\"}"; string(d.raw) != want {
		t.Errorf("invalid UTF-8 became %q", d.raw)
	}
	d = readDocument(500, nil, []byte(strings.Repeat("å", 10_000)))
	if n := len(d.message); n > maxDetail || n < maxDetail-4 || !utf8.ValidString(d.message) {
		t.Errorf("a detail of %d bytes", n)
	}
}

func FuzzReadDocument(f *testing.F) {
	f.Add(403, "application/problem+json", []byte(problemBody(403, "forbidden")))
	f.Add(500, "text/html", []byte("<html>"))
	f.Add(429, "", []byte(`{"error":"E","message":"M","code":"C"}`))
	f.Add(201, "application/json", []byte("{\"vpsId\":\"\xff\"}"))
	f.Fuzz(func(t *testing.T, status int, media string, body []byte) {
		given := bytes.Clone(body)
		h := http.Header{"Content-Type": {media}}
		d := readDocument(status, h, body)
		var o map[string]any
		if err := json.Unmarshal(d.raw, &o); err != nil || o == nil || !utf8.Valid(d.raw) {
			t.Fatalf("not a JSON object: %q (%v)", d.raw, err)
		}
		if d.origin == originProblem && utf8.Valid(given) && len(given) <= maxProblem && !bytes.Equal(d.raw, given) {
			t.Errorf("%q became %q", given, d.raw)
		}
		if !bytes.Equal(body, given) {
			t.Error("the body was changed")
		}
		a := judge(observation{status: status, header: h, body: body, sent: true})
		if a.Verdict == "" || a.Detail == "" || strings.ContainsAny(a.Detail, "\r\n\x00") || !utf8.ValidString(a.Detail) {
			t.Errorf("answer %+v", a)
		}
	})
}
