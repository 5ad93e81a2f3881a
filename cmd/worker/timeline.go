package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// happening is one thing that happened to a request.
type happening struct {
	Time   time.Time `json:"time,omitzero"`
	What   string    `json:"what"`
	Detail string    `json:"detail"`
}

// timeline is all that the ledger knows of a request, in the order of its
// times, which are those of several machines' clocks. stamp writes the times in
// the details.
func (s *story) timeline(stamp func(time.Time) string) []happening {
	r := s.record
	requested := fmt.Sprintf("message %d of the stream %s", r.Sequence, r.Stream)
	if id := traceIn(r.Trace); id != "" {
		requested += ", trace " + id
	}
	all := []happening{
		{r.RequestedAt, "requested", requested},
		{r.CreatedAt, "accepted", "a worker claimed the key"},
	}
	for i, a := range r.Attempts {
		if i > 0 && a.Number > r.Attempts[i-1].Number+1 {
			all = append(all, happening{a.StartedAt, "…", fmt.Sprintf("attempts %d to %d are no longer in the record", r.Attempts[i-1].Number+1, a.Number-1)})
		}
		all = append(all, happening{a.StartedAt, fmt.Sprintf("attempt %d", a.Number), attemptWords(a, s.told)})
	}
	all = append(all, s.noted(stamp)...)
	if o := r.Outcome; o != nil {
		all = append(all, happening{o.OccurredAt, string(o.Kind), outcomeWords(r)})
		if r.State == provision.StateDone {
			all = append(all, happening{r.UpdatedAt, "done", "the event " + provision.OutcomeID(r.Key, o.Kind) + " was published"})
		}
	}
	slices.SortStableFunc(all, func(a, b happening) int { return a.Time.Compare(b.Time) })
	return all
}

// noted is what the notes tell, and what a record tells that an older version
// wrote without notes.
func (s *story) noted(stamp func(time.Time) string) []happening {
	r := s.record
	var all []happening
	held, decided := false, false
	for i, n := range r.Notes {
		held = held || n.What == provision.NoteHeld && n.Time.Equal(r.HeldAt)
		decided = decided || n.What == provision.NoteDecided && r.Resolution != nil && n.Time.Equal(r.Resolution.At)
		all = append(all, happening{n.Time, noteWhat[n.What], noteWords(n, stamp)})
		if i == 0 && len(r.Notes) >= provision.MaxNotes {
			all = append(all, happening{n.Time, "…", "some of what followed is no longer in the record"})
		}
	}
	if !r.HeldAt.IsZero() && !held {
		all = append(all, happening{r.HeldAt, "held", r.HeldReason})
	}
	if r.Evidence != nil {
		for _, c := range r.Evidence.Candidates {
			all = append(all, happening{r.HeldAt, "candidate", candidateWords(c)})
		}
	}
	if r.Resolution != nil && !decided {
		all = append(all, happening{r.Resolution.At, "decision", r.Resolution.String()})
	}
	if q := r.Search; q != nil && q.Looks > 0 && !slices.ContainsFunc(r.Notes, func(n provision.Note) bool { return n.What == provision.NoteLooked }) {
		all = append(all, happening{r.UpdatedAt, "look-up", fmt.Sprintf("%d so far, %d of them found no server", q.Looks, q.Empty)})
	}
	return all
}

// noteWhat are the words for the notes.
var noteWhat = map[provision.NoteKind]string{
	provision.NoteWaits: "waits", provision.NoteLooked: "look-up", provision.NoteAbsent: "absence",
	provision.NoteAdopted: "adopted", provision.NoteHeld: "held", provision.NoteDecided: "decision", provision.NoteDeadline: "deadline",
}

func noteWords(n provision.Note, stamp func(time.Time) string) string {
	words := n.Detail
	if n.What == provision.NoteWaits {
		words = waitWords(n.Detail)
	}
	if n.What == provision.NoteDeadline {
		words = "it passed; the request was " + n.Detail
	}
	if n.Cause != "" {
		words += ": " + n.Cause
	}
	if n.Times > 1 {
		words += fmt.Sprintf("; %d times, last at %s", n.Times, stamp(n.Last))
	}
	if !n.Until.IsZero() {
		words += ", until " + stamp(n.Until)
	}
	return words
}

// candidateWords are a server that the request may have bought.
func candidateWords(c provision.Candidate) string {
	words := c.VPSID
	if !c.CreatedAt.IsZero() {
		words += ", created at " + rfc3339(c.CreatedAt)
	}
	if c.Detail != "" {
		words += ": " + c.Detail
	}
	return words
}

// waits says what the words for waits mean, and what helps where something
// does.
var waits = map[string]string{
	provision.WaitGate:      "HostUp's rate limit, or the pause after calls that were not answered",
	provision.WaitAuth:      "HostUp refuses the API key: replace it",
	provision.WaitPaused:    "creates are paused: worker resume takes the brake off",
	provision.WaitTurn:      "it is not its turn yet",
	provision.WaitBackoff:   "a pause before it is tried again",
	provision.WaitLimits:    "the account is full, and WORKER_LIMIT_POLICY is wait",
	provision.WaitName:      "another unfinished request has the same server name",
	provision.WaitInFlight:  "a create call is in flight",
	provision.WaitHeld:      "it is held for a person",
	provision.WaitAccount:   "the account could not be read",
	provision.WaitLedger:    "the ledger could not be read or written",
	provision.WaitPublish:   "its event could not be published",
	provision.WaitCrowded:   "the account's room is taken by creates in flight",
	provision.WaitNeverSent: "the call could not be sent",
	provision.WaitLookup:    "the next look for its server",
}

func waitWords(reason string) string {
	if words := waits[reason]; words != "" {
		return reason + ": " + words
	}
	return reason
}

// attemptWords say what one call came to, and on what evidence.
func attemptWords(a provision.Attempt, now time.Time) string {
	if a.Verdict == "" {
		return fmt.Sprintf("in flight for %s; the call ends %s after it began at the latest", span(max(now.Sub(a.StartedAt), 0)), span(a.Within))
	}
	words := []string{string(a.Verdict)}
	if a.Status != 0 && !strings.HasPrefix(a.Detail, strconv.Itoa(a.Status)) {
		words = append(words, fmt.Sprintf("HTTP %d", a.Status))
	}
	if took := a.EndedAt.Sub(a.StartedAt); !a.EndedAt.IsZero() && a.Within > 0 {
		if took > a.Within {
			words = append(words, "given up after "+span(took))
		} else {
			words = append(words, "took "+span(max(took, 0)))
		}
	}
	if a.RequestID != "" {
		words = append(words, "request "+a.RequestID)
	}
	if a.VPSID != "" && !strings.Contains(a.Detail, a.VPSID) {
		words = append(words, "server "+a.VPSID)
	}
	if a.Answered {
		words = append(words, "HostUp itself says it failed")
	}
	line := strings.Join(words, ", ")
	if a.Detail != "" {
		line += ": " + a.Detail
	}
	return line
}

// outcomeWords say how a request ended.
func outcomeWords(r *provision.Record) string {
	o := r.Outcome
	if o.Kind == provision.KindProvisioning {
		words := "server " + r.VPSID
		if o.Adopted {
			words += ", found by a look-up and adopted"
		}
		return words
	}
	return string(o.Reason) + ", billed: " + string(o.Billed) + ": " + problemOf(o.Problem).words(o.Reason)
}
