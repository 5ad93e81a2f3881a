package main

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// document reads a file of the repository's root.
func document(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var tableRow = regexp.MustCompile("(?m)^\\| *`([A-Z][A-Z0-9_]*)` *\\| *([^|]*?) *\\|")

// The configuration table of the README has every variable of `run` and
// `setup` and no other, each with its default.
func TestREADMEHasTheVariables(t *testing.T) {
	t.Parallel()

	documented := make(map[string]string)
	for _, row := range tableRow.FindAllStringSubmatch(document(t, "README.md"), -1) {
		if _, twice := documented[row[1]]; twice {
			t.Errorf("README.md has two rows for %s", row[1])
		}
		documented[row[1]] = strings.Trim(row[2], "`")
	}
	if len(documented) == 0 {
		t.Fatal("README.md has no rows of the form | `VARIABLE` | default | ... |")
	}
	all, wanted := make(map[string]string), make(map[string]string)
	for command, fs := range flags(t) {
		for _, f := range fs {
			for _, variable := range f.Envs {
				all[variable] = f.Default
				if command == "run" || command == "setup" {
					wanted[variable] = f.Default
				}
			}
		}
	}
	for _, variable := range slices.Sorted(maps.Keys(wanted)) {
		text, ok := documented[variable]
		if !ok {
			t.Errorf("README.md lacks %s (default %q)", variable, wanted[variable])
			continue
		}
		if want := wanted[variable]; !sameDefault(want, text) {
			t.Errorf("README.md says that %s is %q by default, it is %q", variable, text, want)
		}
	}
	for _, variable := range slices.Sorted(maps.Keys(documented)) {
		// Other commands' variables may have tables of their own.
		if _, ok := all[variable]; !ok && !strings.HasPrefix(variable, "OTEL_") {
			t.Errorf("README.md has %s, which no command knows", variable)
		}
	}
}

// sameDefault compares what a flag says with what a table says: nothing may be
// written as nothing, a dash or a word, false as false, off or nothing.
func sameDefault(want, text string) bool {
	if text == want {
		return true
	}
	if d, err := time.ParseDuration(want); err == nil {
		got, err := time.ParseDuration(text)
		return err == nil && got == d
	}
	return (want == "" || want == "false") && slices.Contains([]string{"", "-", "–", "—", "none", "off", "false", "unset", "not set"}, text)
}

var (
	metricRow  = regexp.MustCompile("(?m)^\\| *`([a-z0-9_]+)` *\\| *(counter|gauge|histogram) *\\| *([^|]*?) *\\| *(process|fleet) *\\|")
	metricType = regexp.MustCompile(`(?m)^# TYPE (\w+) (\w+)$`)
	metricLine = regexp.MustCompile(`(?m)^(\w+?)(?:_bucket|_sum|_count)?(?:\{([^}]*)\})? `)
	metricKey  = regexp.MustCompile(`(\w+)="`)
)

// foreign tells the metrics that Go, the process and the SDK add, whose names
// are not the worker's to promise.
func foreign(name string) bool {
	return strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || name == "target_info"
}

// exposition is what /metrics tells: the type of each metric, and its labels.
type exposition struct {
	types  map[string]string
	labels map[string]map[string]bool
}

func readExposition(text string) exposition {
	e := exposition{make(map[string]string), make(map[string]map[string]bool)}
	for _, m := range metricType.FindAllStringSubmatch(text, -1) {
		if !foreign(m[1]) {
			e.types[m[1]], e.labels[m[1]] = m[2], make(map[string]bool)
		}
	}
	for _, m := range metricLine.FindAllStringSubmatch(text, -1) {
		for _, key := range metricKey.FindAllStringSubmatch(m[2], -1) {
			if e.labels[m[1]] != nil && key[1] != "le" {
				e.labels[m[1]][key[1]] = true
			}
		}
	}
	return e
}

// The table of metrics has what a running worker exports and nothing else.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()

	type row struct{ kind, labels string }
	documented := make(map[string]row)
	for _, m := range metricRow.FindAllStringSubmatch(document(t, "docs/metrics.md"), -1) {
		if _, twice := documented[m[1]]; twice {
			t.Errorf("docs/metrics.md has two rows for %s", m[1])
		}
		documented[m[1]] = row{m[2], m[3]}
	}
	w := newWorld(t, simulator.Config{})
	p := w.worker("WORKER_RETRY_AFTER_MAX=100ms", "WORKER_AUDIT_EVERY=200ms", "WORKER_MAX_CREATES_PER_HOUR=1000")
	// Something of everything that is counted.
	w.plant("fault-cut-after-b", nil)
	for _, name := range []string{"plain", "fault-cut-after-a", "fault-cut-after-b", "fault-429-retry-after-9-x1-a", "fault-409-a", "not a name"} {
		w.place(order(name, name))
		w.await(strings.ReplaceAll(name, " ", "%20"))
	}
	w.place(order("plain", "plain"))
	seq := w.publish([]byte("nothing"), nil)
	w.dead(seq)
	var missing []string
	var exported exposition
	defer func() { t.Logf("documented and not exported: %v", missing) }()
	eventually(t, "everything in the table is exported", func() bool {
		status, text := p.get("/metrics")
		exported, missing = readExposition(text), nil
		for _, name := range slices.Sorted(maps.Keys(documented)) {
			if exported.types[name] == "" {
				missing = append(missing, name)
			}
		}
		return status == http.StatusOK && len(missing) == 0
	})
	for _, name := range slices.Sorted(maps.Keys(exported.types)) {
		said, ok := documented[name]
		if !ok {
			t.Errorf("docs/metrics.md lacks %s (%s)", name, exported.types[name])
			continue
		}
		if said.kind != exported.types[name] {
			t.Errorf("docs/metrics.md says that %s is a %s, it is a %s", name, said.kind, exported.types[name])
		}
		for label := range exported.labels[name] {
			if !strings.Contains(said.labels, fmt.Sprintf("`%s`", label)) {
				t.Errorf("docs/metrics.md does not say that %s has the label %s", name, label)
			}
		}
	}
}

