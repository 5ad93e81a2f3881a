// Package archtest has no code, only tests which hold the shape of this module:
// which package may reach which, where the process ends, where the environment
// is read. Each failure gives the reason for the rule. It looks at what
// `go list ./...` finds and imports nothing of this module.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/hostup/deploy-worker"

// listed is what the tests use of `go list -json`.
type listed struct {
	ImportPath, Dir, Name                     string
	GoFiles, CgoFiles                         []string
	TestGoFiles, XTestGoFiles, IgnoredGoFiles []string
	Imports                                   []string
	Standard                                  bool
}

func (p *listed) ours() bool {
	return p.ImportPath == module || strings.HasPrefix(p.ImportPath, module+"/")
}

// testOnly packages help tests, and their names end in test.
func (p *listed) testOnly() bool { return strings.HasSuffix(p.ImportPath, "test") }

// path of the package within the module.
func (p *listed) path() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

// production are the files that end up in a binary, tests those that do not.
func (p *listed) production() []string { return p.files(p.GoFiles, p.CgoFiles, p.IgnoredGoFiles) }
func (p *listed) tests() []string      { return p.files(p.TestGoFiles, p.XTestGoFiles) }

func (p *listed) files(lists ...[]string) []string {
	var paths []string

	for _, name := range slices.Concat(lists...) {
		paths = append(paths, filepath.Join(p.Dir, name))
	}

	return paths
}

// graph holds the packages of the module and everything they reach without
// their tests, by import path.
type graph map[string]*listed

var load = sync.OnceValues(func() (graph, error) {
	cmd := exec.Command("go", "list", "-deps",
		"-json=ImportPath,Dir,Name,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,IgnoredGoFiles,Imports,Standard", "./...")
	cmd.Dir = filepath.Join("..", "..")

	var stderr bytes.Buffer

	cmd.Stderr = &stderr

	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, &stderr)
	}

	g := graph{}

	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &listed{}

		switch err := dec.Decode(p); { //nolint:musttag // go list's keys are its field names
		case errors.Is(err, io.EOF):
			return g, nil
		case err != nil:
			return nil, fmt.Errorf("go list: %w", err)
		}

		g[p.ImportPath] = p
	}
})

func packages(t *testing.T) graph {
	t.Helper()

	g, err := load()
	if err != nil {
		t.Fatal(err)
	}

	return g
}

// ours lists the packages of the module in a fixed order.
func (g graph) ours() []*listed {
	var ours []*listed

	for _, p := range g {
		if p.ours() {
			ours = append(ours, p)
		}
	}

	slices.SortFunc(ours, func(a, b *listed) int { return strings.Compare(a.ImportPath, b.ImportPath) })

	return ours
}

// chain returns the shortest way by imports from a package to one that matches,
// both included, or nil.
func (g graph) chain(from string, matches func(path string) bool) []string {
	cameFrom := map[string]string{from: ""}

	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]

		if at != from && matches(at) {
			var way []string
			for ; at != ""; at = cameFrom[at] {
				way = append(way, at)
			}

			slices.Reverse(way)

			return way
		}

		p := g[at]
		if p == nil {
			continue
		}

		for _, next := range p.Imports {
			if _, seen := cameFrom[next]; !seen {
				cameFrom[next] = at
				queue = append(queue, next)
			}
		}
	}

	return nil
}

// within matches a package and the packages below it.
func within(root string) func(string) bool {
	return func(path string) bool { return path == root || strings.HasPrefix(path, root+"/") }
}

// exactly matches one package.
func exactly(want string) func(string) bool { return func(path string) bool { return path == want } }

// ban says that a package must not reach another, however many imports away.
type ban struct {
	from string // below the module
	what string // what must not be reached, for the failure
	to   func(path string) bool
	why  string
}

// screen draws, and only its command may import it: bubbletea has no place in
// what the worker does.
const screen = "internal/top"

// edges are the packages that touch the world outside.
var edges = []string{"consumer", "hostup", "ledger", "events", "telemetry", "broker", "simulator", "batch"}

