package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

type explainCmd struct {
	Key string `arg:"" help:"Idempotency key of the request."`

	readerFlags
}

// Help is printed below the flags' summary.
func (*explainCmd) Help() string {
	return `Examples:
  worker explain order-1001
  worker explain order-1001 -o json | jq '.timeline[]'

One page: what was asked, every attempt with its verdict and evidence, waits and why, look-ups,
decisions of people, the ids of its events and its trace, and what will happen next. It reads the
ledger only, needs no API key and changes nothing. Exit code 3 when the ledger knows no such key.`
}

// Run tells the whole story of one request.
func (c *explainCmd) Run(ctx context.Context, t *terminal) error {
	return c.ledger(ctx, func(l *ledger.Ledger) error {
		s, err := loadStory(ctx, l, c.Key)
		if err != nil {
			return err
		}
		return printOne(t.out, c.outputFlag, s.view(), func() error {
			p := newPage(t.out)
			s.lay(p)
			return p.writeTo(t.out)
		})
	})
}

// story is everything there is to tell of one request.
type story struct {
	record *provision.Record
	gate   admission.Gate
	brake  admission.Brake
	// blind is why gate and brake are not known.
	blind error
	// told is when all this was read.
	told time.Time
}

// loadStory reads the story of a key. The error is a notFoundError when the
// ledger does not know the key.
func loadStory(ctx context.Context, l *ledger.Ledger, key string) (*story, error) {
	r, err := loadRecord(ctx, l, key)
	if err != nil {
		return nil, err
	}
	s := &story{record: r}
	var gateErr, brakeErr error
	s.gate, gateErr = l.UpdateGate(ctx, func(g admission.Gate) (admission.Gate, bool) { return g, false })
	s.brake, brakeErr = l.UpdateBrake(ctx, func(b admission.Brake) (admission.Brake, bool) { return b, false })
	s.blind = errors.Join(gateErr, brakeErr)
	s.told = time.Now()
	return s, nil
}

// loadRecord reads the record of a key, or says where else to look.
func loadRecord(ctx context.Context, l *ledger.Ledger, key string) (*provision.Record, error) {
	r, err := l.Load(ctx, key)
	switch {
	case err != nil:
		return nil, err
	case r == nil || r.Key != key:
		return nil, notFoundError{fmt.Errorf("the ledger knows no request %q\n"+
			"worker list shows those that it knows; one that no worker has taken yet, that was rejected, or that\n"+
			"ended longer ago than WORKER_LEDGER_TTL is not among them: see worker events --key KEY --no-follow", key)}
	}
	return r, nil
}

// write lays the story out as one page, for people. columns 0 is without a
// bound.
func (s *story) write(w io.Writer, columns int) error {
	p := &page{columns: columns, colours: colourful(w)}
	s.lay(p)
	return p.writeTo(w)
}

// storyView is a story in JSON: the record, and what happened in its order. The
// last entry is what comes next.
type storyView struct {
	recordView

	Timeline []happening `json:"timeline"`
}

func (s *story) view() storyView {
	v := storyView{recordView: shown(s.record), Timeline: s.timeline(rfc3339)}
	for _, f := range s.next() {
		v.Timeline = append(v.Timeline, happening{Time: f.at, What: "next", Detail: f.text})
	}
	return v
}

func (s *story) lay(p *page) {
	r := s.record
	p.title(r.Key + ": " + headline(r))
	p.title("Asked")
	asked(p, r, s.told)
	p.title("State")
	standing(p, r, s.told)
	p.title("Story (" + s.told.Format("MST") + "; + is the time since the request)")
	day := ""
	for _, h := range s.timeline(timeOfDay) {
		at := local(h.Time)
		if d := at.Format(time.DateOnly); d != day {
			day = d
			p.beside("  "+d, 0, "")
		}
		p.beside(fmt.Sprintf("  %s %-9s %s", at.Format(time.TimeOnly), since(r.RequestedAt, h.Time), h.What), besides, h.Detail)
	}
	p.title("Ids")
	s.ids(p)
	p.title("Next")
	for _, f := range s.next() {
		when := ""
		if !f.at.IsZero() {
			when = ago(s.told, f.at)
		}
		p.beside("  "+when, lead, f.text)
	}
}

// besides is the column where what happened is told beside when.
const besides = 34

// timeOfDay and rfc3339 are how times are written in the details, for people
// and for programs.
func timeOfDay(t time.Time) string { return local(t).Format(time.TimeOnly) }
func rfc3339(t time.Time) string   { return t.UTC().Format(time.RFC3339) }

// since is a time on the way, counted from its beginning.
func since(begin, t time.Time) string {
	d := t.Sub(begin)
	if d < 0 {
		return "-" + span(-d)
	}
	return "+" + span(d)
}

// ids are those under which the rest of the world knows the request.
func (s *story) ids(p *page) {
	r := s.record
	for n := range r.Held {
		id := provision.HeldID(r.Key, n+1)
		if n+1 > r.HeldAnnounced {
			id += " (not published yet)"
		}
		p.line("held event", id)
	}
	switch {
	case r.Outcome != nil && r.State == provision.StateDone:
		p.line("event", provision.OutcomeID(r.Key, r.Outcome.Kind))
	case r.Outcome != nil:
		p.line("event", provision.OutcomeID(r.Key, r.Outcome.Kind)+" (not confirmed yet)")
	default:
		p.line("event", provision.OutcomeID(r.Key, provision.KindProvisioning)+" or .failed, one of them, in the end")
	}
	p.line("trace", traceIn(r.Trace))
	p.line("caused by", r.CausationID)
	if r.Stream != "" {
		p.line("message", fmt.Sprintf("%d of the stream %s", r.Sequence, r.Stream))
	}
}
