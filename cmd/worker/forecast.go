package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// forecast is something that will happen, and when if that is known.
type forecast struct {
	at   time.Time
	text string
}

// next says what will happen to a request from here on. The settings of the
// workers are not known here: what depends on them is said by their names.
func (s *story) next() []forecast {
	r := s.record
	switch r.State {
	case provision.StateDone:
		return []forecast{{text: "Nothing: the outcome is stored and its event was published."}}
	case provision.StateCreated, provision.StateFailed:
		return []forecast{{text: "The outcome is stored. A worker publishes deploy." + string(r.Outcome.Kind) + ", again and again until the stream confirms it."}}
	case provision.StateCreating:
		return s.nextOfCall()
	case provision.StateUnknown:
		return append(s.nextOfLook(), s.atDeadline("outcome-unknown, unless its last look still finds the server"))
	case provision.StateHeld:
		return append(s.nextOfHeld(), s.atDeadline("outcome-unknown"))
	case provision.StateAccepted:
		return append(s.nextOfWait(), s.atDeadline("deadline-exceeded"))
	default:
		return []forecast{{text: "This version does not know its state; a newer worker goes on with it."}}
	}
}

func (s *story) atDeadline(reason string) forecast {
	d := s.record.Deadline
	if !s.told.Before(d) {
		return forecast{text: "The deadline has passed: the next worker that takes it fails it with " + reason + "."}
	}
	return forecast{at: d, text: "Not answered by then, at its deadline, it fails with " + reason + "."}
}

func (s *story) nextOfCall() []forecast {
	a := s.record.Attempts[len(s.record.Attempts)-1]
	end := a.StartedAt.Add(a.Within)
	all := []forecast{{at: end, text: "A worker is making the call. By then it has an answer, or none will come."}}
	if !s.told.Before(end) {
		all = []forecast{{text: "The time of the call is over: the worker that made it has stopped, or cannot reach the ledger."}}
	}
	return append(all, forecast{text: fmt.Sprintf("Without a result another worker waits %s from when it first sees this, takes the outcome for unknown, and looks the server up.", span(a.Within+a.Within/20))})
}

func (s *story) nextOfLook() []forecast {
	r := s.record
	look := forecast{at: r.NotBefore, text: "The account is looked at again."}
	switch g := s.gate; {
	case g.Shut(g.Until.Sub(s.told)) && g.Until.After(r.NotBefore):
		look = forecast{at: g.Until, text: "The account is looked at again when the gate opens (" + gateWords(g) + ")."}
	case !r.NotBefore.After(s.told):
		look = forecast{text: "The account is looked at again as soon as a worker takes the request."}
	}
	if r.Search != nil && r.Search.Empty > 0 {
		look.text += fmt.Sprintf(" So far %d looks over %s found no server.", r.Search.Empty, span(r.Search.Elapsed))
	}
	over := "WORKER_SETTLE_UNANSWERED"
	if len(r.Attempts) > 0 && r.Attempts[len(r.Attempts)-1].Answered {
		over = "WORKER_SETTLE_ANSWERED"
	}
	return []forecast{
		look,
		{text: "One server that is provably its own is adopted; several go before a person. WORKER_SETTLE_READS looks over " + over +
			" that find none prove that there is none: then it is tried again, or held where WORKER_UNKNOWN_POLICY is hold."},
	}
}

func (s *story) nextOfHeld() []forecast {
	r := s.record
	var all []forecast
	if r.HeldAnnounced < r.Held {
		all = append(all, forecast{text: "A worker publishes deploy.held."})
	}
	adopt := "VPS_ID"
	if r.Evidence != nil && len(r.Evidence.Candidates) == 1 {
		adopt = r.Evidence.Candidates[0].VPSID
	}
	key := shellWord(r.Key)
	return append(all,
		forecast{text: "It waits for a person. Look in HostUp's control panel for its server, and say what you found."},
		forecast{text: "The server is there: worker resolve " + key + " --adopt " + adopt + " --reason WHY"},
		forecast{text: "There is none, try again: worker resolve " + key + " --not-created --reason WHY"},
		forecast{text: "Give it up: worker resolve " + key + " --abandon --reason WHY"})
}

func (s *story) nextOfWait() []forecast {
	r := s.record
	var all []forecast
	if s.blind != nil {
		all = append(all, forecast{text: "Gate and brake could not be read: " + s.blind.Error()})
	}
	if b := s.brake; b.On {
		all = append(all, forecast{text: fmt.Sprintf("No create is made until worker resume: paused %s by %s: %s.", ago(s.told, b.At), b.By, strings.TrimSuffix(b.Reason, "."))})
	}
	at := r.NotBefore
	if g := s.gate; g.Shut(g.Until.Sub(s.told)) {
		all = append(all, forecast{at: g.Until, text: "The gate opens for the fleet (" + gateWords(g) + "); with others waiting, it takes its turn."})
		if g.Until.After(at) {
			at = g.Until
		}
	} else if g.Phase == admission.Probing {
		all = append(all, forecast{text: "The gate is being tried by one call (" + gateWords(g) + "); the others follow if it passes."})
	}
	wait := r.WaitReason
	if wait == provision.WaitGate || wait == provision.WaitPaused {
		wait = "" // told above, if it is still so
	}
	switch {
	case s.brake.On:
		all = append(all, forecast{text: "After that it is tried."})
	case at.After(s.told):
		all = append(all, forecast{at: at, text: "It is tried."})
	case wait != "":
		all = append(all, forecast{text: "It is tried again every so often, the more seldom the more requests wait."})
	default:
		all = append(all, forecast{text: "It is tried as soon as a worker takes it up."})
	}
	if wait != "" {
		all[len(all)-1].text += " It waits for " + waitWords(wait) + "."
	}
	return all
}

// gateWords say why the gate is not open.
func gateWords(g admission.Gate) string {
	switch g.Reason {
	case admission.ReasonBudget:
		return "the rate limit's window is used up"
	case admission.ReasonUnknowns:
		return "several calls in a row had no usable answer"
	case admission.ReasonThrottled:
		return "HostUp's rate limit"
	default:
		return "the rate limit is being felt out"
	}
}

// shellWord is a word as a shell takes it.
func shellWord(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && r != ':' && r != '/' && r != '@' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