func bans() []ban {
	all := []ban{
		{
			"internal/provision", "net/http", within("net/http"),
			"the core decides what happens to a request whatever carries it; HTTP is behind its ports, so that every crash and every answer can be tested without a network",
		},
		{
			"internal/provision", "nats.go and nats-server", within("github.com/nats-io"),
			"the order of effects must not depend on how the ledger or the queue is built; both are behind its ports",
		},
		{
			"internal/provision", "protobuf", within("google.golang.org/protobuf"),
			"the wire may change without the core; internal/events translates",
		},
		{
			"internal/admission", "internal/provision", exactly(module + "/internal/provision"),
			"arrows point downwards, and provision asks admission",
		},
		{
			"internal/admission", "net/http", within("net/http"),
			"admission only decides over values it is handed",
		},
		{
			"internal/admission", "nats.go and nats-server", within("github.com/nats-io"),
			"admission only decides over values it is handed",
		},
		{
			screen, "nats.go and nats-server", within("github.com/nats-io"),
			"the screen is fed through functions, so that every screen can be tested without a broker",
		},
		{
			screen, "net/http", within("net/http"),
			"the screen is fed through functions, so that every screen can be tested without an API",
		},
		{
			"internal/runreport", "other packages of the module", within(module),
			"the report is a pure function of its own values, so that every page can be tested without a run",
		},
		{
			"internal/runreport", "net/http", within("net/http"),
			"the report is a pure function, and its page needs no network",
		},
		{
			"internal/batch", "nats.go and nats-server", within("github.com/nats-io"),
			"it reads files and keeps count; cmd/worker sends what it reads",
		},
		{
			"cmd/worker", "testing", exactly("testing"),
			"it adds test flags to the binary, and means that test helpers are shipped",
		},
		{
			"cmd/worker", "net/http/httptest", exactly("net/http/httptest"),
			"it adds a flag to the binary, and means that test helpers are shipped",
		},
		{
			"cmd/worker", "testcontainers", within("github.com/testcontainers"),
			"a Docker client has no place in the worker",
		},
	}

	for _, from := range append([]string{"provision", "admission"}, edges...) {
		for _, to := range edges {
			if from == to {
				continue
			}

			why := "no edge knows another, so that each can be replaced and tested alone; cmd/worker puts them together"
			if !slices.Contains(edges, from) {
				why = "arrows point downwards: the edges know the core, and the core knows its ports"
			}

			all = append(all, ban{"internal/" + from, "internal/" + to, exactly(module + "/internal/" + to), why})
		}
	}

	return all
}

func TestArrows(t *testing.T) {
	t.Parallel()

	g := packages(t)

	for _, b := range bans() {
		// A package that does not exist (yet) reaches nothing.
		if way := g.chain(module+"/"+b.from, b.to); way != nil {
			t.Errorf("%s must not reach %s: %s.\n\tIt does by %s", b.from, b.what, b.why, strings.Join(way, " -> "))
		}
	}

	for _, p := range g.ours() {
		if strings.HasPrefix(p.path(), "cmd/") {
			continue
		}

		if way := g.chain(p.ImportPath, within(module+"/cmd")); way != nil {
			t.Errorf("%s must not reach a command: arrows point downwards from cmd/worker.\n\tIt does by %s",
				p.path(), strings.Join(way, " -> "))
		}
	}
}

func TestOnlyItsCommandImportsTheScreen(t *testing.T) {
	t.Parallel()

	found := false

	for _, p := range packages(t).ours() {
		for _, path := range p.production() {
			if parse(t, path, parser.ImportsOnly).imports(module + "/" + screen) {
				if p.path() != "cmd/worker" || filepath.Base(path) != "top.go" {
					t.Errorf("%s imports %s: only cmd/worker/top.go may, so that a build without it (-tags notop) has no bubbletea", path, screen)
				}

				found = true
			}

			if p.path() != screen && parse(t, path, parser.ImportsOnly).imports("charm.land/bubbletea/v2") {
				t.Errorf("%s imports bubbletea: only %s draws on the whole terminal", path, screen)
			}
		}
	}

	if !found {
		t.Errorf("nothing imports %s: the rule looks at the wrong files", screen)
	}
}

func TestTestOnlyPackagesStayInTests(t *testing.T) {
	t.Parallel()

	helpers := []string{
		"testing", "testing/synctest", "net/http/httptest", "github.com/google/go-cmp/cmp", "go.uber.org/goleak", "pgregory.net/rapid",
	}

	g := packages(t)

	for _, p := range g.ours() {
		if p.testOnly() {
			continue
		}

		for _, imported := range p.Imports {
			if q := g[imported]; slices.Contains(helpers, imported) || q != nil && q.ours() && q.testOnly() {
				t.Errorf("%s imports %s outside its tests: what helps tests must not end up in the binary", p.path(), imported)
			}
		}
	}
}

func TestOnlyTelemetrySetsUpTheSDK(t *testing.T) {
	t.Parallel()

	for _, p := range packages(t).ours() {
		if p.testOnly() || p.path() == "internal/telemetry" {
			continue
		}

		for _, imported := range p.Imports {
			for _, sdk := range []string{
				"go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters", "go.opentelemetry.io/contrib/exporters",
			} {
				if within(sdk)(imported) {
					t.Errorf("%s imports %s: all but internal/telemetry use the API only, so that what is exported is chosen in one place",
						p.path(), imported)
				}
			}
		}
	}
}