// What a fresh worker shows before its first request: every counter, and every
// gauge but those of an account that nobody has read yet.
func TestZeroesExistBeforeTheFirstRequest(t *testing.T) {
	t.Parallel()

	unread := []string{"hostup_worker_limit_remaining", "hostup_worker_limit_max", "hostup_worker_limits_timestamp_seconds"}
	w := newWorld(t, simulator.Config{})
	p := w.worker("WORKER_MAX_CREATES_PER_HOUR=1000")
	var missing []string
	defer func() { t.Logf("not there: %v", missing) }()
	eventually(t, "every counter and gauge exists", func() bool {
		_, text := p.get("/metrics")
		exported := readExposition(text)
		missing = nil
		for _, m := range metricRow.FindAllStringSubmatch(document(t, "docs/metrics.md"), -1) {
			if name := m[1]; m[2] != "histogram" && exported.types[name] == "" && !slices.Contains(unread, name) {
				missing = append(missing, name)
			}
		}
		for _, series := range []string{
			`hostup_worker_attempts_total{verdict="unknown"} 0`, `hostup_worker_requests_total{reason="outcome-unknown",result="failed"} 0`,
			`hostup_worker_retry_after_clamped_total{kind="clamped"} 0`, `hostup_worker_audit_findings{finding="suspected-double"} 0`,
			`hostup_worker_dead_letters_total{reason="panic"} 0`, `hostup_worker_redeliveries_total{consumer="deploy-worker"} 0`,
			`messaging_client_sent_messages_total{messaging_destination_name="deploy.dead",messaging_operation_name="publish",messaging_system="nats"} 0`,
			`messaging_client_sent_messages_total{messaging_destination_name="deploy.held",messaging_operation_name="publish",messaging_system="nats"} 0`,
		} {
			if !strings.Contains(text, "\n"+series+"\n") {
				missing = append(missing, series)
			}
		}
		return len(missing) == 0
	})
}
