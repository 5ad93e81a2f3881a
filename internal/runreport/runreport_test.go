package runreport

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// noon is when the example began.
var noon = time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)

func after(ms int) time.Time { return noon.Add(time.Duration(ms) * time.Millisecond) }

// example has every kind of step and something in every part of the page.
func example() Run {
	steps := func(from int, kinds ...Kind) []Step {
		var all []Step
		for i, k := range kinds {
			all = append(all, Step{Kind: k, From: after(from + 100*i), To: after(from + 100*(i+1)), Text: "what it was"})
		}
		return all
	}
	var spans, marks []Kind
	for _, f := range forms {
		if f.Bar() {
			spans = append(spans, f.kind)
		} else {
			marks = append(marks, f.kind)
		}
	}
	return Run{
		Title: "an example", Version: "worker 1.2.3", Started: noon, Ended: after(2000),
		Claim: "Everything went well", Messages: 5, Classes: []string{"straight", "late", "nobody"}, Currency: "SEK",
		Orders: []Order{
			{Key: "order-1", About: "plain", Outcome: "provisioning", Right: true, Took: 120 * time.Millisecond, Class: "straight", Steps: steps(0, Queued, Working, Created, Provisioning)},
			{Key: "order-2", About: "late", Outcome: "failed", Detail: "refused", Right: true, Took: 1500 * time.Millisecond, Class: "late", Steps: steps(100, spans...)},
			{Key: "order-3", About: "held", Outcome: "held", Took: 900 * time.Millisecond, Steps: []Step{{Kind: Held, From: after(1500)}}},
			{Key: "order-4", About: "dead", Outcome: "nothing", Took: -1, Steps: steps(0, marks...)},
		},
		Closures: []Closure{{From: after(300), To: after(800), Reason: "a 429"}, {From: after(800), To: after(830), Reason: "a 429", Probing: true}, {From: after(1900), Reason: "unknowns"}},
		Limits: []Limit{
			{Name: "Servers", Max: 4, Readings: []Reading{{noon, 1}, {after(1000), 2}}},
			{Name: "Memory", Unit: "GB", Max: 100},
		},
		Servers: []Server{
			{Name: "web-02", Key: "order-2", ID: "vps_2", Size: "2 cores", At: after(900), Told: "by its event", PricePerHour: 0.5},
			{Name: "web-01", Key: "order-1", ID: "vps_1", Size: "2 cores", At: after(100), Told: "by its event", PricePerHour: 0.25},
		},
		Calls: []Count{{"HTTP 201", 2}, {"HTTP 429", 1}},
	}
}

func written(t *testing.T, r Run) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The page is a function of the run; how it is styled is for people to judge.
func TestGolden(t *testing.T) {
	t.Parallel()

	_, body, _ := strings.Cut(written(t, example()), "</style>")
	path := filepath.Join("testdata", "example.html")
	if *update {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), body); diff != "" {
		t.Errorf("the page is not what it was; look at it, then write it anew: go test ./internal/runreport -update\n%s", diff)
	}
}

// foreign is whatever makes a browser load or run something.
var foreign = regexp.MustCompile(`(?i)https?:|//[a-z0-9]|<script|<link|<iframe|<object|<embed|<img|<base|\ssrc=|\son[a-z]+\s*=|javascript:|@import|url\([^#]`)

