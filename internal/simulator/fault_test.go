package simulator

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseFault(t *testing.T) {
	t.Parallel()
	for spec, want := range map[string]string{
		"none":                         "none",
		"400":                          "400-before",
		"403-bare":                     "403-bare-before",
		"403-limit":                    "403-limit-before",
		"403-limit:extensions":         "403-limit-before:extensions",
		"409:blocker=has_unpaid":       "409-before:blocker=has_unpaid",
		"429:retry-after=-5":           "429-before:retry-after=-5",
		"429:retry-after=soon":         "429-before:retry-after=soon",
		"429:none,legacy*2":            "429-before:legacy,none*2",
		"429:none=":                    "429-before:none",
		"429:reset=3s,retry-after=1.5": "429-before:retry-after=1.5,reset=3s",
		"429:date=-3s":                 "429-before:date=-3s",
		"500-bare-after":               "500-bare-after",
		"502-after:code=upstream_x":    "502-after:code=upstream_x",
		"cut":                          "cut-before",
		"cut-after:fin*1":              "cut-after:fin*1",
		"hang-after":                   "hang-after",
		"truncated:at=7":               "truncated:at=7",
		"truncated-after":              "truncated",
		"garbage":                      "garbage-after",
		"garbage-before":               "garbage-before",
		"empty":                        "empty-after",
		"slow=2s":                      "slow-after:delay=2s",
		"slow-before=2s*3":             "slow-before:delay=2s*3",
		"cut-after:delay=1s":           "cut-after:delay=1s",
	} {
		f, err := ParseFault(spec)
		if err != nil || f.String() != want {
			t.Errorf("%s: %s, %v, want %s", spec, f, err, want)
		}
	}
	if MustFault("none") != (Fault{}) {
		t.Error("none is not the zero value")
	}
}

func TestParseFaultRefuses(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{
		"", "200", "600", "99", "0500", "STATUS", "cutt", "cut-", "cut-later", "cut-bare", "cut-after-before", "none-after",
		"truncated-before", "slow", "slow=", "slow=x", "slow=-1s", "slow=1s:at=1", "hang:delay=1s", "cut:none", "cut*0", "cut*",
		"cut*x", "cut*1000001", "429:", "429:,", "429:retry-after", "429:retry-after=", "429:none=1", "429:none,none",
		"429:retry-after=a b", "429:retry-after=1\r\n", "429:date=soon", "truncated:at=-1", "429:unknown=1", "*1",
	} {
		if f, err := ParseFault(spec); err == nil {
			t.Errorf("%q is read as %s", spec, f)
		}
	}
}

func FuzzParseFault(f *testing.F) {
	for _, seed := range []string{"cut-after*1", "429:retry-after=3,reset=3s", "slow=2s", "403-limit:extensions", "none", "*", ":", "-"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = faultInName(namePrefix + text)
		if r, err := ParseRule(text); err == nil {
			if again, err := ParseRule(r.String()); err != nil || again != r {
				t.Errorf("rule %q: %q is read as %+v, %v", text, r, again, err)
			}
		}
		fault, err := ParseFault(text)
		if err != nil {
			return
		}
		if again, err := ParseFault(fault.String()); err != nil || again != fault {
			t.Errorf("fault %q: %q is read as %+v, %v", text, fault, again, err)
		}
	})
}

func TestFaultInName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"fault-cut-after-x1-web01":       "cut-after*1",
		"FAULT-Cut-After-X1-Web01":       "cut-after*1",
		"fault-cut":                      "cut-before",
		"fault-500-after-web":            "500-after",
		"fault-403-limit-web":            "403-limit-before",
		"fault-403-bare-x2":              "403-bare-before*2",
		"fault-429-web-01":               "429-before",
		"fault-429-retry-after-3-x1-web": "429-before:retry-after=3*1",
		"fault-429-reset-3s-legacy-web":  "429-before:legacy,reset=3s",
		"fault-503-date-server":          "503-before", // no date, so part of the name
		"fault-slow-2s-web":              "slow-after:delay=2s",
		"fault-slow-before-2s-x1-web":    "slow-before:delay=2s*1",
		"fault-cut-after-delay-1s-web":   "cut-after:delay=1s",
		"fault-hang-after-web":           "hang-after",
	} {
		if f, ok := faultInName(name); !ok || f.String() != want {
			t.Errorf("%s: %s %v, want %s", name, f, ok, want)
		}
	}
	for _, name := range []string{"web-01", "fault", "fault-", "fault-web", "fault-cut-bare-x", "xfault-cut", "fault-cut-x0-web", "fault-slow-web"} {
		if f, ok := faultInName(name); ok {
			t.Errorf("%s has the fault %s", name, f)
		}
	}
}

func TestParseRule(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Rule{
		"cut-after*1":           {Fault: MustFault("cut-after*1")},
		"web-*/500":             {Prefix: "web-", Fault: MustFault("500")},
		"reads/503*2":           {Target: "reads", Fault: MustFault("503*2")},
		"list:web-*/hang@0.25":  {Target: "list", Prefix: "web-", Probability: 0.25, Fault: MustFault("hang")},
		"creates:/429@1":        {Target: "creates", Probability: 1, Fault: MustFault("429")},
		"ok-*/none":             {Prefix: "ok-"},
		"details/garbage":       {Target: "details", Fault: MustFault("garbage")},
		"cancel/409:legacy@0.5": {Target: "cancel", Probability: 0.5, Fault: MustFault("409:legacy")},
	} {
		r, err := ParseRule(text)
		if err != nil || r != want {
			t.Errorf("%s: %+v, %v", text, r, err)
		}
		if again, err := ParseRule(r.String()); err != nil || again != r {
			t.Errorf("%s: %s is read as %+v, %v", text, r, again, err)
		}
	}
	for _, text := range []string{"", "/", "writes/500", "web/500", "500@0", "500@1.1", "500@NaN", "500@", "a*b*/500", "500/500"} {
		if r, err := ParseRule(text); err == nil {
			t.Errorf("%q is read as %s", text, r)
		}
	}
}

func TestPackageDocumentationHasTheFaultTable(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(FaultHelp()) {
		if !strings.Contains(string(doc), "//\t"+line) {
			t.Errorf("doc.go lacks %q", line)
		}
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 110 || strings.Contains(line, "\t") {
			t.Errorf("%d columns or a tab: %q", n, line)
		}
	}
}
