package charttest

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

var update = flag.Bool("update", false, "write what is rendered, and copy the alert rules into the chart")

const (
	kustomizeDir = "../kustomize"
	rulesFile    = "../prometheus/rules.yaml"
	rulesCopy    = chartDir + "/files/rules.yaml"
)

// components are the templates that a switch of the chart adds, by the component
// that has them.
var components = map[string]struct {
	template string
	told     values
}{
	"monitoring": {"monitoring", set("monitoring.enabled", true)},
	"keda":       {"scaledobject", set("keda.enabled", true)},
	"nack":       {"nack", set("nack.enabled", true)},
}

// TestMain copies the rules before a test renders them.
func TestMain(m *testing.M) {
	flag.Parse()
	if *update {
		text, err := os.ReadFile(rulesFile)
		if err == nil {
			err = os.WriteFile(rulesCopy, text, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// Helm reads no file outside of a chart, so the chart has a copy of the rules.
func TestRulesAreThoseOfPrometheus(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(read(t, rulesFile), read(t, rulesCopy)); diff != "" {
		t.Errorf("run `make deploy-render`: -%s +%s\n%s", rulesFile, rulesCopy, diff)
	}
}

// The files of Kustomize are the chart with its default values.
func TestKustomizeIsRendered(t *testing.T) {
	t.Parallel()
	want := make(map[string]string)
	files, err := render(release, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	delete(files, "NOTES")
	for name, text := range files {
		want["base/"+name+".yaml"] = text
	}
	for name, c := range components {
		files, err := render(release, "", c.told)
		if err != nil {
			t.Fatal(err)
		}
		want["components/"+name+"/"+c.template+".yaml"] = files[c.template]
	}
	for name, text := range want {
		golden(t, filepath.Join(kustomizeDir, name), text)
	}
	// And no file that nothing renders any more.
	for _, pattern := range []string{"base/*.yaml", "components/*/*.yaml"} {
		found, err := filepath.Glob(filepath.Join(kustomizeDir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range found {
			name, _ := filepath.Rel(kustomizeDir, file)
			if _, known := want[name]; !known && filepath.Base(file) != "kustomization.yaml" {
				t.Errorf("%s: the chart does not render it", file)
			}
		}
	}
}

// What the chart makes of everything that can be told; the tests of cmd/worker
// read it, too.
func TestEverythingIsRendered(t *testing.T) {
	t.Parallel()
	files, err := render("shop", "orders", valueSets(t)["everything"])
	if err != nil {
		t.Fatal(err)
	}
	delete(files, "NOTES")
	var text string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text += "\n---\n" + files[name]
	}
	golden(t, "testdata/everything.yaml", text)
}

// Built by Kustomize, the base and the overlay are what Helm makes of the same
// choices.
func TestKustomizeBuilds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		namespace string
		told      values
	}{
		"base": {"", nil},
		"overlays/production": {"deploy-worker", values{
			"image":      values{"repository": "images.example.test/deploy-worker"},
			"monitoring": values{"enabled": true}, "keda": values{"enabled": true}, "nack": values{"enabled": true},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(kustomizeDir, name))
			if err != nil {
				t.Fatal(err)
			}
			text, err := built.AsYaml()
			if err != nil {
				t.Fatal(err)
			}
			found, err := objects(string(text))
			if err != nil {
				t.Fatal(err)
			}
			have := make(map[string]map[string]any)
			collect(t, have, found)
			want := made(t, release, c.namespace, c.told)
			for _, o := range want {
				// Helm gives the namespace to the cluster, Kustomize writes it down.
				if c.namespace != "" {
					o["metadata"].(map[string]any)["namespace"] = c.namespace
				}
			}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Errorf("-helm +kustomize\n%s", diff)
			}
		})
	}
}

// golden compares a file with what was rendered, and writes it with -update.
func golden(t *testing.T, path, text string) {
	t.Helper()
	text = fmt.Sprintf("# Rendered from deploy/helm/deploy-worker by `make deploy-render`: change the chart.\n%s", text)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(text, read(t, path)); diff != "" {
		t.Errorf("%s: run `make deploy-render`: -chart +file\n%s", path, diff)
	}
}