func TestThePageNeedsNothing(t *testing.T) {
	t.Parallel()

	page := written(t, example())
	if found := foreign.FindString(page); found != "" {
		t.Errorf("%q is in the page", found)
	}
	for _, want := range []string{`content="default-src 'none'; style-src 'unsafe-inline'`, `<meta charset="utf-8">`, `lang="en"`, "prefers-color-scheme: dark", "@media print", "max-width: 760px"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	for _, bad := range []string{`<script src="x">`, `<a href="https://example.com">`, `<img src=x>`, `<p onclick="f()">`, `a { background: url(x.png) }`} {
		if !foreign.MatchString(bad) {
			t.Errorf("%s would not be found", bad)
		}
	}
}

// Every fragment that is referred to is there, and every id only once.
func TestReferences(t *testing.T) {
	t.Parallel()

	page := written(t, example())
	ids := make(map[string]int)
	for _, m := range regexp.MustCompile(`\sid="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if ids[m[1]]++; ids[m[1]] > 1 {
			t.Errorf("id %s is there twice", m[1])
		}
	}
	references := regexp.MustCompile(`(?:href="#|url\(#|aria-labelledby=")([^")]+)`).FindAllStringSubmatch(page, -1)
	if len(references) < len(forms) {
		t.Errorf("%d references were found", len(references))
	}
	for _, m := range references {
		if ids[m[1]] == 0 {
			t.Errorf("#%s is referred to and not there", m[1])
		}
	}
	for _, f := range forms {
		if f.Bar() && !strings.Contains(page, "\n."+string(f.kind)+" {") {
			t.Errorf("%s has no style", f.kind)
		}
	}
}

func TestEveryOrderHasItsLane(t *testing.T) {
	t.Parallel()

	r := example()
	page := written(t, r)
	if n := strings.Count(page, `<details class="order">`); n != len(r.Orders) {
		t.Errorf("%d lanes for %d orders", n, len(r.Orders))
	}
	for _, o := range r.Orders {
		if !strings.Contains(page, `<div class="key">`+o.Key+"<") {
			t.Errorf("%s has no lane", o.Key)
		}
	}
	if n := strings.Count(page, "WRONG:"); n != 2 {
		t.Errorf("%d lanes are marked as wrong, want 2", n)
	}
}

func TestFaultsAreTheVerdict(t *testing.T) {
	t.Parallel()

	r := example()
	if page := written(t, r); !strings.Contains(page, "Everything went well") || strings.Contains(page, `class="verdict wrong"`) {
		t.Error("a run without faults is not said to be right")
	}
	r.Faults = []string{"order-3 ended with nothing"}
	page := written(t, r)
	for _, want := range []string{"<title>an example: One thing is not as it should be</title>", `class="verdict wrong"`, "<li>order-3 ended with nothing</li>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if r.Faults = append(r.Faults, "another"); !strings.Contains(written(t, r), "2 things are not as they should be") {
		t.Error("two faults are not counted")
	}
	if strings.Contains(page, "Everything went well") {
		t.Error("a run with faults is said to be right")
	}
}

// Whatever text a run holds, in whichever field, stays text.
func TestTextsAreEscaped(t *testing.T) {
	t.Parallel()

	const evil = `"></title></style>'--><script>alert(1)</script><img src=x onerror=alert(2)>{{.}}`
	r := example()
	filled := fill(reflect.ValueOf(&r).Elem(), evil)
	if filled < 40 {
		t.Errorf("only %d texts were replaced", filled)
	}
	page := written(t, r)
	for _, bad := range []string{"<script", "<img", `"></title>`} {
		if strings.Contains(page, bad) {
			t.Errorf("%s came through", bad)
		}
	}
	if !strings.Contains(page, "&lt;script&gt;alert(1)&lt;/script&gt;") {
		t.Error("the text is not shown")
	}
}

// fill replaces every text below v and counts them.
func fill(v reflect.Value, text string) int {
	n := 0
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
		return 1
	case reflect.Slice:
		for i := range v.Len() {
			n += fill(v.Index(i), text)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return 0
		}
		for _, field := range v.Fields() {
			n += fill(field, text)
		}
	}
	return n
}

func TestAnEmptyRunIsAPage(t *testing.T) {
	t.Parallel()

	if page := written(t, Run{}); !strings.HasSuffix(strings.TrimSpace(page), "</html>") {
		t.Error("the page has no end")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestAWriterThatFails(t *testing.T) {
	t.Parallel()

	if err := Write(broken{}, example()); err == nil || !strings.Contains(err.Error(), "write the report") {
		t.Errorf("Write = %v", err)
	}
}
