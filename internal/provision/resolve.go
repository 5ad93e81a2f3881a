package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ResolveAction is what a person says about a held request.
type ResolveAction string

// The three ways out.
const (
	// ResolveAdopt: this server is the one.
	ResolveAdopt ResolveAction = "adopt"
	// ResolveNotCreated: nothing was created, try again.
	ResolveNotCreated ResolveAction = "not-created"
	// ResolveAbandon: give the request up.
	ResolveAbandon ResolveAction = "abandon"
)

// Resolution is a person's decision, kept in the record.
type Resolution struct {
	Action ResolveAction `json:"action"`
	// VPSID is the server to adopt.
	VPSID string `json:"vpsId,omitempty"`
	// Billed is what an abandoned request cost; unknown unless the person knows.
	Billed Billed `json:"billed,omitempty"`
	// Reason and By say why and who; both are required.
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// String says it in one line: who decided what, and why.
func (d Resolution) String() string {
	what := string(d.Action)
	switch {
	case d.Action == ResolveAdopt:
		what += " " + d.VPSID
	case d.Billed != "":
		what += ", billed " + string(d.Billed)
	}
	return fmt.Sprintf("%s: %s (%s)", d.By, what, d.Reason)
}

// Errors of Resolve that a caller tells apart.
var (
	// ErrNoRecord: the ledger does not know the key.
	ErrNoRecord = errors.New("the ledger knows no such request")
	// ErrNotHeld: only a held request waits for a decision.
	ErrNotHeld = errors.New("the request is not held")
	// ErrNoServer: the server to adopt is not in the account, or not alive.
	ErrNoServer = errors.New("the account has no such live server")
)

// CandidatesError refuses a decision that the account contradicts.
type CandidatesError struct{ Candidates []Candidate }

// Error implements error.
func (e *CandidatesError) Error() string {
	return fmt.Sprintf("the account has %d server(s) that this request may have bought, first %s: adopt it, or abandon the request", len(e.Candidates), e.Candidates[0].VPSID)
}

// Resolve carries out a person's decision on a held request. The account is
// looked at again first; a look that fails decides nothing. The decision is
// stored by compare-and-set, and its outcome, if it is one, is announced
// before Resolve returns.
func (p *Provisioner) Resolve(ctx context.Context, key string, d Resolution) (*Record, error) {
	if d.Reason == "" || d.By == "" {
		return nil, errors.New("a decision needs a reason and somebody who makes it")
	}
	r, err := p.load(ctx, key)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the ledger: %w", err)
	case r == nil:
		return nil, fmt.Errorf("%w: %q", ErrNoRecord, key)
	case r.State != StateHeld:
		return r, fmt.Errorf("%w: %q is %s", ErrNotHeld, key, r.State)
	}
	d.At = time.Now()
	if err := p.decide(ctx, r, &d); err != nil {
		return r, err
	}
	r.Resolution = &d
	r.note(Note{Time: d.At, What: NoteDecided, Detail: d.String()})
	if err := p.store(ctx, r); err != nil {
		return r, err
	}
	p.log.InfoContext(ctx, "a person decided a held request", "key", key, "action", d.Action, "by", d.By, "reason", d.Reason)
	if r.State == StateAccepted {
		p.release(ctx, r)
		return r, nil
	}
	// The copy is what announcing goes on with after it has returned.
	told := *r
	if a := p.announce(ctx, &told, &Message{}); a.Err != nil {
		return r, fmt.Errorf("the decision is stored and the worker will announce it; announcing it now: %w", a.Err)
	}
	return r, nil
}

// decide checks a decision against the account and applies it to the record.
func (p *Provisioner) decide(ctx context.Context, r *Record, d *Resolution) error {
	now := d.At
	switch d.Action {
	case ResolveAdopt:
		s, err := p.ports.Inventory.ByID(ctx, d.VPSID)
		if err != nil {
			return fmt.Errorf("look at the server %q: %w", d.VPSID, err)
		}
		if !s.Live {
			return fmt.Errorf("%w: %s", ErrNoServer, d.VPSID)
		}
		// The name of the request first; the server may have another one.
		if ours, err := p.claim(ctx, r, s.ID); err != nil {
			return err
		} else if !ours {
			return fmt.Errorf("the server %s was announced for another request already", s.ID)
		}
		past, err := p.ports.Names.Finished(ctx, s.Name)
		if err != nil {
			return fmt.Errorf("read who was finished under the name %q: %w", s.Name, err)
		}
		if past.Includes(s.ID) {
			return fmt.Errorf("the server %s was announced for another request already", s.ID)
		}
		r.State, r.VPSID = StateCreated, s.ID
		r.Outcome = &Outcome{Kind: KindProvisioning, Billed: BilledYes, Adopted: true, OccurredAt: now}
	case ResolveNotCreated:
		f, err := p.look(ctx, r, r.unprovedSince())
		if err != nil {
			return err
		}
		if all := slices.Concat(f.ours, f.doubtful); len(all) > 0 {
			return &CandidatesError{Candidates: all}
		}
		r.State = StateAccepted
		r.NotBefore, r.WaitReason = time.Time{}, ""
	case ResolveAbandon:
		problem := newProblem(ReasonAbandoned, fmt.Sprintf("%s decided: %s", d.By, d.Reason))
		problem.Cause = r.LastProblem
		r.State, r.Outcome = StateFailed, outcome(ReasonAbandoned, problem.JSON(), now)
		if d.Billed != "" {
			r.Outcome.Billed = d.Billed
		}
	default:
		return fmt.Errorf("unknown decision %q", d.Action)
	}
	return nil
}

// Resume drives a request whose message is gone from the stream as far as it
// goes now.
func (p *Provisioner) Resume(ctx context.Context, key string) Disposition {
	r, err := p.load(ctx, key)
	if err != nil {
		return wait(0, WaitLedger, fmt.Errorf("read the ledger: %w", err))
	}
	if r == nil || r.State == StateDone {
		return Disposition{Action: Done, Result: ResultDuplicate, Key: key}
	}
	// Deliveries stays 0: nobody knows how often it was delivered.
	m := &Message{Request: r.Request, Stream: r.Stream, Sequence: r.Sequence, StoredAt: r.RequestedAt, Encoding: r.Encoding}
	d := p.accept(ctx, m)
	d.Key = key
	p.meter.handled(ctx, d, m.StoredAt)
	return d
}
