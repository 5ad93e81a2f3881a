package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/runreport"
)

// lane tells an order's time as steps: what it was at from when to when, and
// what happened in moments between.
type lane struct {
	steps []runreport.Step
	// kind and text are what it is at, since then.
	kind  runreport.Kind
	text  string
	since time.Time
}

// turn ends what it was at and begins something else.
func (l *lane) turn(at time.Time, kind runreport.Kind, text string) {
	if at.After(l.since) {
		l.steps = append(l.steps, runreport.Step{Kind: l.kind, From: l.since, To: at, Text: l.text})
		l.since = at
	}
	l.kind, l.text = kind, text
}

// mark tells of a moment.
func (l *lane) mark(at time.Time, kind runreport.Kind, text string) {
	l.steps = append(l.steps, runreport.Step{Kind: kind, From: at, To: at, Text: text})
}

// steps are an order's, with its record and dead letter if it has them. ended
// is when the demo did.
func (o *demoOrder) steps(r *provision.Record, letter *consumer.Letter, gate []runreport.Closure, started, ended time.Time) []runreport.Step {
	l := &lane{kind: runreport.Queued, since: o.placedAt, text: fmt.Sprintf("message %d of the stream", o.sequence)}
	if o.trace != "" {
		l.text += ", trace " + o.trace
	}
	if r != nil {
		l.record(r, func(t time.Time) string { return sinceStart(started, t) })
	}
	switch answered := o.placedAt.Add(o.took); {
	case len(o.events) > 0 && l.kind == runreport.Held:
		l.mark(answered, runreport.HeldEvent, "the case is before a person")
		l.turn(ended, runreport.Held, "")
	case len(o.events) > 0:
		e := o.events[len(o.events)-1]
		l.turn(answered, l.kind, "")
		l.mark(answered, eventKinds[e.Kind], outcomeTold(e))
	case letter != nil:
		l.turn(letter.Time, l.kind, "")
		l.mark(letter.Time, runreport.DeadLetter, letter.Detail)
	default:
		l.turn(ended, l.kind, "")
	}
	slices.SortStableFunc(l.steps, func(a, b runreport.Step) int { return a.From.Compare(b.From) })
	return atGate(l.steps, gate)
}

// askWords are what an order is at before a call.
const askWords = "asks brake, gate, limits and options, stores the intent"

// atGate splits what was before a call: a wait in hand is not noted in the
// record, but no call can pass a gate that is closed.
func atGate(steps []runreport.Step, gate []runreport.Closure) []runreport.Step {
	var all []runreport.Step
	for _, s := range steps {
		for _, c := range gate {
			if s.Text != askWords || !c.From.Before(s.To) || !c.To.IsZero() && !c.To.After(s.From) {
				continue
			}
			if c.From.After(s.From) {
				before := s
				before.To = c.From
				all = append(all, before)
			}
			wait := runreport.Step{Kind: runreport.WaitGate, From: later(s.From, c.From), To: s.To, Text: "in hand: " + c.Reason}
			if !c.To.IsZero() && c.To.Before(s.To) {
				wait.To = c.To
			}
			all = append(all, wait)
			s.From = wait.To
		}
		if s.To.After(s.From) || s.Text != askWords {
			all = append(all, s)
		}
	}
	return all
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func sinceStart(started, t time.Time) string { return fmt.Sprintf("%.3f s", t.Sub(started).Seconds()) }

// record tells what a record holds, in the order of its times.
func (l *lane) record(r *provision.Record, stamp func(time.Time) string) {
	type happening struct {
		at   time.Time
		tell func()
	}
	all := []happening{{r.CreatedAt, func() {
		l.turn(r.CreatedAt, runreport.Working, askWords)
	}}}
	for _, a := range r.Attempts {
		all = append(all, happening{a.StartedAt, func() { l.attempt(a) }})
	}
	for _, n := range r.Notes {
		all = append(all, happening{n.Time, func() { l.note(n, stamp) }})
		if n.What == provision.NoteLooked && n.Times > 1 {
			all = append(all, happening{n.Last, func() {
				l.mark(n.Last, runreport.LookUp, fmt.Sprintf("%s, for the %dth time in a row", n.Detail, n.Times))
			}})
		}
	}
	if at := r.Outcome; at != nil {
		all = append(all, happening{at.OccurredAt, func() { l.turn(at.OccurredAt, runreport.Working, "stores the outcome, publishes its event") }})
	}
	slices.SortStableFunc(all, func(a, b happening) int { return a.at.Compare(b.at) })
	for _, h := range all {
		h.tell()
	}
}

// attempt tells of a call, and what the order is at after it as long as nothing
// else is known.
func (l *lane) attempt(a provision.Attempt) {
	kind, ok := callKinds[a.Verdict]
	if !ok {
		kind = runreport.Unknown
	}
	l.turn(a.StartedAt, kind, fmt.Sprintf("attempt %d: %s", a.Number, attemptWords(a, a.EndedAt)))
	switch kind {
	case runreport.Throttled:
		l.turn(a.EndedAt, runreport.WaitGate, "HostUp said when to come again")
	case runreport.Unknown:
		l.turn(a.EndedAt, runreport.WaitProof, "did the call buy a server?")
	case runreport.NeverSent:
		l.turn(a.EndedAt, runreport.WaitOther, waitWords(provision.WaitBackoff))
	default:
		l.turn(a.EndedAt, runreport.Working, "stores the outcome, publishes its event")
	}
}

// note tells of what the record notes beside its attempts.
func (l *lane) note(n provision.Note, stamp func(time.Time) string) {
	words := noteWords(n, stamp)
	switch n.What {
	case provision.NoteWaits:
		kind := runreport.WaitOther
		if n.Detail == provision.WaitGate {
			kind = runreport.WaitGate
		}
		l.turn(n.Time, kind, words)
	case provision.NoteLooked:
		l.mark(n.Time, runreport.LookUp, n.Detail)
	case provision.NoteAbsent:
		l.turn(n.Time, runreport.Working, "absence is proved: "+words)
	case provision.NoteAdopted:
		l.mark(n.Time, runreport.Adopted, words)
		l.turn(n.Time, runreport.Working, "stores the outcome, publishes its event")
	case provision.NoteHeld:
		l.turn(n.Time, runreport.Held, words)
	default:
		l.turn(n.Time, runreport.Working, words)
	}
}

var callKinds = map[provision.Verdict]runreport.Kind{
	provision.VerdictCreated: runreport.Created, provision.VerdictThrottled: runreport.Throttled, provision.VerdictRefused: runreport.Refused,
	provision.VerdictNeverSent: runreport.NeverSent, provision.VerdictUnknown: runreport.Unknown,
}

var eventKinds = map[provision.Kind]runreport.Kind{
	provision.KindProvisioning: runreport.Provisioning, provision.KindFailed: runreport.Failed, provision.KindHeld: runreport.HeldEvent,
}

// outcomeTold say what an event told.
func outcomeTold(e provision.Event) string {
	if e.Kind == provision.KindProvisioning {
		return "server " + e.VPSID
	}
	return string(e.Reason) + ", billed: " + cmp.Or(string(e.Billed), "not said") + ": " + problemOf(e.Problem).words(e.Reason)
}
