package top

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
)

const (
	// storyFrame is what a story has around it: a title, two rules and the keys.
	storyFrame = 4
	// wide is where three panes fit beside each other, narrow where two do not.
	wide, narrow = 120, 72
	// stateIndent is where the words about gate and brake begin; awayLines is how
	// many lines one cause of being away has.
	stateIndent, awayLines = 7, 2
	// Below these there is nothing to be seen.
	leastWidth, leastHeight = 30, 8
)

// View implements tea.Model.
func (m model) View() tea.View {
	v := tea.NewView(m.draw())
	v.AltScreen = true
	return v
}

// draw is the screen with its tones, never larger than the terminal.
func (m model) draw() string {
	if m.width == 0 || m.now.IsZero() {
		return ""
	}
	all := m.screen()
	all = all[:min(len(all), m.height)]
	drawn := make([]string, len(all))
	for i, l := range all {
		drawn[i] = l.cut(m.width).String()
	}
	return strings.Join(drawn, "\n")
}

func (m model) screen() []line {
	switch {
	case m.width < leastWidth || m.height < leastHeight:
		return []line{text(plain, fmt.Sprintf("worker top needs %d×%d", leastWidth, leastHeight)), text(plain, "q quits")}
	case m.mode == helping:
		return m.help()
	case m.mode == explaining:
		return m.storyPane()
	}
	above := slices.Concat([]line{m.heading()}, m.state(), m.panes())
	// Held requests and outcomes matter more than the panes' last lines.
	rest := m.height - len(above) - 1
	if least := min(6, m.height/2); rest < least {
		above = above[:max(4, m.height-1-least)]
		rest = m.height - len(above) - 1
	}
	below := m.lists(rest)
	filler := make([]line, max(0, rest-len(below)))
	return slices.Concat(above, below, filler, []line{m.footer()})
}

func (m model) rule() line { return text(faint, strings.Repeat("─", m.width)) }

func (m model) heading() line {
	clock := m.now.Format("15:04:05 MST")
	title := line{say(strong, "worker top"), gap, say(plain, m.title)}
	return append(title.filled(m.width-cells(clock)-1), say(plain, " "+clock))
}

func (m model) footer() line {
	if m.mode == typing {
		return line{say(strong, "key to look up: "), say(plain, m.typed), say(strong, "▏"), say(faint, "  enter explains, esc leaves")}
	}
	keys := "? help   / look up a key   ↑↓ tab select   enter explain   q quit"
	if m.width < narrow {
		keys = "? help  / look up  enter explain  q quit"
	}
	return text(faint, keys)
}

// state says on a line each what stops the fleet: gate, brake, and what cannot
// be seen.
func (m model) state() []line {
	var all []line
	if !m.parts[ofShared].at.IsZero() {
		all = append(all, m.dated(m.gateLine()), m.dated(m.brakeLine()))
	} else {
		for _, name := range []string{"GATE", "BRAKE"} {
			all = append(all, line{left(strong, name, stateIndent), say(faint, "not read yet")})
		}
	}
	return append(all, m.awayLines()...)
}

// dated says of a line about the shared rows how old it is, where they are away.
func (m model) dated(l line) line {
	p := m.parts[ofShared]
	if p.away.IsZero() {
		return l
	}
	return slices.Insert(l, 1, sayf(warn, "%s ago: ", spell(m.now.Sub(p.at))))
}

// awayLines says what cannot be read, since when and why; what has the same
// cause on one line.
func (m model) awayLines() []line {
	var all []line
	for s := range sources {
		p := m.parts[s]
		if p.away.IsZero() {
			continue
		}
		var names []string
		since, first := p.away, true
		for o := range sources {
			q := m.parts[o]
			if q.away.IsZero() || q.why != p.why {
				continue
			}
			first = first && o >= s
			names = append(names, o.String())
			if q.away.Before(since) {
				since = q.away
			}
		}
		if !first {
			continue // said already
		}
		words := wrap(fmt.Sprintf("%s for %s: %s", strings.Join(names, ", "), spell(m.now.Sub(since)), p.why), m.width-stateIndent)
		if len(words) > awayLines {
			words = append(words[:awayLines-1], strings.Join(words[awayLines-1:], " "))
		}
		for i, w := range words {
			head := ""
			if i == 0 {
				head = "AWAY"
			}
			all = append(all, line{left(warn, head, stateIndent), say(plain, w)})
		}
	}
	return all
}

