package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// budget is how long one delivery may still wait in hand.
type budget struct {
	left  time.Duration
	since time.Time
	// turned is whether it has waited for its turn beyond that: once, because
	// a turn that has been asked for comes at once or not soon.
	turned bool
}

// drive takes a record from its state as far as it goes now. It returns
// ErrConflict when somebody else moved the record: load it again.
func (p *Provisioner) drive(ctx context.Context, r *Record, inHand *budget, m *Message) (Disposition, error) {
	for {
		d, stop, err := p.step(ctx, r, inHand.since, m)
		if err != nil {
			if errors.Is(err, ErrConflict) {
				return Disposition{}, err
			}
			d, stop = wait(p.backoff(int(min(m.Deliveries, maxTries))), WaitLedger, err), true
		}
		if !stop {
			continue
		}
		if d.Action != Retry {
			return d, nil
		}
		d = d.of(r)
		d.After = p.untilDeadline(r, d.After)
		known := d
		if r.State == StateAccepted && paceable(d.Reason) {
			d.After = p.untilDeadline(r, paced(d.After, d.Reason, m.Waiting))
		}
		// A person's decision is in the ledger, not in this hand.
		turn := d.Reason == WaitTurn && !inHand.turned
		if err == nil && (turn || d.After <= inHand.left) && d.Reason != WaitHeld && !crowded(d.Reason, m.Queued) {
			inHand.turned = inHand.turned || turn
			began := time.Now()
			awake := p.sleep(ctx, d)
			waited := time.Since(began)
			inHand.left -= waited
			tellWait(ctx, d, waited)
			if awake {
				continue
			}
			return wait(0, WaitShutdown, context.Cause(ctx)), nil
		}
		return d, p.remember(ctx, r, known)
	}
}

// step does the next thing for a record. stop tells that the disposition is to
// be acted on; otherwise the record has a new state.
func (p *Provisioner) step(ctx context.Context, r *Record, since time.Time, m *Message) (d Disposition, stop bool, err error) {
	switch r.State {
	case StateAccepted:
		return p.accepted(ctx, r, since, m)
	case StateCreating:
		return p.creating(ctx, r)
	case StateUnknown:
		return p.unknown(ctx, r)
	case StateHeld:
		return p.held(ctx, r, m)
	case StateCreated, StateFailed:
		return p.announce(ctx, r, m), true, nil
	case StateDone:
		return p.finished(r), true, nil
	default:
		// Written by a version that knows more states; it will drive it.
		return wait(p.cfg.HeldPoll, WaitLedger, fmt.Errorf("the record of %q is in state %q, which this version does not know", r.Key, r.State)), true, nil
	}
}

// finished is the disposition of a record with an outcome.
func (p *Provisioner) finished(r *Record) Disposition {
	d := Disposition{Action: Done, Result: ResultProvisioning}.of(r)
	if r.Outcome != nil && r.Outcome.Kind == KindFailed {
		d.Result, d.Reason = ResultFailed, string(r.Outcome.Reason)
	}
	return d
}

// untilDeadline shortens a wait so that the deadline is not slept through.
func (p *Provisioner) untilDeadline(r *Record, after time.Duration) time.Duration {
	left := time.Until(r.Deadline)
	switch {
	case left >= after || r.State != StateAccepted && r.State != StateUnknown && r.State != StateHeld:
		return after
	case left <= 0 && r.State == StateHeld:
		// Only its event can still be missing.
		return after
	}
	return max(left, 0)
}

// remember stores why and until when an accepted request waits, so that the
// wait survives this delivery and can be seen.
func (p *Provisioner) remember(ctx context.Context, r *Record, d Disposition) error {
	if (r.State != StateAccepted && r.State != StateUnknown) || d.Reason == WaitShutdown || d.Reason == WaitLedger || d.Reason == WaitPublish || d.Reason == WaitTurn {
		return nil
	}
	now := time.Now()
	var notBefore time.Time
	if d.Reason == WaitGate || d.Reason == WaitBackoff || d.Reason == WaitNeverSent {
		notBefore = now.Add(d.After)
	}
	if r.State == StateUnknown {
		notBefore = time.Now().Add(d.After)
	}
	if r.Revision != 0 && r.WaitReason == d.Reason && (r.NotBefore.After(now) || r.NotBefore.Sub(notBefore).Abs() < time.Second) {
		return nil // it says so already
	}
	r.WaitReason, r.NotBefore = d.Reason, notBefore
	r.waits(now, d.Err)
	err := p.store(ctx, r)
	if err != nil && !errors.Is(err, ErrConflict) {
		// The wait itself needs no record; without one it is only invisible.
		p.log.WarnContext(ctx, "could not store why a request waits", "key", r.Key, "reason", d.Reason, "error", err)
		return nil
	}
	return err
}

// creating meets an attempt whose result is not known here: somebody is at it,
// or died. The time that the call may take is waited out on this process's own
// clock, from when it first saw this attempt; no clock is compared with
// another machine's.
func (p *Provisioner) creating(ctx context.Context, r *Record) (Disposition, bool, error) {
	a := r.attempt()
	left := a.Within + a.Within/20 - time.Since(p.seen.first(r.Key, a.Token))
	if left > 0 {
		return wait(left, WaitInFlight, nil), true, nil
	}
	a.Verdict, a.EndedAt = VerdictUnknown, time.Now()
	a.Detail = "no result was recorded: the worker stopped between intent and result"
	r.Sent++
	r.State = StateUnknown
	p.meter.attempted(ctx, Answer{Verdict: VerdictUnknown})
	p.log.WarnContext(ctx, "an attempt was left without a result", "key", r.Key, "attempt", a.Number, "verdict", a.Verdict)
	if err := p.store(ctx, r); err != nil {
		return Disposition{}, false, err
	}
	p.seen.forget(r.Key)
	return Disposition{}, false, nil
}

