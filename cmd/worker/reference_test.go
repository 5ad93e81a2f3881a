package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// referenceFile is docs/cli.md, which is written from the parser.
var referenceFile = filepath.Join("..", "..", "docs", "cli.md")

// TestReference holds docs/cli.md to what the program's parser says; with
// -update it writes the file.
func TestReference(t *testing.T) {
	t.Parallel()

	parser, err := kong.New(&cli{}, kong.Name("worker"), kong.Description(description))
	if err != nil {
		t.Fatal(err)
	}
	want := reference(parser)
	if *update {
		if err := os.WriteFile(referenceFile, want, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("docs/cli.md is not what the program says; write it anew: go test ./cmd/worker -run TestReference -update")
	}
}

// Every command has a help that shows how it is used.
func TestHelpHasExamples(t *testing.T) {
	t.Parallel()

	parser, err := kong.New(&cli{}, kong.Name("worker"))
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range parser.Model.Leaves(true) {
		if !strings.Contains(leaf.Detail, "Example") || !strings.Contains(leaf.Detail, "  "+leaf.FullPath()) {
			t.Errorf("the help of %s has no examples of it:\n%s", leaf.FullPath(), leaf.Detail)
		}
	}
}

// reference describes every command in Markdown. Settings that commands share
// are told once, by their group.
func reference(parser *kong.Kong) []byte {
	var b bytes.Buffer
	b.WriteString("# The command line\n\n<!-- Written from the parser: go test ./cmd/worker -run TestReference -update -->\n\n")
	leaves := parser.Model.Leaves(true)
	for _, leaf := range leaves {
		fmt.Fprintf(&b, "* [`%s`](#%s): %s\n", leaf.FullPath(), anchor(leaf.FullPath()), leaf.Help)
	}
	b.WriteString("\nFlags win over the environment, the environment over the file of `--config-file`, the file over the default. What several\ncommands take stands [at the end](#settings).\n")
	var titles []string
	groups := make(map[string][]*kong.Flag)
	for _, leaf := range leaves {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```\nworker %s\n```\n", leaf.FullPath(), leaf.Help, leaf.Summary())
		if leaf.Detail != "" {
			fmt.Fprintf(&b, "\n```\n%s\n```\n", leaf.Detail)
		}
		var own []*kong.Flag
		var also []string
		for _, f := range slices.Concat(leaf.AllFlags(true)...) {
			switch {
			case f.Name == "help" || f.Name == "config-file":
			case f.Group == nil:
				own = append(own, f)
			default:
				title := f.Group.Title
				if !slices.Contains(titles, title) {
					titles = append(titles, title)
				}
				if !slices.ContainsFunc(groups[title], func(have *kong.Flag) bool { return have.Name == f.Name }) {
					groups[title] = append(groups[title], f)
				}
				if link := fmt.Sprintf("[%s](#%s)", title, anchor(title)); !slices.Contains(also, link) {
					also = append(also, link)
				}
			}
		}
		flagTable(&b, own)
		if len(also) > 0 {
			fmt.Fprintf(&b, "\nSettings: %s.\n", strings.Join(also, ", "))
		}
	}
	b.WriteString("\n## Settings\n")
	for _, title := range titles {
		fmt.Fprintf(&b, "\n### %s\n", title)
		flagTable(&b, groups[title])
	}
	return b.Bytes()
}

// anchor is what a heading can be linked by.
func anchor(heading string) string { return strings.ReplaceAll(strings.ToLower(heading), " ", "-") }

func flagTable(b *bytes.Buffer, flags []*kong.Flag) {
	if len(flags) == 0 {
		return
	}
	b.WriteString("\n| flag | variable | default | |\n|---|---|---|---|\n")
	for _, f := range flags {
		name := "`--" + f.Name + "`"
		if f.Short != 0 {
			name = fmt.Sprintf("`-%c`, %s", f.Short, name)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", name, quotedAll(f.Envs), quotedAll([]string{f.Default}), strings.ReplaceAll(f.Help, "|", "\\|"))
	}
}

// quotedAll are words as code, none for empty ones.
func quotedAll(words []string) string {
	var quoted []string
	for _, w := range words {
		if w != "" {
			quoted = append(quoted, "`"+w+"`")
		}
	}
	return strings.Join(quoted, ", ")
}