// age is what a pane's title says of figures that are not new.
func (m model) age(s source, usual time.Duration) span {
	p := m.parts[s]
	switch old := m.now.Sub(p.at); {
	case p.at.IsZero() && p.away.IsZero():
		return say(faint, " not read yet")
	case p.at.IsZero():
		return say(warn, " away")
	case !p.away.IsZero():
		return sayf(warn, " as of %s ago", spell(old))
	case old > usual:
		return sayf(faint, " as of %s ago", spell(old))
	}
	return span{}
}

// help is the whole screen.
func (m model) help() []line {
	all := []line{append(text(strong, "worker top"), say(plain, "  looks and changes nothing. To act: worker pause, resume, resolve")), m.rule()}
	for _, l := range [][2]string{
		{"↑ ↓  k j  PgUp PgDn", "select a held request or an outcome; g first, G last"},
		{"tab", "to the other list"},
		{"enter  e", "explain: the story of the selected request; r reads it again"},
		{"/", "explain a request by its idempotency key"},
		{"esc  q", "leave a story"},
		{"q  Ctrl-C", "quit"},
		{},
		{"GATE", "how far HostUp may be called, by all replicas"},
		{"BRAKE", "no create at all: worker pause, a cap, or a suspected double"},
		{"AWAY", "what cannot be read, since when; it is tried again"},
		{"pending", "not delivered to a worker yet"},
		{"ack pending", "in work, or waiting in the broker for its time"},
		{"creating, unknown", "may be in flight; is being looked up"},
		{"to announce", "the outcome is stored, its event is not confirmed"},
		{"WAITING", "for what, and when the first goes on"},
		{"LIMITS", "█ used  ▒ in flight, which may be among the used already"},
		{"HELD", "whether a server was bought is not provable: worker resolve"},
		{"OUTCOMES", "the events as they are published"},
	} {
		all = append(all, line{left(busy, l[0], 20), say(plain, l[1])})
	}
	all = all[:min(len(all), m.height-1)]
	return slices.Concat(all, make([]line, m.height-1-len(all)), []line{text(faint, "any key goes back")})
}

// storyPane is the whole screen too.
func (m model) storyPane() []line {
	s := m.story
	all := []line{{say(strong, "explain "), say(plain, s.key)}, m.rule()}
	shown := 0
	switch {
	case s.reading:
		all = append(all, text(faint, "reading…"))
	case s.failed != "":
		for _, l := range wrap(s.failed, m.width) {
			all = append(all, text(bad, l))
		}
	default:
		shown = min(len(s.lines)-s.top, m.storyHeight())
		for _, l := range s.lines[s.top : s.top+shown] {
			all = append(all, line{span{l, plain}})
		}
	}
	for len(all) < m.height-2 {
		all = append(all, nil)
	}
	all = all[:m.height-2]
	keys := "esc back   ↑↓ PgUp PgDn scroll   r read again"
	if more := len(s.lines) - shown; more > 0 && shown > 0 {
		keys = fmt.Sprintf("lines %d-%d of %d   %s", s.top+1, s.top+shown, len(s.lines), keys)
	}
	return append(all, m.rule(), text(faint, keys))
}

// wrap breaks a text at its spaces.
func wrap(words string, width int) []string {
	var all []string
	current := ""
	for w := range strings.FieldsSeq(clean(words)) {
		switch {
		case current == "":
			current = w
		case cells(current)+1+cells(w) <= width:
			current += " " + w
		default:
			all = append(all, current)
			current = w
		}
	}
	return append(all, current)
}
