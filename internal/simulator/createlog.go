package simulator

import (
	"slices"
	"time"
)

// Create is one POST to the create endpoint, recorded when its body was read.
// What became of it is recorded before the client can see any of it.
type Create struct {
	At        time.Time `json:"at"`
	RequestID string    `json:"requestId"`
	// Name is empty if the body could not be read.
	Name      string `json:"name,omitempty"`
	BodyBytes int    `json:"bodyBytes"`
	// Outcome is the status of the answer as text, or cut, hang, truncated;
	// pending while nothing is decided, aborted if Close came first.
	Outcome string `json:"outcome"`
	// Created tells that a server was bought, and VPSID which.
	Created bool   `json:"created"`
	VPSID   string `json:"vpsId,omitempty"`
	// Fault is the specification of the fault that was applied, "" if none.
	Fault string `json:"fault,omitempty"`
}

const (
	outcomePending   = "pending"
	outcomeAborted   = "aborted"
	outcomeCut       = "cut"
	outcomeHang      = "hang"
	outcomeTruncated = "truncated"
)

// createLog is guarded by Server.mu, as are the entries it has given out.
type createLog struct {
	entries  []*Create
	outcomes map[string]int
}

func newCreateLog() createLog { return createLog{outcomes: map[string]int{}} }

// add appends an entry and forgets old ones beyond keep, in batches so that it
// costs a constant on average.
func (l *createLog) add(c Create, keep int) *Create {
	if len(l.entries) >= 2*keep {
		l.entries = slices.Clone(l.entries[len(l.entries)-keep:])
	}
	c.Outcome = outcomePending
	l.outcomes[c.Outcome]++
	l.entries = append(l.entries, &c)
	return &c
}

func (l *createLog) decide(c *Create, outcome string) {
	l.outcomes[c.Outcome]--
	if l.outcomes[c.Outcome] == 0 {
		delete(l.outcomes, c.Outcome)
	}
	c.Outcome = outcome
	l.outcomes[outcome]++
}

func (l *createLog) last(keep int) []Create {
	kept := l.entries[max(0, len(l.entries)-keep):]
	all := make([]Create, len(kept))
	for i, c := range kept {
		all[i] = *c
	}
	return all
}