func TestPackageNames(t *testing.T) {
	t.Parallel()

	banned := []string{"base", "common", "helper", "helpers", "lib", "misc", "model", "models", "shared", "type", "types", "util", "utils"}

	for _, p := range packages(t).ours() {
		for element := range strings.SplitSeq(p.path(), "/") {
			if slices.Contains(banned, element) {
				t.Errorf("%s: %q says nothing about what is in it; a package is named after what it provides", p.path(), element)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	t.Parallel()

	for _, p := range packages(t).ours() {
		files := p.files(p.GoFiles, p.CgoFiles)
		if len(files) == 0 {
			files = p.tests()
		}

		var with []string

		for _, path := range files {
			if f := parse(t, path, parser.PackageClauseOnly|parser.ParseComments); f.file.Doc != nil {
				with = append(with, filepath.Base(path))
			}
		}

		if len(with) != 1 {
			t.Errorf("%s has %d package comments %v, want exactly one: it says what the package does, what it does not, and what it may import",
				p.path(), len(with), with)
		}
	}
}

func TestWhereTheProcessEnds(t *testing.T) {
	t.Parallel()

	const why = "only cmd/worker/main.go ends the process, or deferred functions are skipped and no test can see the exit code; return an error"

	for _, p := range packages(t).ours() {
		for _, path := range p.production() {
			if p.path() == "cmd/worker" && filepath.Base(path) == "main.go" {
				continue
			}

			for _, call := range parse(t, path, parser.SkipObjectResolution).uses(map[string][]string{
				"os":      {"Exit"},
				"log":     {"Fatal", "Fatalf", "Fatalln"},
				"syscall": {"Exit"},
			}) {
				t.Errorf("%s: %s", call, why)
			}
		}
	}
}

func TestWhereTheEnvironmentIsRead(t *testing.T) {
	t.Parallel()

	const why = "only cmd/worker reads the environment, or the configuration is not what `worker config` prints; take a value"

	for _, p := range packages(t).ours() {
		if p.testOnly() || strings.HasPrefix(p.path(), "cmd/") {
			continue
		}

		for _, path := range p.production() {
			for _, call := range parse(t, path, parser.SkipObjectResolution).uses(map[string][]string{
				"os":      {"Getenv", "LookupEnv", "Environ", "ExpandEnv"},
				"syscall": {"Getenv", "Environ"},
			}) {
				t.Errorf("%s: %s", call, why)
			}
		}
	}
}

// A test may sleep inside a synctest bubble, where it costs nothing and is
// exact. A helper for use inside one says so in a comment at the call.
func TestTestsDoNotSleep(t *testing.T) {
	t.Parallel()

	const why = "outside a synctest bubble a sleep is too short on a busy machine and too long on any other; wait for a channel or poll up to a deadline"

	for _, p := range packages(t).ours() {
		for _, path := range p.tests() {
			for _, call := range parse(t, path, parser.SkipObjectResolution|parser.ParseComments).sleeps() {
				t.Errorf("%s: %s", call, why)
			}
		}
	}
}

// source is one parsed file.
type source struct {
	file *ast.File
	set  *token.FileSet
}

func parse(t *testing.T, path string, mode parser.Mode) source {
	t.Helper()

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	return parseText(t, path, text, mode)
}

func parseText(t *testing.T, path string, text []byte, mode parser.Mode) source {
	t.Helper()

	set := token.NewFileSet()

	f, err := parser.ParseFile(set, path, text, mode)
	if err != nil {
		t.Fatal(err)
	}

	return source{f, set}
}

// name under which the file knows a package, or "".
func (s source) name(path string) string {
	for _, spec := range s.file.Imports {
		if spec.Path.Value != `"`+path+`"` {
			continue
		}

		if spec.Name != nil {
			return spec.Name.Name
		}

		return path[strings.LastIndex(path, "/")+1:]
	}

	return ""
}

// imports tells whether the file imports a package.
func (s source) imports(path string) bool {
	return slices.ContainsFunc(s.file.Imports, func(spec *ast.ImportSpec) bool { return spec.Path.Value == `"`+path+`"` })
}

// is tells whether an expression is the named thing of a package.
func (s source) is(n ast.Node, pkg, name string) bool {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}

	x, ok := sel.X.(*ast.Ident)

	return ok && x.Name == s.name(pkg)
}

// uses finds the named things of packages, called or not, by import path.
func (s source) uses(banned map[string][]string) []string {
	var found []string

	ast.Inspect(s.file, func(n ast.Node) bool {
		for pkg, names := range banned {
			for _, name := range names {
				if s.is(n, pkg, name) {
					found = append(found, fmt.Sprintf("%s: %s.%s", s.set.Position(n.Pos()), pkg, name))
				}
			}
		}

		return true
	})

	return found
}

// sleeps finds time.Sleep outside a function literal given to synctest.Test and
// without a comment about synctest on its line or the one above.
func (s source) sleeps() []string {
	excused := map[int]bool{}

	for _, group := range s.file.Comments {
		if strings.Contains(group.Text(), "synctest") {
			line := s.set.Position(group.End()).Line
			excused[line], excused[line+1] = true, true
		}
	}

	var found []string

	ast.Inspect(s.file, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && s.is(call.Fun, "testing/synctest", "Test") {
			return false
		}

		if n != nil && s.is(n, "time", "Sleep") && !excused[s.set.Position(n.Pos()).Line] {
			found = append(found, fmt.Sprintf("%s: time.Sleep", s.set.Position(n.Pos())))
		}

		return true
	})

	return found
}
