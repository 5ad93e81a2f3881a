package deploytest

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// started runs a worker that has had no order yet, and returns what it serves on
// /metrics.
func started(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "worker")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/worker")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the worker: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	worker := exec.CommandContext(ctx, binary, "run", "--dev", "--dev-dir", t.TempDir(), "--admin-addr", "127.0.0.1:0", "--log-format", "json")
	worker.Env = append(os.Environ(), "WORKER_MAX_CREATES_PER_HOUR=10")
	worker.Cancel = func() error { return worker.Process.Signal(os.Interrupt) }
	worker.WaitDelay = 10 * time.Second
	log, err := worker.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = worker.Wait() })
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var line struct {
			Admin string `json:"admin"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Admin != "" {
			return scrape(ctx, t, "http://"+line.Admin+"/metrics")
		}
	}
	t.Fatal("the worker did not say where its metrics are")
	return nil
}

func scrape(ctx context.Context, t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text := expfmt.NewTextParser(model.UTF8Validation)
	families, err := text.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// later are the metrics of which nothing can be said before something has
// happened.
func later(name string) bool {
	return !strings.HasPrefix(name, "hostup_worker_") || strings.HasPrefix(name, "hostup_worker_limit") ||
		strings.HasPrefix(name, "hostup_worker_queue_") || name == "hostup_worker_waiting_requests" || name == "hostup_worker_redeliveries_total" ||
		strings.HasSuffix(name, "_bucket")
}

// What alerts and panels ask for is there before the first order: each selector
// finds a series, so that no label's value is misspelt, and every alternative of
// it does.
func TestSelectorsFindSeries(t *testing.T) {
	t.Parallel()
	families := started(t)
	queries := make(map[string]string)
	for _, r := range rules(t) {
		queries[r.Alert] = r.Expr
	}
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			queries["the panel "+p.Title+" "+target.RefID] = grafana.Replace(target.Expr)
		}
	}
	checked := 0
	for where, query := range queries {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
		if err != nil {
			t.Fatal(err)
		}
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			v, ok := node.(*parser.VectorSelector)
			if !ok || foreign(v.Name) || later(v.Name) {
				return nil
			}
			checked++
			for _, wanted := range alternatives(v.LabelMatchers) {
				if !slices.ContainsFunc(families[v.Name].GetMetric(), func(m *dto.Metric) bool { return selects(wanted, m) }) {
					t.Errorf("%s: no series of %s has %v", where, v.Name, wanted)
				}
			}
			return nil
		})
	}
	if checked < 40 {
		t.Errorf("only %d selectors were checked", checked)
	}
}

// alternatives takes a=~"x|y" for a="x" and a="y"; what a scrape adds is left out.
func alternatives(matchers []*labels.Matcher) [][]*labels.Matcher {
	all := [][]*labels.Matcher{nil}
	for _, m := range matchers {
		if m.Name == model.MetricNameLabel || slices.Contains(targetLabels, m.Name) {
			continue
		}
		single := []*labels.Matcher{m}
		if m.Type == labels.MatchRegexp {
			single = nil
			for value := range strings.SplitSeq(m.Value, "|") {
				single = append(single, labels.MustNewMatcher(labels.MatchRegexp, m.Name, value))
			}
		}
		var next [][]*labels.Matcher
		for _, before := range all {
			for _, one := range single {
				next = append(next, append(slices.Clone(before), one))
			}
		}
		all = next
	}
	return all
}

func selects(matchers []*labels.Matcher, m *dto.Metric) bool {
	for _, matcher := range matchers {
		value := ""
		for _, l := range m.GetLabel() {
			if l.GetName() == matcher.Name {
				value = l.GetValue()
			}
		}
		if !matcher.Matches(value) {
			return false
		}
	}
	return true
}
