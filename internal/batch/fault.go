package batch

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Fault is one thing wrong with the input.
type Fault struct {
	// Line counts from 1; 0 is the input as a whole. Column is where the field
	// begins in the line of a CSV, in bytes from 1, 0 elsewhere.
	Line, Column int
	// Field is the field as the input writes it, "" for a row as a whole.
	Field  string
	Detail string
}

// BrokenError is input that cannot be read any further.
type BrokenError []Fault

// Error implements error.
func (e BrokenError) Error() string {
	texts := make([]string, len(e))
	for i, f := range e {
		texts[i] = f.text("line")
	}
	return strings.Join(texts, "\n")
}

// text tells the fault with its place behind the name of the input.
func (f Fault) text(name string) string {
	var b strings.Builder
	b.WriteString(name)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	if f.Column > 0 {
		fmt.Fprintf(&b, ":%d", f.Column)
	}
	b.WriteString(": ")
	// A detail names the field itself, in the spelling of the schema.
	if f.Field != "" && !strings.Contains(f.Detail, "`"+f.Field) {
		field := f.Field
		if q := strconv.Quote(field); len(q) != len(field)+2 {
			field = q // a terminal must not act on it
		}
		b.WriteString(field + ": ")
	}
	b.WriteString(f.Detail)
	return b.String()
}

// InvalidError lists what is wrong with input, in the order of its lines.
type InvalidError struct {
	Name   string
	Faults []Fault
	// Total counts all faults, also those that are not listed.
	Total int

	max int
}

// Error implements error: a line for each fault.
func (e *InvalidError) Error() string {
	var b strings.Builder
	for _, f := range e.Faults {
		b.WriteString(f.text(e.Name) + "\n")
	}
	if more := e.Total - len(e.Faults); more > 0 {
		fmt.Fprintf(&b, "and %d more\n", more)
	}
	noun := "faults"
	if e.Total == 1 {
		noun = "fault"
	}
	fmt.Fprintf(&b, "%d %s in %s: nothing was sent", e.Total, noun, e.Name)
	return b.String()
}

func (e *InvalidError) add(fs ...Fault) {
	e.Total += len(fs)
	e.Faults = append(e.Faults, fs[:min(len(fs), e.max-len(e.Faults))]...)
}

func (e *InvalidError) sort() {
	slices.SortStableFunc(e.Faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}
