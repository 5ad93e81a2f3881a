package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// shape lists every path of a JSON document with its type. Elements of an
// array share one path, so examples with one element are enough.
func shape(t *testing.T, document []byte) map[string]string {
	t.Helper()
	var v any
	if err := json.Unmarshal(document, &v); err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	paths := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		paths[path] = fmt.Sprintf("%T", v)
		switch v := v.(type) {
		case map[string]any:
			for key, member := range v {
				walk(path+"/"+key, member)
			}
		case []any:
			for _, element := range v {
				walk(path+"[]", element)
			}
		}
	}
	walk("", v)
	return paths
}

// TestAnswersHaveTheDocumentedShape compares every answer with the example in
// the documentation, member by member and type by type.
func TestAnswersHaveTheDocumentedShape(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	id := decode[createdAnswer](t, r.create("web-01").want(t, 201)).VPSID
	noToken := func(req *http.Request) { req.Header.Del("Authorization") }
	for _, tt := range []struct {
		example string
		got     reply
		// extra members are those the readable documentation is cut off before.
		extra []string
	}{
		{"created", r.create("web-02").want(t, 201), nil},
		{"limits", r.get(limitsPath).want(t, 200), nil},
		{"options", r.get(createPath).want(t, 200), []string{"/limits", "/regions", "/defaults/resources/memoryGb", "/defaults/resources/storageGb"}},
		{"list", r.get(listPath).want(t, 200), nil},
		{"server", r.get(listPath+"/"+id).want(t, 200), nil},
		{"details", r.get(listPath+"/"+id+"/details").want(t, 200), nil},
		{"status", r.get(listPath+"/"+id+"/status").want(t, 200), nil},
		{"invalid_request", r.do("POST", createPath, `{}`).want(t, 400), nil},
		{"unauthorized", r.do("GET", limitsPath, "", noToken).want(t, 401), nil},
		{"forbidden", r.create("fault-403-web").want(t, 403), nil},
		{"not_found", r.get(listPath+"/vps_none").want(t, 404), nil},
		{"rate_limit_exceeded", r.create("fault-429-web").want(t, 429), nil},
		{"internal_error", r.create("fault-500-after-web").want(t, 500), nil},
	} {
		example, err := os.ReadFile("testdata/" + tt.example + ".json")
		if err != nil {
			t.Fatal(err)
		}
		want, got := shape(t, example), shape(t, []byte(tt.got.body))
		for path, kind := range want {
			if got[path] != kind {
				t.Errorf("%s: %s is %q, documented %q", tt.example, path, got[path], kind)
			}
		}
		for path := range got {
			if _, documented := want[path]; !documented && !slices.ContainsFunc(tt.extra, func(e string) bool { return strings.HasPrefix(path, e) }) {
				t.Errorf("%s: %s is not documented", tt.example, path)
			}
		}
		if tt.got.status >= 400 {
			compareProblem(t, tt.example, example, tt.got)
		}
	}
}

var (
	idPattern   = regexp.MustCompile(`^(vps|ord|inv|req)_[0-9a-hjkmnp-tv-z]{26}$`)
	timePattern = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)
)

// compareProblem holds the texts of a problem document against the example's.
func compareProblem(t *testing.T, name string, example []byte, got reply) {
	t.Helper()
	var want problem
	if err := json.Unmarshal(example, &want); err != nil {
		t.Fatal(err)
	}
	p := decode[problem](t, got)
	if p.Type != want.Type || p.Title != want.Title || p.Status != want.Status || p.Detail != want.Detail || p.Code != want.Code {
		t.Errorf("%s: got %+v, want %+v", name, p, want)
	}
	if ct := got.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("%s: content type %q", name, ct)
	}
	if id := got.header.Get(headerRequestID); id != p.RequestID || !idPattern.MatchString(id) {
		t.Errorf("%s: request id %q in the header, %q in the body", name, id, p.RequestID)
	}
	if !timePattern.MatchString(p.Timestamp) || !strings.HasPrefix(p.Instance, "/api/v2/vps") {
		t.Errorf("%s: timestamp %q, instance %q", name, p.Timestamp, p.Instance)
	}
	if got.header.Get("Date") == "" {
		t.Errorf("%s: no Date", name)
	}
}

func TestIDsAreInTheDocumentedStyle(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	c := decode[createdAnswer](t, r.create("web-01").want(t, 201))
	for _, id := range []string{c.VPSID, c.OrderID, c.InvoiceID} {
		if !idPattern.MatchString(id) {
			t.Errorf("id %q", id)
		}
	}
}
