package provision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// conclude stores what came of the attempt in hand. A paid answer must not be
// lost, so it is offered to the ledger until it is taken or StoreTimeout ends,
// also when somebody has meanwhile given the attempt up for unknown: whoever
// made the call knows better.
func (p *Provisioner) conclude(ctx context.Context, r *Record, a Answer, turn *pass) error {
	p.meter.attempted(ctx, a)
	tellVerdict(ctx, r.attempt().Number, a)
	// Before it is stored: should this process end first, the line is all that
	// is left of a paid answer. One that may have bought a server unseen is a
	// warning.
	level := slog.LevelInfo
	if a.Verdict == VerdictUnknown {
		level = slog.LevelWarn
	}
	p.log.Log(ctx, level, "attempt", "key", r.Key, "attempt", r.attempt().Number, "verdict", a.Verdict,
		"status", a.Status, "vps_id", a.VPSID, "request_id", a.RequestID, "detail", a.Detail)
	if err := p.storeAnswer(ctx, r, a, turn); err != nil {
		return err
	}
	if !r.State.Owns() && !r.State.Settled() {
		given := *r
		p.after(ctx, func(ctx context.Context) { p.release(ctx, &given) })
	}
	return nil
}

// storeAnswer applies an answer to the record and stores it.
func (p *Provisioner) storeAnswer(ctx context.Context, r *Record, a Answer, turn *pass) error {
	token := r.attempt().Token
	until := time.Now().Add(p.cfg.StoreTimeout)
	p.apply(r, a)
	p.account(ctx, r, a, turn)
	put := p.store
	for n := 1; ; n++ {
		err := put(ctx, r)
		if err == nil {
			return nil
		}
		if !time.Now().Before(until) {
			p.log.ErrorContext(ctx, "the result of a create call could not be stored", "key", r.Key, "verdict", a.Verdict, "vps_id", a.VPSID, "error", err)
			return err
		}
		if !errors.Is(err, ErrConflict) {
			p.pause(p.backoff(n))
		}
		current, loadErr := p.load(context.WithoutCancel(ctx), r.Key)
		switch {
		case loadErr != nil:
			p.pause(p.backoff(n))
			continue
		case current == nil && a.Verdict == VerdictNeverSent:
			// The intent never arrived and nothing was sent: there is nothing to say.
			return fmt.Errorf("the intent of %q was not stored: %w", r.Key, ErrConflict)
		case current == nil:
			// The ledger lost the record, but not what this process knows.
			r.Revision = 0
			continue
		}
		switch newest := current.attempt(); {
		case newest == nil || newest.Token != token:
			return p.tooOld(ctx, current, token, a)
		case a.Verdict == VerdictCreated && current.State == StateAccepted:
			// Absence was proved, wrongly, and the name given back.
			put = p.storeClaiming
		case !current.State.Owns():
			return p.tooOld(ctx, current, token, a)
		default:
			put = p.store
		}
		*r = *current
		p.apply(r, a)
	}
}

// storeClaiming stores a server that was bought for a request which has given
// its name back. Should another request have it now, that one is at a call of
// its own, and what it finds may be this server: somebody has to know.
func (p *Provisioner) storeClaiming(ctx context.Context, r *Record) error {
	r.UpdatedAt = time.Now()
	err := p.ports.Ledger.Intend(context.WithoutCancel(ctx), r)
	if taken, ok := errors.AsType[*NameTakenError](err); ok {
		p.log.ErrorContext(ctx, "a server was announced late; another request has its name by now and may take it for its own", "key", r.Key, "vps_id", r.VPSID, "owner", taken.Owner)
		return nil
	}
	if err != nil {
		return fmt.Errorf("store %s of %q: %w", r.State, r.Key, err)
	}
	return nil
}

// tooOld ends the storing of an answer to an attempt that the record has left
// behind. A server that the answer names is evidence all the same: kept with the
// attempt it is found by the next look.
func (p *Provisioner) tooOld(ctx context.Context, current *Record, token string, a Answer) error {
	moved := fmt.Errorf("the record of %q has moved on: %w", current.Key, ErrConflict)
	if a.Verdict == VerdictNeverSent || knows(current, token, a) {
		return moved
	}
	p.log.ErrorContext(ctx, "the result of a create call came too late to be stored", "key", current.Key, "verdict", a.Verdict, "vps_id", a.VPSID, "state", current.State)
	i := slices.IndexFunc(current.Attempts, func(at Attempt) bool { return at.Token == token })
	if i < 0 || a.VPSID == "" || current.State.Settled() {
		return moved
	}
	current.Attempts = slices.Clone(current.Attempts)
	current.Attempts[i].VPSID = a.VPSID
	current.Attempts[i].Detail += "; an answer that came too late named " + a.VPSID
	if err := p.store(ctx, current); err != nil && !errors.Is(err, ErrConflict) {
		p.log.ErrorContext(ctx, "the server that a late answer named could not be stored either", "key", current.Key, "vps_id", a.VPSID, "error", err)
	}
	return moved
}

