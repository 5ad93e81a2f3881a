package deploytest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
)

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// metric is one row of the table in docs/metrics.md, which a test of cmd/worker
// holds against a running binary.
type metric struct {
	kind   string
	labels []string
}

var (
	metricRow = regexp.MustCompile("(?m)^\\| *`([a-z0-9_]+)` *\\| *(counter|gauge|histogram) *\\| *([^|]*?) *\\| *(process|fleet) *\\|")
	quoted    = regexp.MustCompile("`([a-z0-9_]+)`")
)

// exported lists the metrics of the worker.
func exported(t *testing.T) map[string]metric {
	t.Helper()
	all := make(map[string]metric)
	for _, row := range metricRow.FindAllStringSubmatch(string(read(t, "docs", "metrics.md")), -1) {
		m := metric{kind: row[2]}
		for _, label := range quoted.FindAllStringSubmatch(row[3], -1) {
			m.labels = append(m.labels, label[1])
		}
		all[row[1]] = m
	}
	if len(all) < 40 {
		t.Fatalf("docs/metrics.md has only %d metrics: %v", len(all), all)
	}
	return all
}

// foreign tells what Prometheus and the client library add.
func foreign(name string) bool {
	return name == "up" || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "go_")
}

// targetLabels are those that a scrape adds to every series.
var targetLabels = []string{"job", "instance"}

// checkQuery parses an expression and reports what it names that the worker does
// not export: a metric, a series of the wrong kind, a label.
func checkQuery(t *testing.T, where, query string, all map[string]metric) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %v\n%s", where, err, query)
		return
	}
	var known []string
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if v, ok := node.(*parser.VectorSelector); ok {
			known = append(known, checkSelector(t, where, v, all)...)
		}
		return nil
	})
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		a, ok := node.(*parser.AggregateExpr)
		if !ok {
			return nil
		}
		for _, label := range a.Grouping {
			if !slices.Contains(known, label) {
				t.Errorf("%s groups by %s, which none of its metrics has:\n%s", where, label, query)
			}
		}
		return nil
	})
}

// checkSelector returns the labels that the selected series have.
func checkSelector(t *testing.T, where string, v *parser.VectorSelector, all map[string]metric) []string {
	t.Helper()
	known := slices.Clone(targetLabels)
	if foreign(v.Name) {
		return known
	}
	base, series := v.Name, ""
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if name, ok := strings.CutSuffix(v.Name, suffix); ok && all[name].kind == "histogram" {
			base, series = name, suffix
		}
	}
	m, ok := all[base]
	switch {
	case !ok:
		t.Errorf("%s names %s, which the worker does not export", where, v.Name)
	case m.kind == "histogram" && series == "":
		t.Errorf("%s names %s, which is a histogram and has only _bucket, _sum and _count", where, v.Name)
	case series == "_bucket":
		known = append(known, "le")
	}
	known = append(known, m.labels...)
	for _, matcher := range v.LabelMatchers {
		if matcher.Name != model.MetricNameLabel && !slices.Contains(known, matcher.Name) {
			t.Errorf("%s asks %s for the label %s, which it does not have", where, v.Name, matcher.Name)
		}
	}
	return known
}
