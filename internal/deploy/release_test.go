package deploy

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A release is the same bytes whoever builds it, wherever: built in two
// directories of different names it gives the same sums, the list of what is in
// it agrees with the program, and SHA256SUMS has them all.
func TestRelease(t *testing.T) {
	t.Parallel()
	if !*all {
		t.Log("only with -deploy")
		return
	}
	platforms := "linux/amd64"
	var uncached []string
	if *thorough {
		platforms = "linux/amd64 linux/arm64"
		uncached = []string{"GOCACHE=" + t.TempDir()}
	}
	build := func(dir string, env ...string) map[string]string {
		t.Helper()
		dir = filepath.Join(t.TempDir(), dir)
		// What git knows or would add, as a clone would have it.
		must(t, root(t), `mkdir -p "$TO" && git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T - | tar -x -C "$TO"`, "TO="+dir)
		must(t, dir, "make release VERSION=v0.0.0-test COMMIT=0123456789ab RELEASE_PLATFORMS='"+platforms+"'", env...)
		must(t, filepath.Join(dir, "dist"), "sha256sum --strict --quiet -c SHA256SUMS")
		sums := make(map[string]string)
		files, err := filepath.Glob(filepath.Join(dir, "dist", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(text)
			sums[filepath.Base(f)] = hex.EncodeToString(sum[:])
			if program, ok := strings.CutSuffix(f, ".cdx.json"); ok {
				bill(t, program, text)
			}
		}
		return sums
	}
	first := build("a")
	second := build("somewhere else/of-another-length", uncached...)
	if fmt.Sprint(first) != fmt.Sprint(second) {
		t.Errorf("built twice:\n%v\n%v", first, second)
	}
	if want := 1 + 2*len(strings.Fields(platforms)); len(first) != want {
		t.Errorf("%d files, want %d: %v", len(first), want, first)
	}
	for name, sum := range first {
		t.Log(sum, name)
	}
}

// bill holds a bill of materials against the program it is about.
func bill(t *testing.T, program string, text []byte) {
	t.Helper()
	type component struct {
		Type    string `json:"type"`
		Ref     string `json:"bom-ref"`
		Name    string `json:"name"`
		Version string `json:"version"`
		PURL    string `json:"purl"`
		Hashes  []struct {
			Content string `json:"content"`
		} `json:"hashes"`
	}
	var b struct {
		Format   string `json:"bomFormat"`
		Spec     string `json:"specVersion"`
		Serial   string `json:"serialNumber"`
		Version  int    `json:"version"`
		Metadata struct {
			Component component `json:"component"`
		} `json:"metadata"`
		Components   []component `json:"components"`
		Dependencies []struct {
			Ref       string   `json:"ref"`
			DependsOn []string `json:"dependsOn"`
		} `json:"dependencies"`
	}
	dec := json.NewDecoder(strings.NewReader(string(text)))
	if err := dec.Decode(&b); err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	self := b.Metadata.Component
	if b.Format != "CycloneDX" || b.Spec != "1.6" || b.Version != 1 || !strings.HasPrefix(b.Serial, "urn:uuid:") || len(b.Serial) != 45 ||
		self.Type != "application" || self.Version != "v0.0.0-test" || len(self.Hashes) != 1 || self.Hashes[0].Content != hex.EncodeToString(sum[:]) {
		t.Errorf("%s: %+v", program, b)
	}
	listed := map[string]string{}
	refs := map[string]bool{self.Ref: true}
	for _, c := range b.Components {
		listed[c.Name] = c.Version
		if c.Type != "library" || refs[c.Ref] || c.PURL == "" {
			t.Errorf("%+v", c)
		}
		refs[c.Ref] = true
	}
	for _, d := range info.Deps {
		if d.Replace != nil || listed[d.Path] != d.Version {
			t.Errorf("%s %s is in the program, and the list says %q", d.Path, d.Version, listed[d.Path])
		}
	}
	if len(listed) != len(info.Deps)+1 || listed["std"] != strings.TrimPrefix(info.GoVersion, "go") {
		t.Errorf("%d components for %d modules and the standard library (%s)", len(listed), len(info.Deps), listed["std"])
	}
	for _, d := range b.Dependencies {
		for _, on := range append(d.DependsOn, d.Ref) {
			if !refs[on] {
				t.Errorf("%s is no component", on)
			}
		}
	}
}
