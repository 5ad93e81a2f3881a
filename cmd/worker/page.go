package main

import (
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
)

// page is a text for people: titles, and lines with something on the left. It
// is as wide as its terminal.
type page struct {
	text    strings.Builder
	columns int // 0 is without a bound
	colours bool
}

// newPage begins a page that will be written to w.
func newPage(w io.Writer) *page {
	return &page{columns: width(w), colours: colourful(w)}
}

// writeTo writes the page.
func (p *page) writeTo(w io.Writer) error {
	_, err := io.WriteString(w, p.text.String())
	return err
}

// title begins a part of the page.
func (p *page) title(s string) {
	s = strings.Join(p.wrapped(s, 0), "\n")
	if p.colours {
		s = text.Bold.EscapeSeq() + s + text.EscapeReset
	}
	if p.text.Len() > 0 {
		s = "\n" + s
	}
	_, _ = p.text.WriteString(s + "\n")
}

// lead is how far the right side of a line is indented.
const lead = 13

// line writes what belongs to a label.
func (p *page) line(label, s string) {
	if s == "" {
		return
	}
	p.beside("  "+oneLine(label), lead, s)
}

// beside writes a text to the right of another one, from a column on; below it
// where there is no room.
func (p *page) beside(left string, from int, s string) {
	if p.columns > 0 && p.columns-from < narrowestText && s != "" {
		p.beside(left, 0, "")
		left, from = "", below
	}
	for i, l := range p.wrapped(s, from) {
		if i > 0 {
			left = ""
		}
		if room := from - text.StringWidth(left); room > 0 {
			left += strings.Repeat(" ", room)
		} else {
			left += " "
		}
		if first, rest, _ := strings.Cut(l, " "); i == 0 && p.colours {
			word := strings.TrimRight(first, ",:")
			l = colour(word) + strings.TrimPrefix(strings.TrimSuffix(first+" "+rest, " "), word)
		}
		_, _ = p.text.WriteString(strings.TrimRight(left+l, " ") + "\n")
	}
}

// below is how far a text is indented that stands below what it belongs to.
const below = 4

// narrowestText is how few columns a text is given on the narrowest terminal.
const narrowestText = 20

// wrapped breaks a text into lines that fit beside what is on the left.
func (p *page) wrapped(s string, left int) []string {
	s = oneLine(s)
	if p.columns <= 0 {
		return []string{s}
	}
	room := max(p.columns-left, narrowestText)
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && text.StringWidth(line)+1+text.StringWidth(word) > room {
			lines = append(lines, line)
			line = ""
		}
		for text.StringWidth(word) > room { // a word longer than a line
			head := text.Trim(word, room)
			lines = append(lines, head)
			word = strings.TrimPrefix(word, head)
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
