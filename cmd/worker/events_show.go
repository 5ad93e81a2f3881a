package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/provision"
)

// eventPrinter writes events as they come.
type eventPrinter struct {
	to     io.Writer
	output outputFlag
	prefix string
	// columns and colours are of the terminal.
	columns int
	colours bool
	printed int
	// day is that of the event before, for people.
	day string
}

func newEventPrinter(w io.Writer, o outputFlag, prefix string) *eventPrinter {
	return &eventPrinter{to: w, output: o, prefix: prefix, columns: width(w), colours: colourful(w)}
}

func (p *eventPrinter) print(f events.Followed) error {
	defer func() { p.printed++ }()
	if p.output.people() {
		return p.line(f)
	}
	v, err := eventJSON(f, p.prefix)
	if err != nil {
		return err
	}
	if p.output.Output == outputJSONL {
		_, err = fmt.Fprintf(p.to, "%s\n", v)
		return err
	}
	before := ",\n  "
	if p.printed == 0 {
		before = "[\n  "
	}
	var b bytes.Buffer
	if err := json.Indent(&b, v, "  ", "  "); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.to, "%s%s", before, b.Bytes())
	return err
}

// end closes what is open.
func (p *eventPrinter) end() (err error) {
	switch {
	case p.output.Output == outputJSON && p.printed == 0:
		_, err = fmt.Fprintln(p.to, "[]")
	case p.output.Output == outputJSON:
		_, err = fmt.Fprint(p.to, "\n]\n")
	}
	return err
}

// Columns of a line for people; what is longer moves the rest to the right.
const (
	kindColumn = len(provision.KindProvisioning)
	keyColumn  = 20
)

// line writes an event as one line, cut at the edge of the terminal.
func (p *eventPrinter) line(f events.Followed) error {
	at := local(f.StoredAt)
	if day := at.Format(time.DateOnly); day != p.day {
		p.day = day
		if _, err := fmt.Fprintln(p.to, day, at.Format("MST")); err != nil {
			return err
		}
	}
	kind := f.Subject[strings.LastIndexByte(f.Subject, '.')+1:]
	left := at.Format(time.TimeOnly) + "  "
	right := fmt.Sprintf("%s  %s  %s", strings.Repeat(" ", max(kindColumn-len(kind), 0)), text.Pad(oneLine(f.Key), keyColumn, ' '), eventWords(f))
	right = strings.TrimRight(right, " ")
	if room := p.columns - len(left) - len(kind); p.columns > 0 {
		right = text.Snip(right, max(room, 1), "…")
	}
	if p.colours {
		kind = colour(kind)
	}
	_, err := fmt.Fprintln(p.to, left+kind+right)
	return err
}

// eventWords are what people want to know of an event.
func eventWords(f events.Followed) string {
	var words string
	switch {
	case f.Unreadable != nil:
		words = "unreadable: " + f.Unreadable.Error()
	case f.Kind == provision.KindProvisioning:
		words = f.VPSID + " " + f.Request.Name
		if f.Adopted {
			words += " (adopted)"
		}
	case f.Kind == provision.KindFailed:
		words = string(f.Reason) + ": " + problemOf(f.Problem).words(f.Reason)
		if f.Rejected {
			words = "rejected, " + words
		}
	default:
		words = problemOf(f.Problem).words("held")
	}
	return oneLine(words)
}
