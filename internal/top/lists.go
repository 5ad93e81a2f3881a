package top

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hostup/deploy-worker/internal/provision"
)

// lists are the held requests and the outcomes, on so many lines together.
func (m model) lists(height int) []line {
	rows := m.rows()
	at := -1
	if len(rows) > 0 {
		at = m.at(rows)
	}
	room := max(0, height-2) // less the two headings
	held := min(len(m.requests.Held), max(1, room/2))
	if len(m.outcomes) < room-held {
		held = min(len(m.requests.Held), room-len(m.outcomes))
	}
	first := window(at, len(m.requests.Held), held)
	all := []line{m.heldHeading(first, held)}
	for i := first; i < first+held; i++ {
		all = append(all, marked(i == at, m.heldLine(m.requests.Held[i])))
	}
	all = append(all, m.outcomesHeading())
	shown := min(len(m.outcomes), max(0, room-held))
	first = window(at-len(m.requests.Held), len(m.outcomes), shown)
	for i := first; i < first+shown; i++ {
		all = append(all, marked(i+len(m.requests.Held) == at, m.outcomeLine(m.outcomes[i])))
	}
	return all
}

// window is the first of so many lines of a list that shows the selected one.
func window(at, length, shown int) int {
	return min(max(0, at-shown+1), max(0, length-shown))
}

// marked shows which line is selected, without a colour too.
func marked(selected bool, l line) line {
	if !selected {
		return append(line{span{"  ", plain}}, l...)
	}
	bold := slices.Clone(l)
	for i, s := range bold {
		if s.tone == plain || s.tone == faint {
			bold[i].tone = strong
		}
	}
	return append(line{say(strong, "› ")}, bold...)
}

// heldHeading says how many there are, and which of them are shown.
func (m model) heldHeading(first, shown int) line {
	head := line{say(strong, "HELD ")}
	n := m.requests.States[provision.StateHeld]
	switch {
	case m.parts[ofRequests].at.IsZero():
		return append(head, say(faint, "not read yet"))
	case n == 0:
		return append(head, say(good, "none"))
	}
	head = append(head, sayf(person, "%d", n), say(plain, "  decide with worker resolve KEY"))
	if shown < n {
		head = append(head, sayf(faint, "  (%d-%d shown)", first+1, first+shown))
	}
	return head
}

// keyWidth is the room of a key in a list.
func (m model) keyWidth() int { return min(max(m.width/5, 12), 40) }

func (m model) heldLine(h Held) line {
	candidates := "no candidate"
	switch n := len(h.Candidates); {
	case n == 1:
		candidates = "candidate " + h.Candidates[0]
	case n > 1:
		candidates = fmt.Sprintf("%d candidates", n)
	}
	if m.width >= wide && len(h.Candidates) > 1 {
		candidates += " " + strings.Join(h.Candidates, " ")
	}
	return line{
		left(person, h.Key, m.keyWidth()), gap, right(plain, spell(m.now.Sub(h.Since)), 7), gap,
		say(plain, candidates), say(faint, "  "+h.Why),
	}
}

func (m model) outcomesHeading() line {
	head := line{say(strong, "OUTCOMES ")}
	if m.parts[ofOutcomes].at.IsZero() {
		return append(head, say(faint, "not read yet"))
	}
	hour, five := m.lately.since(m.now, 60), m.lately.since(m.now, 5)
	head = append(head, say(plain, "1 h: "))
	head = append(head, sayf(good, "%d provisioning", hour.created))
	if hour.adopted > 0 {
		head = append(head, sayf(plain, " (%d adopted)", hour.adopted))
	}
	t := plain
	if hour.failed > 0 {
		t = bad
	}
	head = append(head, say(plain, ", "), sayf(t, "%d failed", hour.failed))
	if hour.held > 0 {
		head = append(head, say(plain, ", "), sayf(person, "%d held", hour.held))
	}
	return append(head, sayf(faint, "; 5 min: %d", five.created+five.failed))
}

func (m model) outcomeLine(o Outcome) line {
	l := line{right(faint, spell(m.now.Sub(o.At))+" ago", 10), gap}
	if o.Unreadable != "" {
		return append(l, left(warn, "unreadable", 12), gap, left(plain, o.Key, m.keyWidth()), gap, say(faint, o.Unreadable))
	}
	switch o.Kind {
	case provision.KindProvisioning:
		l = append(l, left(good, string(o.Kind), 12), gap, left(plain, o.Key, m.keyWidth()), gap, say(plain, o.VPSID))
		if o.Adopted {
			l = append(l, say(busy, " adopted"))
		}
		if m.width >= wide {
			l = append(l, sayf(faint, "  %s, %d cores, %d GB, %d GB storage", o.Name, o.Size.CPUCores, o.Size.MemoryGB, o.Size.StorageGB))
		}
		return l
	case provision.KindFailed:
		l = append(l, left(bad, string(o.Kind), 12), gap, left(plain, o.Key, m.keyWidth()), gap, say(bad, string(o.Reason)))
		if o.Billed != provision.BilledNo {
			l = append(l, sayf(person, " billed: %s", o.Billed))
		}
	default:
		l = append(l, left(person, string(o.Kind), 12), gap, left(plain, o.Key, m.keyWidth()))
	}
	return append(l, say(faint, "  "+o.Detail))
}