// knows reports whether a record that has moved on tells what an attempt came
// to, be it that the write which was thought lost is the one that moved it.
func knows(r *Record, token string, a Answer) bool {
	if a.Verdict == VerdictCreated {
		return r.VPSID == a.VPSID
	}
	for _, at := range r.Attempts {
		if at.Token == token {
			return at.Verdict == a.Verdict
		}
	}
	return false
}

// account draws the consequences of an answer for everybody else: the book of
// what is in flight, and the gate.
func (p *Provisioner) account(ctx context.Context, r *Record, a Answer, turn *pass) {
	switch a.Verdict {
	case VerdictCreated:
		p.book.Bought(r.Key, time.Now())
		p.meter.bought(ctx, r.Request.Resources())
	default:
		p.book.Forget(r.Key)
	}
	p.leave(ctx, r, a, turn)
	if a.Verdict == VerdictRefused && a.Refusal == RefusalAuth {
		p.meter.keyRefused(ctx)
		p.keys.failed(r.attempt().StartedAt, p.backoff)
		if p.cfg.AuthHold {
			p.holdForAuth(ctx, errors.New(a.Detail))
		}
		return
	}
	if a.Status != 0 {
		p.keys.worked()
	}
}

// apply writes an answer into the record: verdict to next state (design
// section 3). It is the only place that does.
func (p *Provisioner) apply(r *Record, a Answer) {
	now := time.Now()
	at := r.attempt()
	r.Search = nil
	// The record counts the call already if an observer gave it up, or if this
	// is the second write of an answer whose first one was thought lost.
	counted := at.Verdict != ""
	at.EndedAt, at.Verdict, at.Status = now, a.Verdict, a.Status
	at.RequestID, at.Detail, at.Answered, at.VPSID = a.RequestID, a.Detail, a.Answered, a.VPSID
	switch sent := a.Verdict != VerdictNeverSent; {
	case sent && !counted:
		r.Sent++
	case !sent && counted:
		r.Sent--
	}
	a.Problem = compacted(a.Problem)
	if a.Problem != nil {
		r.LastProblem = a.Problem
	}
	switch a.Verdict {
	case VerdictCreated:
		r.State = StateCreated
		r.VPSID, r.OrderID, r.InvoiceID = a.VPSID, a.OrderID, a.InvoiceID
		r.Outcome = &Outcome{Kind: KindProvisioning, Billed: BilledYes, OccurredAt: now}
	case VerdictRefused:
		p.applyRefusal(r, a, now)
	case VerdictThrottled:
		r.State, r.WaitReason = StateAccepted, WaitGate
		r.NotBefore = now.Add(max(a.RetryAfter, p.backoff(r.fruitless())))
	case VerdictNeverSent:
		r.State, r.WaitReason = StateAccepted, WaitNeverSent
		r.NotBefore = now.Add(p.backoff(r.fruitless()))
	default:
		at.Verdict = VerdictUnknown
		// An answer that proves nothing is no reason to hold once more what is
		// held already, unless it names a server.
		if r.State != StateHeld || a.VPSID != "" {
			r.State = StateUnknown
		}
	}
	if r.State == StateAccepted {
		r.waits(now, nil)
	}
}

// applyRefusal tells the refusals apart that are about the account rather
// than the request.
func (p *Provisioner) applyRefusal(r *Record, a Answer, now time.Time) {
	reason := ReasonRefused
	switch {
	case a.Refusal == RefusalAuth && p.cfg.AuthHold:
		r.State, r.WaitReason = StateAccepted, WaitAuth
		r.NotBefore = now.Add(p.backoff(r.fruitless()))
		return
	case a.Refusal == RefusalLimit && p.cfg.LimitWait:
		r.State, r.WaitReason = StateAccepted, WaitLimits
		r.NotBefore = now.Add(p.cfg.LimitsTTL)
		return
	case a.Refusal == RefusalLimit:
		reason = ReasonLimitExceeded
	}
	r.State = StateFailed
	r.Outcome = outcome(reason, a.Problem, now)
	if reason == ReasonRefused && a.Status == statusConflict {
		r.Outcome.Retryable = true
	}
}

// statusConflict is HTTP 409: HostUp uses it for what may pass by itself.
const statusConflict = 409
