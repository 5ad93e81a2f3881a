package archtest

import (
	"go/parser"
	"slices"
	"testing"
)

// The checks themselves must be able to fail.

func TestChainIsTheShortestWay(t *testing.T) {
	t.Parallel()

	g := graph{
		"a": {Imports: []string{"b", "c"}},
		"b": {Imports: []string{"d"}},
		"c": {Imports: []string{"net/http"}},
		"d": {Imports: []string{"net/http/httptrace", "a"}},
	}

	for _, test := range []struct {
		to   string
		want []string
	}{
		{"net/http", []string{"a", "c", "net/http"}},
		{"net/http/httptrace", []string{"a", "b", "d", "net/http/httptrace"}},
		{"net", nil},
		{"a", nil},
	} {
		if got := g.chain("a", exactly(test.to)); !slices.Equal(got, test.want) {
			t.Errorf("way to %s: %v, want %v", test.to, got, test.want)
		}
	}

	if g.chain("d", within("net")) == nil {
		t.Error("net/http/httptrace is not found below net")
	}
}

func TestUsesFollowsImportNames(t *testing.T) {
	t.Parallel()

	const text = `package p

import (
	sys "os"
	"example.com/log"
)

func f() {
	defer sys.Exit(1)
	sys.Getpid()
	log.Fatal()
	var os interface{ Exit(int) }
	os.Exit(1)
	g := sys.Exit
}
`

	s := parseText(t, "p.go", []byte(text), parser.SkipObjectResolution)
	got := s.uses(map[string][]string{"os": {"Exit"}, "log": {"Fatal"}})
	want := []string{"p.go:9:8: os.Exit", "p.go:14:7: os.Exit"}

	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

func TestSleepsOutsideBubbles(t *testing.T) {
	t.Parallel()

	const text = `package p

import (
	"testing/synctest"
	"time"
)

func f() {
	time.Sleep(1)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(2)
		func() { time.Sleep(3) }()
	})
	// Runs inside a synctest bubble.
	time.Sleep(4)
	time.Sleep(5) // runs inside a synctest bubble

	time.Sleep(6)
}
`

	s := parseText(t, "p_test.go", []byte(text), parser.SkipObjectResolution|parser.ParseComments)
	want := []string{"p_test.go:9:2: time.Sleep", "p_test.go:18:2: time.Sleep"}

	if got := s.sleeps(); !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}
