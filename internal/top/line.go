package top

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"
)

// tone is how a word looks. Nothing is told by a tone alone: a terminal may
// have no colours.
type tone int

const (
	plain tone = iota
	faint
	strong
	good
	bad
	warn
	person // a person is needed
	busy
)

var styles = [...]ansi.Style{
	plain:  nil,
	faint:  ansi.NewStyle().Faint(),
	strong: ansi.NewStyle().Bold(),
	good:   ansi.NewStyle().ForegroundColor(ansi.Green),
	bad:    ansi.NewStyle().ForegroundColor(ansi.Red).Bold(),
	warn:   ansi.NewStyle().ForegroundColor(ansi.Yellow).Bold(),
	person: ansi.NewStyle().ForegroundColor(ansi.Magenta).Bold(),
	busy:   ansi.NewStyle().ForegroundColor(ansi.Cyan),
}

// span is a piece of a line in one tone. Only say makes one: whatever came from
// outside has been cleaned by then.
type span struct {
	text string
	tone tone
}

// line is one line of the screen.
type line []span

func say(t tone, text string) span { return span{clean(text), t} }

func sayf(t tone, format string, args ...any) span { return say(t, fmt.Sprintf(format, args...)) }

// text is a line in one tone.
func text(t tone, words string) line { return line{say(t, words)} }

func (l line) width() int {
	w := 0
	for _, s := range l {
		w += cells(s.text)
	}
	return w
}

// cut shortens a line to a width.
func (l line) cut(width int) line {
	if l.width() <= width {
		return l
	}
	var kept line
	for _, s := range l {
		room := width - kept.width()
		if w := cells(s.text); w < room {
			kept = append(kept, s)
			continue
		}
		return append(kept, span{shorten(s.text+" ", room), s.tone})
	}
	return kept
}

// filled is a line cut or filled up to exactly a width.
func (l line) filled(width int) line {
	l = l.cut(width)
	if missing := width - l.width(); missing > 0 {
		l = append(slices.Clip(l), span{strings.Repeat(" ", missing), plain})
	}
	return l
}

// String writes the line with its tones.
func (l line) String() string {
	var b strings.Builder
	for _, s := range l {
		b.WriteString(styles[s.tone].Styled(s.text))
	}
	return b.String()
}

// left and right fill a cell of a table, cut where it is too long.
func left(t tone, words string, width int) span {
	words = shorten(clean(words), width)
	return span{words + strings.Repeat(" ", max(0, width-cells(words))), t}
}

func right(t tone, words string, width int) span {
	words = shorten(clean(words), width)
	return span{strings.Repeat(" ", max(0, width-cells(words))) + words, t}
}

// gap is the space between two cells.
var gap = span{"  ", plain}

// cells and shorten count what a terminal shows; as wide as bubbletea draws it.
func cells(s string) int { return ansi.StringWidthWc(s) }

func shorten(s string, width int) string {
	if width <= 0 {
		return ""
	}
	return ansi.TruncateWc(s, width, "…")
}

// clean makes foreign text harmless on a terminal: no escape sequences, no other
// control characters, nothing that turns the direction of what follows. White
// space becomes one space.
func clean(s string) string {
	s = ansi.Strip(strings.ToValidUTF8(s, "\ufffd"))
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			// Controls, formats, private use, and spaces other than the space.
			return -1
		}
		return r
	}, s)
}

// lines are the cleaned lines of a text, its indentation kept.
func lines(s string) []string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i, l := range all {
		all[i] = clean(strings.ReplaceAll(l, "\t", "    "))
	}
	return all
}

// beside puts two blocks beside each other.
func beside(a, b []line, widthA, widthB int) []line {
	joined := make([]line, max(len(a), len(b)))
	for i := range joined {
		var l, r line
		if i < len(a) {
			l = a[i]
		}
		if i < len(b) {
			r = b[i]
		}
		joined[i] = append(append(l.filled(widthA), say(faint, " │ ")), r.cut(widthB)...)
	}
	return joined
}

// span of time in its one or two largest units.
func spell(d time.Duration) string {
	d = max(d, 0)
	switch {
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
	words := fmt.Sprintf("%d%s", d/large, l)
	if rest := d % large / small; rest > 0 {
		words += fmt.Sprintf("%d%s", rest, s)
	}
	return words
}
