package top

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

func (m model) gateLine() line {
	g := m.shared.Gate
	head := left(strong, "GATE", stateIndent)
	who := ""
	if g.Source != "" {
		who = ", met by " + g.Source
	}
	left := g.Until.Sub(m.now)
	switch {
	case g.Shut(left):
		t := bad
		if g.Reason == admission.ReasonBudget {
			t = warn // the limit is kept, as it should be
		}
		return line{
			head, sayf(t, "closed until %s", g.Until.In(m.now.Location()).Format("15:04:05")),
			sayf(plain, " (in %s): %s%s%s", spell(left), gateReason(g.Reason), again(g.Closures), who),
		}
	case g.Phase == admission.Closed:
		return line{head, say(warn, "closed, its time is over"), sayf(plain, ": the next create tries whether HostUp answers (%s%s%s)", gateReason(g.Reason), again(g.Closures), who)}
	case g.Phase == admission.Probing:
		return line{head, say(warn, "probing"), sayf(plain, ": one create is out to see whether HostUp answers, all others wait (%s%s%s)", gateReason(g.Reason), again(g.Closures), who)}
	case g.Phase == admission.Metered:
		return line{head, say(good, "open"), say(plain, metered(g, left))}
	}
	if g.Phase != admission.Open {
		return line{head, sayf(warn, "%q: a newer version's word", g.Phase)}
	}
	l := line{head, say(good, "open")}
	if g.Unknowns > 0 {
		l = append(l, sayf(warn, "; %d unknown outcomes in a row", g.Unknowns))
	}
	return l
}

func gateReason(r admission.GateReason) string {
	switch r {
	case admission.ReasonThrottled:
		return "HostUp answered 429"
	case admission.ReasonBudget:
		return "the window's budget is used up"
	case admission.ReasonUnknowns:
		return "too many unknown outcomes in a row"
	case "":
		return "no reason stored"
	}
	return string(r)
}

func again(closures int) string {
	if closures > 1 {
		return fmt.Sprintf(", %d times in a row", closures)
	}
	return ""
}

// unmetered is a budget that stands for nothing being known: what is used is
// counted until the next 429.
const unmetered = 1 << 16

func metered(g admission.Gate, left time.Duration) string {
	if g.Budget >= unmetered {
		return fmt.Sprintf(", counting: %d creates since HostUp last answered 429", g.Used)
	}
	if g.Used >= g.Budget && g.Wait == 0 {
		return fmt.Sprintf(", the %d creates of this window are used: single ones try for the next", g.Budget)
	}
	words := fmt.Sprintf(", metered: %d of %d creates of this window used", g.Used, g.Budget)
	if left > 0 {
		words += ", it ends in " + spell(left)
	}
	return words
}

func (m model) brakeLine() line {
	b := m.shared.Brake
	head := left(strong, "BRAKE", stateIndent)
	ago := spell(m.now.Sub(b.At))
	switch {
	case b.On:
		return line{head, say(bad, "on"), sayf(plain, " for %s, by %s: %s; worker resume takes it off", ago, b.By, b.Reason)}
	case b.At.IsZero():
		return line{head, say(good, "off")}
	}
	return line{head, say(good, "off"), sayf(faint, " since %s ago, by %s: %s", ago, b.By, b.Reason)}
}

// panes are the figures, as many beside each other as fit, with rules around.
func (m model) panes() []line {
	var body []line
	switch {
	case m.width >= wide:
		first, second := 46, 42
		third := m.width - first - second - 6
		body = beside(beside(m.work(first), m.waiting(second, 8), first, second), m.limits(third), first+second+3, third)
	case m.width >= narrow:
		first := m.width - 37
		body = beside(slices.Concat(m.work(first), m.waiting(first, 3)), m.limits(34), first, 34)
	default:
		body = slices.Concat(m.work(m.width), m.waiting(m.width, 2), m.limits(m.width))
	}
	return slices.Concat([]line{m.rule()}, body, []line{m.rule()})
}

// work is the queue and the requests by state.
func (m model) work(width int) []line {
	a, b, c := 9, 13, 13
	label := max(7, min(11, width-a-b-c))
	all := []line{{left(strong, "QUEUE", label), right(faint, "pending", a), right(faint, "ack pending", b), right(faint, "redelivered", c)}}
	if age := m.age(ofQueue, 5*time.Second); age.text != "" {
		all = []line{{say(strong, "QUEUE"), age}}
	}
	for _, l := range m.lanes {
		if l.Missing {
			all = append(all, line{left(plain, l.Name, label), say(warn, "missing: worker setup")})
			continue
		}
		all = append(all, line{left(plain, l.Name, label), right(busyIf(l.Pending), count(l.Pending), a), right(busyIf(l.AckPending), count(l.AckPending), b), right(plain, count(l.Redelivered), c)})
	}
	return append(all, m.states(width)...)
}

func busyIf(n uint64) tone {
	if n > 0 {
		return busy
	}
	return plain
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }

// states counts the requests.
func (m model) states(width int) []line {
	s := m.requests.States
	all := []line{{say(strong, "REQUESTS"), m.age(ofRequests, requestsAge(m.parts[ofRequests].took))}}
	if m.parts[ofRequests].at.IsZero() {
		return all
	}
	state := func(t tone, name provision.State) line {
		if s[name] == 0 {
			t = plain
		}
		return line{say(plain, string(name)+" "), sayf(t, "%d", s[name])}
	}
	words := []line{
		state(busy, provision.StateCreating), state(warn, provision.StateUnknown), state(person, provision.StateHeld),
		state(plain, provision.StateAccepted),
		{say(plain, "to announce "), sayf(plain, "%d", s[provision.StateCreated]+s[provision.StateFailed])},
		state(plain, provision.StateDone),
	}
	return append(all, flow(words, width)...)
}

