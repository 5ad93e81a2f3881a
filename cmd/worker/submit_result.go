package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/hostup/deploy-worker/internal/batch"
)

// outputCSV is an output of submit alone.
const outputCSV = "csv"

// maxListed is how many orders a table has; of more, only those that are not
// provisioning are listed, as many.
const maxListed = 20

// submittedOrder is one row of the result.
type submittedOrder struct {
	Line int    `json:"line,omitempty"`
	Key  string `json:"idempotencyKey"`
	Name string `json:"name"`
	batch.Outcome
}

// results gives every row with what has become of it, in the order of the
// input, reading that again.
func (s *submission) results(each func(batch.Row, submittedOrder) error) error {
	return s.batch.Each(func(i int, r batch.Row) error {
		o, err := s.batch.Outcome(i)
		if err != nil {
			return err
		}
		return each(r, submittedOrder{Line: r.Line, Key: r.Request.Key, Name: r.Request.Name, Outcome: o})
	})
}

// result tells what has become of the orders. The error is the verdict, that of
// the exit code, unless telling fails.
func (s *submission) result() error {
	var err error
	switch s.Output {
	case outputJSON:
		err = s.jsonArray()
	case outputJSONL:
		err = s.results(func(_ batch.Row, o submittedOrder) error { return printJSON(s.t.out, o, false) })
	case outputCSV:
		err = s.writeCSV(s.t.out)
	default:
		err = s.table()
	}
	if err == nil && s.csvOut != nil {
		if err = s.writeCSV(s.csvOut.file); err == nil {
			err = s.csvOut.keep()
		}
	}
	return err
}

// verdict is the exit code of a submission that was waited for.
func (s *submission) verdict() error {
	c := s.batch.Counts()
	open := c.Orders - c.Answered() - c.Held
	switch {
	case open > 0:
		err := fmt.Errorf("%d of %d orders are unanswered after %s\n%s", open, c.Orders, s.Timeout, s.goOn())
		if s.lookErr != nil {
			err = fmt.Errorf("%w\nthe ledger cannot be read, so orders that were answered earlier cannot be told: %w", err, s.lookErr)
		}
		return timeoutError{err}
	case c.Failed == c.Orders:
		return fmt.Errorf("%s failed", amount(c.Orders, "order"))
	case c.Failed+c.Held > 0:
		var parts []string
		if c.Failed > 0 {
			parts = append(parts, fmt.Sprintf("%d failed", c.Failed))
		}
		if c.Held > 0 {
			parts = append(parts, fmt.Sprintf("%d held for a person (worker resolve)", c.Held))
		}
		return partlyError{fmt.Errorf("of %s %s", amount(c.Orders, "order"), strings.Join(parts, ", "))}
	default:
		return nil
	}
}

// amount is a number of things.
func amount(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// jsonArray writes one array, a row at a time.
func (s *submission) jsonArray() error {
	next := "[\n  "
	err := s.results(func(_ batch.Row, o submittedOrder) error {
		var row strings.Builder
		err := printJSON(&row, o, false)
		_, writeErr := fmt.Fprint(s.t.out, next, strings.TrimSpace(row.String()))
		next = ",\n  "
		return errors.Join(err, writeErr)
	})
	_, endErr := fmt.Fprint(s.t.out, "\n]\n")
	return errors.Join(err, endErr)
}

// table is the result for people.
func (s *submission) table() error {
	c := s.batch.Counts()
	all := s.batch.Len() <= maxListed
	headings := []string{"LINE", "ORDER", "STATE", "OUTCOME"}
	if s.File == "" {
		headings = headings[1:]
	}
	tab := newTable(s.t.out, headings, "ORDER")
	columns := width(s.t.out)
	listed, left := 0, 0
	err := s.results(func(_ batch.Row, o submittedOrder) error {
		switch {
		case !all && (o.State == batch.Provisioning || o.State == batch.Duplicate || !s.Wait):
			return nil
		case listed == maxListed:
			left++
			return nil
		}
		listed++
		cells := []any{o.Line, oneLine(o.order()), string(o.State), wrapped(o.outcome(), columns)}
		tab.row(cells[len(cells)-len(headings):]...)
		return nil
	})
	if err == nil && listed > 0 {
		err = tab.print()
	}
	if err == nil && left > 0 {
		_, err = fmt.Fprintf(s.t.out, "and %d more like these; -o csv, -o jsonl or --csv-out tells all\n", left)
	}
	if err == nil {
		_, err = fmt.Fprintln(s.t.out, s.summary(c))
	}
	return err
}

// order names an order for people: its key, and its name where that does not
// say it.
func (o submittedOrder) order() string {
	if strings.Contains(o.Key, o.Name) {
		return o.Key
	}
	return o.Key + " (" + o.Name + ")"
}

// outcome is all that a person wants to know of it. A server's id has a line of
// its own, to be copied.
func (o submittedOrder) outcome() string {
	remark := oneLine(o.remark(func(at time.Time) string { return ago(time.Now(), at) }))
	switch {
	case o.VPSID != "" && remark != "":
		return oneLine(o.VPSID) + "\n" + remark
	case o.Reason != "" && remark != "":
		return o.Reason + ": " + remark
	default:
		return cmp.Or(oneLine(o.VPSID), o.Reason, remark)
	}
}

// beside is what the other columns of the table need, serverID what a server's
// id does, which must stay in one piece.
const (
	beside   = 60
	serverID = 30
)

// wrapped breaks an outcome between words, for a terminal of so many columns; 0
// is none.
func wrapped(outcome string, columns int) string {
	if columns == 0 {
		return outcome
	}
	return text.WrapSoft(outcome, max(columns-beside, serverID))
}

// remark is the detail, with what no column has.
func (o submittedOrder) remark(when func(time.Time) string) string {
	var parts []string
	if !o.OrderedAt.IsZero() {
		parts = append(parts, "ordered before, "+when(o.OrderedAt))
	}
	if o.Adopted {
		parts = append(parts, "adopted")
	}
	if o.Detail != "" {
		parts = append(parts, o.Detail)
	}
	return strings.Join(parts, "; ")
}

// summary is the result in a sentence.
func (s *submission) summary(c batch.Counts) string {
	var said string
	if s.Wait {
		said = fmt.Sprintf("%s, %s: %d provisioning, %d failed, %d held, %d unanswered",
			amount(c.Orders, "order"), "in "+span(time.Since(s.began)), c.Provisioning, c.Failed, c.Held, c.Orders-c.Answered()-c.Held)
	} else {
		said = fmt.Sprintf("%s sent to %s; the same command with --wait orders nothing again and tells the outcomes", amount(c.Orders, "order"), s.subject())
	}
	if c.Before > 0 {
		said += fmt.Sprintf("\n%s of %d had been placed before, and bought nothing again", amount(c.Before, "order"), c.Orders)
	}
	switch {
	case c.Repeated == 1:
		said += "\n1 row says the same as an earlier one, and was not sent"
	case c.Repeated > 1:
		said += fmt.Sprintf("\n%d rows say the same as earlier ones, and were not sent", c.Repeated)
	}
	return said
}
