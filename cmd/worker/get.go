package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

type getCmd struct {
	Key string `arg:"" help:"Idempotency key of the request."`

	readerFlags
}

// Help is printed below the flags' summary.
func (*getCmd) Help() string {
	return `Examples:
  worker get order-1001
  worker get order-1001 -o json | jq -r .vpsId

What the ledger holds of one request. worker explain tells how it came to that and what comes next.
It needs no API key and changes nothing. Exit code 3 when the ledger knows no such key.`
}

// Run shows one record.
func (c *getCmd) Run(ctx context.Context, t *terminal) error {
	return c.ledger(ctx, func(l *ledger.Ledger) error {
		r, err := loadRecord(ctx, l, c.Key)
		if err != nil {
			return err
		}
		return printOne(t.out, c.outputFlag, shown(r), func() error {
			p, now := newPage(t.out), time.Now()
			p.title(r.Key + ": " + headline(r))
			asked(p, r, now)
			standing(p, r, now)
			for _, a := range r.Attempts {
				p.line(fmt.Sprintf("attempt %d", a.Number), attemptWords(a, now))
			}
			return p.writeTo(t.out)
		})
	})
}

// headline says in a few words how a request stands.
func headline(r *provision.Record) string {
	switch r.State {
	case provision.StateAccepted:
		if r.WaitReason != "" {
			return "waits (" + r.WaitReason + ")"
		}
		return "accepted"
	case provision.StateCreating:
		return "a create call is in flight"
	case provision.StateUnknown:
		return "nobody knows yet whether a server was created; it is looked up"
	case provision.StateHeld:
		return "held for a person"
	}
	words := string(r.State)
	if o := r.Outcome; o != nil {
		words = "failed: " + string(o.Reason)
		if o.Kind == provision.KindProvisioning {
			words = "server " + r.VPSID
		}
	}
	if r.State != provision.StateDone {
		words += "; its event is not confirmed yet"
	}
	return words
}

// asked is the request.
func asked(p *page, r *provision.Record, now time.Time) {
	q := r.Request
	p.line("name", q.Name)
	p.line("size", fmt.Sprintf("%d cores, %d GB memory, %d GB storage", q.CPUCores, q.MemoryGB, q.StorageGB))
	p.line("region", q.Region)
	var metadata []string
	for _, k := range slices.Sorted(maps.Keys(q.Metadata)) {
		metadata = append(metadata, k+"="+q.Metadata[k])
	}
	p.line("metadata", strings.Join(metadata, ", "))
	p.line("requested", clock(r.RequestedAt, now))
	p.line("deadline", clock(r.Deadline, now))
}

// standing is what has become of the request.
func standing(p *page, r *provision.Record, now time.Time) {
	p.line("state", string(r.State)+", last changed "+clock(r.UpdatedAt, now))
	p.line("server", r.VPSID)
	p.line("order", r.OrderID)
	p.line("invoice", r.InvoiceID)
	if o := r.Outcome; o != nil {
		if o.Adopted {
			p.line("adopted", "found by a look-up after its answer was lost")
		}
		p.line("billed", string(o.Billed))
		if o.Kind == provision.KindFailed {
			p.line("reason", string(o.Reason))
			p.line("retryable", map[bool]string{true: "yes, under a new key", false: "no"}[o.Retryable])
			problemOf(o.Problem).lay(p, "problem")
		}
	} else {
		problemOf(r.LastProblem).lay(p, "problem")
	}
	if r.WaitReason != "" && !r.State.Settled() {
		p.line("waits for", waitWords(r.WaitReason))
	}
	if !r.NotBefore.IsZero() && !r.State.Settled() {
		p.line("until", clock(r.NotBefore, now))
	}
	if r.State == provision.StateHeld {
		p.line("held", r.HeldReason)
	}
	if d := r.Resolution; d != nil {
		p.line("decision", d.String()+", "+clock(d.At, now))
	}
	p.line("attempts", fmt.Sprintf("%d, of which %d may have reached HostUp", attempts(r), r.Sent))
}

// attempts is how many calls were begun for a request.
func attempts(r *provision.Record) int {
	if len(r.Attempts) == 0 {
		return 0
	}
	return r.Attempts[len(r.Attempts)-1].Number
}

// problem is what people read of a problem document.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
	Errors []struct {
		Pointer string `json:"pointer"`
		Detail  string `json:"detail"`
	} `json:"errors"`
	Cause json.RawMessage `json:"cause"`
}

// problemOf reads a document as far as it can be read: what is of another type
// than documented stays out.
func problemOf(doc json.RawMessage) problem {
	var p problem
	var members map[string]json.RawMessage
	if json.Unmarshal(doc, &members) != nil {
		return p
	}
	for name, to := range map[string]any{"title": &p.Title, "status": &p.Status, "detail": &p.Detail, "code": &p.Code, "errors": &p.Errors, "cause": &p.Cause} {
		_ = json.Unmarshal(members[name], to)
	}
	return p
}

// words are the document in one line, beside the reason that is told already.
func (d problem) words(reason provision.Reason) string {
	words := cmp.Or(d.Detail, d.Title)
	var faults []string
	for _, e := range d.Errors {
		faults = append(faults, e.Detail)
	}
	words = strings.TrimSuffix(words+": "+strings.Join(faults, "; "), ": ")
	if d.Code != "" && d.Code != string(reason) {
		words += " (" + d.Code + ")"
	}
	return strings.TrimSpace(words)
}

func (d problem) lay(p *page, label string) {
	if d.Status != 0 {
		d.Title = strings.TrimSpace(fmt.Sprintf("%d %s", d.Status, d.Title))
	}
	if d.Code != "" {
		d.Title = strings.TrimSpace(d.Title + " (" + d.Code + ")")
	}
	p.line(label, d.Title)
	p.line("", d.Detail)
	for _, e := range d.Errors {
		p.line("", e.Pointer+": "+e.Detail)
	}
	if d.Cause != nil {
		problemOf(d.Cause).lay(p, "cause")
	}
}

// clock is a time for people: on the clock, and relative to now.
func clock(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return local(t).Format("2006-01-02 15:04:05 MST") + " (" + ago(now, t) + ")"
}

// local is a time on the clock of whoever reads it.
func local(t time.Time) time.Time {
	return t.Local() //nolint:gosmopolitan // people compare it with their own clock
}

// traceIn is the trace that a request belongs to, "" for none.
func traceIn(t provision.Trace) string {
	if parts := strings.Split(t.Parent, "-"); len(parts) >= 4 {
		return parts[1]
	}
	return ""
}
