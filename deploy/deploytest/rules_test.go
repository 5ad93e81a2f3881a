package deploytest

import (
	"bytes"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

func rules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.Parse(read(t, "deploy", "prometheus", "rules.yaml"), false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	var all []rulefmt.Rule
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no rules")
	}
	return all
}

// Every alert asks for what the worker exports, says how bad it is and what it
// means, and leads to a section that says what to do.
func TestAlerts(t *testing.T) {
	t.Parallel()
	all, sections := exported(t), headings(t, "docs", "runbook.md")
	names := make(map[string]bool)
	for _, r := range rules(t) {
		if names[r.Alert] || r.Alert == "" {
			t.Errorf("%q: the name is taken, or there is none", r.Alert)
		}
		names[r.Alert] = true
		checkQuery(t, r.Alert, r.Expr, all)
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s has the severity %q", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s has no summary or no description", r.Alert)
		}
		const runbook = "https://github.com/hostup/deploy-worker/blob/main/docs/runbook.md#"
		section, ok := strings.CutPrefix(r.Annotations["runbook_url"], runbook)
		if !ok || section != strings.ToLower(r.Alert) || !sections[section] {
			t.Errorf("%s: runbook_url %q leads to no section of docs/runbook.md", r.Alert, r.Annotations["runbook_url"])
		}
	}
	for section := range sections {
		if strings.HasPrefix(section, "deployworker") && !hasAlert(names, section) {
			t.Errorf("docs/runbook.md has a section for %s, of which there is no alert", section)
		}
	}
}

func hasAlert(names map[string]bool, section string) bool {
	for name := range names {
		if strings.ToLower(name) == section {
			return true
		}
	}
	return false
}

// Every alert has cases in which it fires, and cases in which it does not
// although there is something to see. promtool runs them.
func TestAlertsHaveCases(t *testing.T) {
	t.Parallel()
	var file struct {
		Tests []struct {
			InputSeries []struct {
				Series string `yaml:"series"`
			} `yaml:"input_series"`
			Cases []struct {
				Alertname string      `yaml:"alertname"`
				ExpAlerts []yaml.Node `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	if err := yaml.Unmarshal(read(t, "deploy", "prometheus", "rules_test.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	all := exported(t)
	fires, quiet := make(map[string]bool), make(map[string]bool)
	for _, test := range file.Tests {
		for _, s := range test.InputSeries {
			checkQuery(t, "rules_test.yaml", s.Series, all)
		}
		for _, c := range test.Cases {
			if len(c.ExpAlerts) > 0 {
				fires[c.Alertname] = true
			} else if len(test.InputSeries) > 0 {
				quiet[c.Alertname] = true
			}
		}
	}
	for _, r := range rules(t) {
		if !fires[r.Alert] {
			t.Errorf("there is no case in which %s fires", r.Alert)
		}
		if !quiet[r.Alert] {
			t.Errorf("there is no case in which %s does not fire", r.Alert)
		}
	}
}

var (
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	dropped = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// headings are the anchors of a document, as GitHub makes them.
func headings(t *testing.T, path ...string) map[string]bool {
	t.Helper()
	anchors := make(map[string]bool)
	for _, m := range heading.FindAllSubmatch(read(t, path...), -1) {
		text := dropped.ReplaceAll(bytes.ToLower(m[1]), nil)
		anchors[strings.ReplaceAll(string(text), " ", "-")] = true
	}
	return anchors
}

var innerLink = regexp.MustCompile(`\]\((#[^)]+)\)`)

// The runbook's own links lead somewhere.
func TestRunbookLinks(t *testing.T) {
	t.Parallel()
	sections := headings(t, "docs", "runbook.md")
	found := innerLink.FindAllSubmatch(read(t, "docs", "runbook.md"), -1)
	if len(found) == 0 {
		t.Fatal("the runbook has no links")
	}
	for _, m := range found {
		if anchor := strings.TrimPrefix(string(m[1]), "#"); !sections[anchor] {
			t.Errorf("#%s does not exist", anchor)
		}
	}
}

// Every section answers the same questions.
func TestRunbookSections(t *testing.T) {
	t.Parallel()
	text := string(read(t, "docs", "runbook.md"))
	parts := regexp.MustCompile(`(?m)^### `).Split(text, -1)[1:]
	if len(parts) != len(rules(t)) {
		t.Errorf("%d sections for %d alerts", len(parts), len(rules(t)))
	}
	for _, part := range parts {
		name, body, _ := strings.Cut(part, "\n")
		for _, want := range []string{"**Is money at risk?**", "**First look", "**What to do.**", "**It ends**"} {
			if !strings.Contains(body, want) {
				t.Errorf("%s lacks %s", name, want)
			}
		}
	}
}
