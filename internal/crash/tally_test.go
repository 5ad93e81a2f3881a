package crash

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

// tally counts what rounds did.
type tally struct {
	// struck are the rounds in which the main strike was taken.
	rounds, failed, struck int

	done       map[strike]int
	faults     map[string]int
	namesakes  map[string]int
	violations map[breach]int

	keys, copies, creates, invoices          int
	provisioned, adopted, failures, unknown  int
	held, recreated, brokerKills, processes  int
	capped, resumed, breakers, letters       int
	gaveUp, repeated, workerKills, twinNames int
}

func newTally() *tally {
	return &tally{
		done: make(map[strike]int), faults: make(map[string]int), namesakes: make(map[string]int), violations: make(map[breach]int),
	}
}

// add counts a round that has ended.
func (t *tally) add(r *round) {
	t.rounds++
	if r.done[r.plan.main] > 0 {
		t.struck++
	}
	if len(r.violations) > 0 {
		t.failed++
	}
	for _, v := range r.violations {
		t.violations[v.kind]++
	}
	for p, n := range r.done {
		t.done[p] += n
	}
	if r.plan.cap > 0 {
		t.capped++
	}
	if r.plan.breaker > 0 {
		t.breakers++
	}
	t.resumed += r.resumed
	t.letters += len(r.plan.letters)
	t.brokerKills += r.brokerKills
	t.gaveUp += int(r.gaveUp.Load())
	t.workerKills += len(r.plan.workerKills)
	for _, s := range r.slots {
		t.processes += s.starts
	}
	for _, o := range r.plan.orders {
		t.keys++
		t.copies += len(o.published)
		t.namesakes[o.namesake]++
		if o.twin {
			t.twinNames++
		}
	}
	if r.facts != nil {
		t.addFacts(r.facts)
	}
}

func (t *tally) addFacts(f *facts) {
	kinds := make(map[string]string)
	for _, o := range f.orders {
		kinds[o.name] = o.kind
	}
	byName := make(map[string]int)
	missed := make(map[string]bool)
	for _, c := range f.creates {
		if c.Fault != "" {
			t.faults[kinds[c.Name]]++
		}
		if byName[c.Name]++; missed[c.Name] {
			t.recreated++
		}
		missed[c.Name] = !c.Created && !refused(c.Outcome)
	}
	t.creates += len(f.creates)
	t.invoices += len(f.invoices)
	t.held += len(heldKeys(f.events))
	seen := make(map[string]bool)
	for _, e := range f.events {
		if seen[e.ID] {
			t.repeated++
		}
		seen[e.ID] = true
	}
	for _, e := range outcomes(f.events) {
		switch {
		case e.Kind == "provisioning" && e.Adopted:
			t.adopted++
			fallthrough
		case e.Kind == "provisioning":
			t.provisioned++
		case e.Reason == "outcome-unknown":
			t.unknown++
			fallthrough
		default:
			t.failures++
		}
	}
}

// print writes what was done.
func (t *tally) print(out io.Writer, took time.Duration) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintf(w, "\nfailpoint\t")
	for _, a := range actions {
		_, _ = fmt.Fprintf(w, "%s\t", a)
	}
	total := make(map[string]int)
	for _, point := range points {
		for _, when := range []string{".before", ".after"} {
			_, _ = fmt.Fprintf(w, "\n%s\t", point.name+when)
			for _, a := range actions {
				n := t.count(point.name+when, a)
				total[a] += n
				_, _ = fmt.Fprintf(w, "%d\t", n)
			}
		}
	}
	_, _ = fmt.Fprintf(w, "\nall\t")
	for _, a := range actions {
		_, _ = fmt.Fprintf(w, "%d\t", total[a])
	}
	_, _ = fmt.Fprintf(w, "\n\t\nfault that struck\tcreates\t")
	for _, kind := range slices.Sorted(maps.Keys(t.faults)) {
		_, _ = fmt.Fprintf(w, "\n%s\t%d\t", kind, t.faults[kind])
	}
	_, _ = fmt.Fprintln(w)
	_ = w.Flush() // a report; its writer is standard output
	_, _ = fmt.Fprintf(out, `
%d rounds in %s, %d with violations; %d struck what they were about
%d worker processes; kills from outside %d, of the broker %d; ended by themselves while the broker was away %d
%d keys in %d messages, %d of them share a name; namesakes: older %d, fixed-cycle %d, other size %d, cancelled %d, indistinguishable %d
%d creates, %d servers billed, %d re-created after an unknown outcome that created nothing
%d rounds with a cap, the brake taken off %d times; %d rounds with a breaker; %d messages that nobody can read
%d provisioned, %d of them adopted; %d failed, %d of them unknown; %d were held; %d events stored twice
`,
		t.rounds, took.Round(time.Second), t.failed, t.struck, t.processes, t.workerKills, t.brokerKills, t.gaveUp,
		t.keys, t.copies, t.twinNames, t.namesakes["older"], t.namesakes["fixed-cycle"], t.namesakes["other-size"], t.namesakes["cancelled"], t.namesakes["indistinguishable"],
		t.creates, t.invoices, t.recreated, t.capped, t.resumed, t.breakers, t.letters, t.provisioned, t.adopted, t.failures, t.unknown, t.held, t.repeated)
	for _, kind := range slices.Sorted(maps.Keys(t.violations)) {
		_, _ = fmt.Fprintf(out, "VIOLATIONS %d: %s\n", t.violations[kind], kind)
	}
}

// verdict is the exit code, with what is missing for a good one.
func (t *tally) verdict(s *suite) int {
	code := 0
	if t.failed > 0 {
		code = 1
	}
	if !s.coverage {
		return code
	}
	for _, p := range strikes() {
		if t.done[p] == 0 {
			s.printf("NOT COVERED: %s at %s:%d\n", p.action, p.point, p.nth)
			code = 1
		}
	}
	return code
}

// count is how often an action was taken at a point, whichever time it was.
func (t *tally) count(point, action string) int {
	n := 0
	for s, times := range t.done {
		if s.point == point && s.action == action {
			n += times
		}
	}
	return n
}
