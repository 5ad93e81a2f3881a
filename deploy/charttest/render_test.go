package charttest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const (
	chartDir = "../helm/deploy-worker"
	// release names everything that Kustomize gets.
	release = "deploy-worker"
)

// kubernetes is the oldest version that the chart allows for.
var kubernetes = chartutil.KubeVersion{Version: "v1.27.0", Major: "1", Minor: "27"}

// values are what a chart is told beside its defaults.
type values = map[string]any

// render returns what the chart makes, by the template's name without its
// ending. Templates that make nothing are left out.
func render(name, namespace string, told values) (map[string]string, error) {
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		return nil, err
	}
	caps := *chartutil.DefaultCapabilities
	caps.KubeVersion = kubernetes
	all, err := chartutil.ToRenderValues(chart, told, chartutil.ReleaseOptions{Name: name, Namespace: namespace, IsInstall: true}, &caps)
	if err != nil {
		return nil, err
	}
	files, err := engine.Engine{Strict: true}.Render(chart, all)
	if err != nil {
		return nil, err
	}
	made := make(map[string]string)
	for path, text := range files {
		if strings.TrimSpace(text) != "" {
			made[strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))] = text
		}
	}
	return made, nil
}

// objects reads the documents of a YAML file, strictly: a key that is there twice
// is a mistake.
func objects(text string) ([]map[string]any, error) {
	var all []map[string]any
	for r := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text))); ; {
		document, err := r.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		var o map[string]any
		if err := yaml.UnmarshalStrict(document, &o); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, document)
		}
		if o != nil {
			all = append(all, o)
		}
	}
}

// made renders the chart and returns its objects by kind and name.
func made(t *testing.T, name, namespace string, told values) map[string]map[string]any {
	t.Helper()
	files, err := render(name, namespace, told)
	if err != nil {
		t.Fatal(err)
	}
	delete(files, "NOTES")
	all := make(map[string]map[string]any)
	for _, file := range slices.Sorted(maps.Keys(files)) {
		found, err := objects(files[file])
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		collect(t, all, found)
	}
	return all
}

func collect(t *testing.T, into map[string]map[string]any, found []map[string]any) {
	t.Helper()
	for _, o := range found {
		key := fmt.Sprintf("%v %v", o["kind"], at(o, "metadata", "name"))
		if into[key] != nil {
			t.Errorf("there are two of %s", key)
		}
		into[key] = o
	}
}

// at follows keys into a document; what is not there is nil.
func at(v any, keys ...string) any {
	for _, key := range keys {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

// set returns values of one member, by its path: set("keda.enabled", true).
func set(path string, to any) values {
	keys := strings.Split(path, ".")
	slices.Reverse(keys)
	for _, key := range keys {
		to = values{key: to}
	}
	return to.(values)
}

// valueSets are the files of testdata/values, and no values at all.
func valueSets(t *testing.T) map[string]values {
	t.Helper()
	sets := map[string]values{"defaults": nil}
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of values: %v", err)
	}
	for _, file := range files {
		told, err := chartutil.ReadValuesFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sets[strings.TrimSuffix(filepath.Base(file), ".yaml")] = told
	}
	return sets
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