// requestsAge is how old the figures of the ledger usually become.
func requestsAge(took time.Duration) time.Duration {
	return 3*time.Second + requestsEvery + (requestsShare+1)*took
}

// flow puts words on as few lines as they fit on.
func flow(words []line, width int) []line {
	var all []line
	var current line
	for _, w := range words {
		if len(current) > 0 && current.width()+3+w.width() > width {
			all = append(all, current)
			current = nil
		}
		if len(current) > 0 {
			current = append(current, span{"   ", plain})
		}
		current = append(current, w...)
	}
	return append(all, current)
}

// waiting counts the reasons, so many lines at most.
func (m model) waiting(width, most int) []line {
	if m.parts[ofRequests].at.IsZero() {
		return []line{{say(strong, "WAITING"), m.age(ofRequests, 0)}}
	}
	total := 0
	for _, w := range m.requests.Waiting {
		total += w.Count
	}
	head := line{say(strong, "WAITING "), sayf(plain, "%d", total)}
	if n := m.requests.Unread; n > 0 {
		head = append(head, sayf(warn, "  %d more were not read", n))
	}
	all := []line{head}
	shown := m.requests.Waiting
	if len(shown) > most {
		shown = shown[:most-1]
	}
	for _, w := range shown {
		next := ""
		if !w.Next.IsZero() {
			next = "first in " + spell(w.Next.Sub(m.now))
			if !w.Next.After(m.now) {
				next = "first now"
			}
		}
		n := strconv.Itoa(w.Count)
		label := min(20, max(8, width-cells(n)-2-18))
		all = append(all, line{left(plain, waitName(w.Reason), label), right(plain, n, 6), gap, say(faint, next)})
	}
	if len(shown) < len(m.requests.Waiting) {
		rest := 0
		for _, w := range m.requests.Waiting[len(shown):] {
			rest += w.Count
		}
		all = append(all, text(faint, fmt.Sprintf("%d for %d other reasons", rest, len(m.requests.Waiting)-len(shown))))
	}
	return all
}

// waitName is a reason as it is stored. What was accepted and has none is looked
// at right now, or was when its worker died.
func waitName(reason string) string {
	if reason == "" {
		return "in work"
	}
	return reason
}

// limitsFresh is how old the limits may be without a word.
const limitsFresh = 15 * time.Second

// limits are bars, one a dimension.
func (m model) limits(width int) []line {
	p := m.parts[ofLimits]
	head := line{say(strong, "LIMITS"), m.age(ofLimits, limitsFresh)}
	switch {
	case m.noLimits != "":
		return append([]line{text(strong, "LIMITS")}, faintly(m.noLimits, width)...)
	case p.at.IsZero() && p.skipped != "":
		return append([]line{text(strong, "LIMITS")}, faintly(p.skipped, width)...)
	case p.at.IsZero():
		return []line{head}
	}
	f, flying := m.facts, m.requests.InFlight
	used := f.Max.Sub(f.Remaining)
	rows := []struct {
		name              string
		used, max, flying int64
	}{
		{"cores", used.CPUCores, f.Max.CPUCores, flying.CPUCores},
		{"memory", used.MemoryGB, f.Max.MemoryGB, flying.MemoryGB},
		{"storage", used.StorageGB, f.Max.StorageGB, flying.StorageGB},
		{"servers", used.Instances, f.Max.Instances, flying.Instances},
	}
	figures := make([]string, len(rows))
	room := 0
	for i, r := range rows {
		figures[i] = fmt.Sprintf("%d/%d", r.used, r.max)
		if r.flying > 0 {
			figures[i] += fmt.Sprintf(" +%d", r.flying)
		}
		room = max(room, cells(figures[i]))
	}
	all := []line{head}
	for i, r := range rows {
		all = append(all, append(append(line{left(plain, r.name, 8)}, bar(r.used, r.flying, r.max, min(40, max(4, width-8-1-room)))...), span{" ", plain}, say(plain, figures[i])))
	}
	if !f.CanDeploy {
		why := f.Reason
		if why == "" {
			why = strings.Join(f.BlockerReasons, ", ")
		}
		all = append(all, line{say(bad, "may not deploy: "), say(plain, why)})
	}
	if s := m.lately.since(m.now, 60); s.created > 0 {
		all = append(all, line{say(faint, "created in 1 h: "), sayf(plain, "%.2f %s/h", f.Prices.PerHour(s.size), f.Prices.CurrencyCode)})
	}
	if p.skipped != "" && m.now.Sub(p.at) > limitsFresh {
		all = append(all, faintly(p.skipped, width)...)
	}
	return all
}

func faintly(words string, width int) []line {
	var all []line
	for _, l := range wrap(words, width) {
		all = append(all, text(faint, l))
	}
	return all
}

// bar shows what is used and what is in flight of a maximum.
func bar(used, flying, most int64, width int) line {
	share := func(n int64) int {
		if most <= 0 {
			return 0
		}
		return int(min(max(n, 0), most) * int64(width) / most)
	}
	a := share(used)
	if used > 0 && a == 0 && width > 0 && most > 0 {
		a = 1 // something is not nothing
	}
	b := max(share(used+flying), a) - a
	if flying > 0 && b == 0 && a < width && most > 0 {
		b = 1
	}
	t := good
	switch {
	case most <= 0 || used >= most:
		t = bad
	case used+flying >= most || used*10 >= most*9:
		t = warn
	}
	return line{{strings.Repeat("█", a), t}, {strings.Repeat("▒", b), warn}, {strings.Repeat("░", width-a-b), faint}}
}
