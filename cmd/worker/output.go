package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"github.com/hostup/deploy-worker/internal/provision"
)

// terminal is what a command talks to. Results go to out, logs and progress to
// err.
type terminal struct {
	in  io.Reader
	out io.Writer
	err io.Writer
}

// outputFlag chooses how a reader prints.
type outputFlag struct {
	Output string `name:"output" short:"o" env:"WORKER_OUTPUT" enum:"table,json,jsonl" default:"table" help:"table, json or jsonl."`
}

// people reports whether a person reads the output.
func (o outputFlag) people() bool { return o.Output == outputTable }

// The values of outputFlag.
const (
	outputTable = "table"
	outputJSON  = "json"
	outputJSONL = "jsonl"
)

// printAll writes values as one JSON array, as one JSON value a line, or as
// people prints them.
func printAll[T any](w io.Writer, o outputFlag, values []T, people func() error) error {
	switch o.Output {
	case outputJSON:
		if values == nil {
			values = []T{} // an empty array, not null
		}
		return printJSON(w, values, true)
	case outputJSONL:
		for _, v := range values {
			if err := printJSON(w, v, false); err != nil {
				return err
			}
		}
		return nil
	default:
		return people()
	}
}

// printOne writes one value as JSON, or as people prints it.
func printOne(w io.Writer, o outputFlag, value any, people func() error) error {
	if o.people() {
		return people()
	}
	return printJSON(w, value, o.Output == outputJSON)
}

func printJSON(w io.Writer, v any, indent bool) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if indent {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(v)
}

// isTerminal reports whether a person looks at w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// width is how many columns w has, 0 when it is not a terminal.
func width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// colourful reports whether w takes colours: a terminal, unless NO_COLOR is set
// to anything (no-color.org) or the terminal is a dumb one.
func colourful(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// newTable begins a table on w. What does not fit the terminal is wrapped in
// the columns that are named flexible, given by their headings.
func newTable(w io.Writer, headings []string, flexible ...string) *fitting {
	t := &fitting{Writer: table.NewWriter(), to: w, colours: colourful(w)}
	t.SetStyle(table.StyleRounded)
	t.Style().Format.Header = text.FormatDefault
	row := make(table.Row, len(headings))
	for i, h := range headings {
		row[i] = h
		if slices.Contains(flexible, h) {
			t.flexible = append(t.flexible, i)
		}
	}
	t.AppendHeader(row)
	t.note(row)
	return t
}

// fitting is a table that knows how wide it may be.
type fitting struct {
	table.Writer
	to       io.Writer
	colours  bool
	flexible []int
	spared   []int
	widest   []int
}

// spare makes a flexible column give way after all others.
func (t *fitting) spare(column int) { t.spared = append(t.spared, column) }

// row appends a row. What a terminal would obey in it is shown instead, and
// words of outcome are coloured on a terminal.
func (t *fitting) row(cells ...any) {
	for i, c := range cells {
		cells[i] = harmless(fmt.Sprint(c))
	}
	t.note(cells)
	if t.colours {
		for i, c := range cells {
			cells[i] = colour(fmt.Sprint(c))
		}
	}
	t.AppendRow(cells)
}

func (t *fitting) note(cells []any) {
	for len(t.widest) < len(cells) {
		t.widest = append(t.widest, 0)
	}
	for i, c := range cells {
		t.widest[i] = max(t.widest[i], text.LongestLineLen(fmt.Sprint(c)))
	}
}

// narrowest is how far a flexible column may shrink.
const narrowest = 12

// print writes the table. The flexible columns give up what the terminal lacks,
// the widest first.
func (t *fitting) print() error {
	if room := width(t.to); room > 0 {
		need := 1
		for _, w := range t.widest {
			need += w + 3
		}
		wide := slices.Clone(t.widest)
		for ; need > room; need-- {
			at := t.givesWay(wide, t.spared)
			if at < 0 {
				at = t.givesWay(wide, nil)
			}
			if at < 0 {
				break
			}
			wide[at]--
		}
		var columns []table.ColumnConfig
		for _, i := range t.flexible {
			columns = append(columns, table.ColumnConfig{Number: i + 1, WidthMax: wide[i], WidthMaxEnforcer: byWords})
		}
		t.SetColumnConfigs(columns)
		t.SetAllowedRowLength(room)
	}
	_, err := fmt.Fprintln(t.to, t.Render())
	return err
}

// byWords breaks each line between words, and inside of those that are too
// long.
func byWords(s string, width int) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = text.WrapSoft(line, width)
	}
	return strings.Join(lines, "\n")
}

// givesWay is the widest of the flexible columns but some, -1 when they are all
// as narrow as they may be.
func (t *fitting) givesWay(wide, but []int) int {
	at := -1
	for _, i := range t.flexible {
		if wide[i] > narrowest && (at < 0 || wide[i] > wide[at]) && !slices.Contains(but, i) {
			at = i
		}
	}
	return at
}

// colours of the words that say how something stands.
var colours = map[string]text.Color{
	string(provision.StateDone): text.FgGreen, string(provision.StateCreated): text.FgGreen, string(provision.KindProvisioning): text.FgGreen, checkOK: text.FgGreen,
	string(provision.StateFailed): text.FgRed, string(provision.VerdictRefused): text.FgRed, checkFail: text.FgRed,
	string(provision.StateHeld): text.FgMagenta, string(provision.FindingSuspectedDouble): text.FgMagenta,
	string(provision.StateUnknown): text.FgYellow, string(provision.VerdictThrottled): text.FgYellow, checkWarn: text.FgYellow,
	string(provision.FindingOrphan): text.FgYellow, string(provision.FindingVanished): text.FgYellow,
	string(provision.StateAccepted): text.FgCyan, string(provision.StateCreating): text.FgCyan, string(provision.VerdictNeverSent): text.FgCyan,
}

// colour paints a word that says how something stands.
func colour(word string) string {
	if c, ok := colours[word]; ok {
		// Colours are chosen by colourful; the library's own look at the
		// environment would overrule a terminal.
		return c.EscapeSeq() + word + text.EscapeReset
	}
	return word
}

// harmless shows what a terminal would obey, or what would make a text read
// otherwise than it is: control characters but line ends, and marks that turn
// the direction of writing. Names and details come from outside.
func harmless(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, obeyed) {
		return s
	}
	var b strings.Builder
	for _, r := range s { // what is not UTF-8 becomes a replacement character
		if obeyed(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func obeyed(r rune) bool {
	return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
}

// oneLine is harmless, and without line ends.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(harmless(s), func(r rune) bool { return r == '\n' || r == '\u2028' || r == '\u2029' }), " ")
}

// ago tells a time to a person: relative to now, coarse, "-" for none.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := now.Sub(t)
	if d < 0 {
		return "in " + span(-d)
	}
	return span(d) + " ago"
}

// span is a duration in its one or two largest units.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return units(d, time.Minute, "m", time.Second, "s")
	case d < 24*time.Hour:
		return units(d, time.Hour, "h", time.Minute, "m")
	default:
		return units(d, 24*time.Hour, "d", time.Hour, "h")
	}
}

func units(d, large time.Duration, l string, small time.Duration, s string) string {
	text := fmt.Sprintf("%d%s", d/large, l)
	if rest := d % large / small; rest > 0 {
		text += fmt.Sprintf("%d%s", rest, s)
	}
	return text
}