// hold puts a request whose outcome nobody can prove before a person. Never a
// blind second POST.
func (p *Provisioner) hold(ctx context.Context, r *Record, why string, candidates []Candidate) error {
	r.State = StateHeld
	r.Held++
	r.HeldAt = time.Now()
	a := r.attempt()
	r.HeldReason = fmt.Sprintf("attempt %d may have created a server (%s); %s", a.Number, a.Detail, why)
	r.Evidence = &Evidence{Attempts: append([]Attempt(nil), r.Attempts...), Candidates: candidates}
	if r.Search != nil {
		r.Evidence.Lookups = r.Search.Looks
	}
	r.Search = nil
	r.NotBefore, r.WaitReason = time.Time{}, ""
	r.note(Note{Time: r.HeldAt, What: NoteHeld, Detail: strings.TrimSuffix(why+": "+strings.Join(idsOf(candidates), ", "), ": ")})
	p.book.Forget(r.Key)
	return p.store(ctx, r)
}

// maxHeldTries is where the backoff of a deploy.held stops growing.
const maxHeldTries = 4

// held announces a holding once and then waits for a decision or the deadline.
func (p *Provisioner) held(ctx context.Context, r *Record, m *Message) (Disposition, bool, error) {
	if r.HeldAnnounced < r.Held {
		e := r.HeldEvent()
		if err := p.ports.Events.Publish(ctx, e); err != nil {
			// Not slower than that: the deadline comes after it.
			return wait(p.backoff(int(min(m.Deliveries, maxHeldTries))), WaitPublish, fmt.Errorf("publish %s: %w", e.ID, err)), true, nil
		}
		r.HeldAnnounced = r.Held
		p.meter.heldOne(ctx)
		p.log.WarnContext(ctx, "a request is held for a person", "key", r.Key, "attempt", r.attempt().Number,
			"verdict", r.attempt().Verdict, "request_id", r.attempt().RequestID, "reason", r.HeldReason)
		return Disposition{}, false, p.store(ctx, r)
	}
	if now := time.Now(); !now.Before(r.Deadline) {
		return Disposition{}, false, p.fail(ctx, r, p.unknownOutcome(r, "held until the deadline: "+r.HeldReason, now))
	}
	return wait(p.cfg.HeldPoll, WaitHeld, nil), true, nil
}

// fail stores a failed outcome; announcing it is the next step.
func (p *Provisioner) fail(ctx context.Context, r *Record, o *Outcome) error {
	if o.Reason == ReasonDeadlineExceeded || o.Reason == ReasonOutcomeUnknown {
		r.note(Note{Time: o.OccurredAt, What: NoteDeadline, Detail: strings.TrimSuffix(string(r.State)+", waiting: "+r.WaitReason, ", waiting: ")})
	}
	r.State, r.Outcome = StateFailed, o
	r.NotBefore, r.WaitReason = time.Time{}, ""
	p.book.Forget(r.Key)
	return p.store(ctx, r)
}

// announce publishes the stored outcome. The record's last write and the name
// row are not waited for: repeating the event is harmless, losing it is not.
func (p *Provisioner) announce(ctx context.Context, r *Record, m *Message) Disposition {
	e := r.OutcomeEvent()
	if err := p.ports.Events.Publish(context.WithoutCancel(ctx), e); err != nil {
		return wait(p.backoff(int(min(m.Deliveries, maxTries))), WaitPublish, fmt.Errorf("publish %s: %w", e.ID, err))
	}
	d := p.finished(r)
	r.State = StateDone
	p.after(ctx, func(ctx context.Context) {
		if err := p.store(ctx, r); err != nil && !errors.Is(err, ErrConflict) {
			p.log.WarnContext(ctx, "could not mark a request as done; a duplicate would repeat its event", "key", r.Key, "error", err)
		}
		p.release(ctx, r)
	})
	return d
}

// release gives the name back. A row that stays open is taken over by the next
// request of that name.
func (p *Provisioner) release(ctx context.Context, r *Record) {
	if len(r.Attempts) == 0 {
		return
	}
	if err := p.ports.Names.Release(ctx, r); err != nil {
		p.log.WarnContext(ctx, "could not release a name", "key", r.Key, "name", r.Request.Name, "error", err)
	}
}

// after runs work that no ack waits for.
func (p *Provisioner) after(ctx context.Context, work func(context.Context)) {
	ctx = context.WithoutCancel(ctx)
	select {
	case p.tail <- struct{}{}:
	default:
		work(ctx)
		return
	}
	p.tailing.Go(func() {
		defer func() { <-p.tail }()
		work(ctx)
	})
}

// load reads a record and puts the key back into its request, where the ledger
// does not repeat it.
func (p *Provisioner) load(ctx context.Context, key string) (*Record, error) {
	r, err := p.ports.Ledger.Load(ctx, key)
	if r != nil {
		r.Request.Key = r.Key
	}
	return r, err
}

// store stamps and writes a record. It runs to its own end whatever happens to
// ctx: half of the callers have something to lose.
func (p *Provisioner) store(ctx context.Context, r *Record) error {
	r.UpdatedAt = time.Now()
	if err := p.ports.Ledger.Store(context.WithoutCancel(ctx), r); err != nil {
		return fmt.Errorf("store %s of %q: %w", r.State, r.Key, err)
	}
	return nil
}
