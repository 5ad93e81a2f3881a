package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// documented finds the commands in the shell blocks of a document.
var (
	shellBlock  = regexp.MustCompile("(?s)```sh\n(.*?)```")
	workerCall  = regexp.MustCompile(`(?m)^\s*(?:[A-Z_]+=\S+ )*(?:\S*/)?worker ([^#\n|&]*)`)
	wordOfShell = regexp.MustCompile(`'[^']*'|\S+`)
)

// Every command that a document shows is one that the program takes.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()

	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, page := range append(pages, filepath.Join("..", "..", "README.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range shellBlock.FindAllStringSubmatch(string(text), -1) {
			for _, call := range workerCall.FindAllStringSubmatch(block[1], -1) {
				seen++
				var args []string
				for _, word := range wordOfShell.FindAllString(call[1], -1) {
					args = append(args, strings.Trim(word, "'"))
				}
				if err := parses(t, args); err != nil {
					t.Errorf("%s shows `worker %s`: %v", filepath.Base(page), strings.TrimSpace(call[1]), err)
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("%d commands were found: the documents have more", seen)
	}
}

// parses reports whether the program takes a command line; nothing is run.
func parses(t *testing.T, args []string) error {
	t.Helper()
	parser, err := kong.New(&cli{}, kong.Name("worker"), kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	return err
}

func TestParsesRefuses(t *testing.T) {
	t.Parallel()

	if err := parses(t, []string{"list", "--colour"}); err == nil {
		t.Error("a flag that does not exist was taken")
	}
}
