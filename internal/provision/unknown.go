package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// unknown finds out what became of an attempt that nobody answered. It looks
// the server up on a growing schedule: one that is provably ours is adopted;
// that there is none has to be observed for the settle time before the request
// is tried again; whatever cannot be proved goes before a person.
func (p *Provisioner) unknown(ctx context.Context, r *Record) (Disposition, bool, error) {
	if r.Search == nil {
		r.Search = &Search{}
	}
	// At the deadline there is one look more, due or not: it may still adopt.
	last := !time.Now().Before(r.Deadline)
	if left := p.settling(r).due(r.Search.Empty) - p.elapsed(r); left > 0 && !last {
		return wait(left, WaitLookup, nil), true, nil
	}
	if c, closed := p.gate.Closed(); closed && !last {
		// A look-up draws on the same budget as a create.
		return p.behindGate(c), true, nil
	}
	// What a look shows is as old as its beginning.
	elapsed := p.elapsed(r)
	f, err := p.look(ctx, r, r.unprovedSince())
	if d, later := lookLater(err); later && !last {
		return d, true, nil
	}
	r.Search.Looks++
	if err != nil {
		return p.lookFailed(ctx, r, err)
	}
	p.meter.looked(ctx, f)
	return p.judge(ctx, r, f, elapsed)
}

// judge draws the conclusion from one look, that long after the attempt's end.
func (p *Provisioner) judge(ctx context.Context, r *Record, f found, elapsed time.Duration) (Disposition, bool, error) {
	s := p.settling(r)
	switch {
	case len(f.ours) == 1 && len(f.doubtful) == 0:
		return p.adopt(ctx, r, f.ours[0])
	case len(f.ours) > 0:
		return Disposition{}, false, p.hold(ctx, r, fmt.Sprintf("%d servers could be the one it bought", len(f.ours)+len(f.doubtful)), slices.Concat(f.ours, f.doubtful))
	case len(f.doubtful) > 0 && elapsed >= s.over:
		return Disposition{}, false, p.hold(ctx, r, "there is a server of whom nobody can say whether it is ours", f.doubtful)
	case len(f.doubtful) > 0:
		return p.lookFailed(ctx, r, fmt.Errorf("of the server %s: %s", f.doubtful[0].VPSID, f.doubtful[0].Detail))
	}
	r.Search.Empty++
	r.Search.Failed = 0
	r.Search.Elapsed = elapsed
	r.note(Note{Time: time.Now(), What: NoteLooked, Detail: lookFoundNothing})
	if now := time.Now(); !now.Before(r.Deadline) {
		return Disposition{}, false, p.fail(ctx, r, p.unknownOutcome(r, "still being looked up at the deadline", now))
	}
	if !s.proved(r.Search.Empty, elapsed) {
		r.WaitReason = WaitLookup
		return Disposition{}, false, p.store(ctx, r)
	}
	p.seen.forget(r.Key)
	if id := r.attempt().VPSID; id != "" {
		return Disposition{}, false, p.hold(ctx, r, "the answer named a server that no look found", []Candidate{{VPSID: id, Detail: "named in an answer that could not be read as a whole"}})
	}
	if p.cfg.HoldUnknown {
		return Disposition{}, false, p.hold(ctx, r, fmt.Sprintf("%d looks over %s found no server, and WORKER_UNKNOWN_POLICY is hold", r.Search.Empty, elapsed.Round(time.Second)), nil)
	}
	return Disposition{}, false, p.again(ctx, r, elapsed)
}

// again takes a request whose attempt provably created nothing back to the
// start.
func (p *Provisioner) again(ctx context.Context, r *Record, elapsed time.Duration) error {
	p.log.InfoContext(ctx, "an attempt whose answer was lost created nothing: it is tried again", "key", r.Key,
		"attempt", r.attempt().Number, "verdict", r.attempt().Verdict, "request_id", r.attempt().RequestID, "looks", r.Search.Empty, "over", elapsed.String())
	proof := fmt.Sprintf("%d looks over %s found no server", r.Search.Empty, elapsed.Round(time.Millisecond))
	r.attempt().Detail += "; " + proof
	r.note(Note{Time: time.Now(), What: NoteAbsent, Detail: proof})
	r.State, r.Search, r.WaitReason, r.NotBefore = StateAccepted, nil, "", time.Time{}
	p.book.Forget(r.Key)
	if err := p.store(ctx, r); err != nil {
		return err
	}
	given := *r
	p.after(ctx, func(ctx context.Context) { p.release(ctx, &given) })
	return nil
}

// nameTakenAtDeadline is why a server that was found is not adopted.
const nameTakenAtDeadline = "there is a server that may be its own, but at the deadline its name belonged to another request"

// adopt makes a server that was found the outcome of the request, once the name
// is ours: a worker that died between losing the name and taking its intent
// back leaves a record that may not claim anything.
func (p *Provisioner) adopt(ctx context.Context, r *Record, c Candidate) (Disposition, bool, error) {
	if ours, err := p.claim(ctx, r, c.VPSID); err != nil {
		if taken, ok := errors.AsType[*NameTakenError](err); ok {
			if now := time.Now(); !now.Before(r.Deadline) {
				return Disposition{}, false, p.fail(ctx, r, p.unknownOutcome(r, nameTakenAtDeadline, now))
			}
			p.log.InfoContext(ctx, "a server was found, but its name belongs to another request", "key", r.Key, "vps_id", c.VPSID, "owner", taken.Owner)
			return wait(p.ceiling(2)/2+p.backoff(2), WaitName, nil), true, nil
		}
		return Disposition{}, false, err
	} else if !ours {
		// Announced meanwhile: the next look leaves it out.
		return wait(p.backoff(1), WaitLookup, nil), true, nil
	}
	r.State, r.VPSID, r.Search = StateCreated, c.VPSID, nil
	r.NotBefore, r.WaitReason = time.Time{}, ""
	r.attempt().VPSID = c.VPSID
	r.Outcome = &Outcome{Kind: KindProvisioning, Billed: BilledYes, Adopted: true, OccurredAt: time.Now()}
	r.note(Note{Time: r.Outcome.OccurredAt, What: NoteAdopted, Detail: c.VPSID + ", created at " + c.CreatedAt.UTC().Format(time.RFC3339)})
	if err := p.store(ctx, r); err != nil {
		return Disposition{}, false, err
	}
	p.seen.forget(r.Key)
	p.book.Forget(r.Key)
	p.meter.adoptedOne(ctx)
	p.meter.bought(ctx, r.Request.Resources())
	tellAdopted(ctx, c.VPSID)
	p.log.InfoContext(ctx, "a server whose answer was lost was found and adopted", "key", r.Key, "attempt", r.attempt().Number,
		"verdict", r.attempt().Verdict, "request_id", r.attempt().RequestID, "vps_id", c.VPSID, "created_at", c.CreatedAt)
	return Disposition{}, false, nil
}

// claim takes the name for a record that owns it already unless something went
// wrong, and reports whether a server may be adopted under it: while the name
// is ours nobody else can announce the server.
func (p *Provisioner) claim(ctx context.Context, r *Record, id string) (bool, error) {
	r.UpdatedAt = time.Now()
	if err := p.ports.Ledger.Intend(context.WithoutCancel(ctx), r); err != nil {
		return false, fmt.Errorf("claim the name %q: %w", r.Request.Name, err)
	}
	past, err := p.ports.Names.Finished(ctx, r.Request.Name)
	if err != nil {
		return false, fmt.Errorf("read who was finished under the name %q: %w", r.Request.Name, err)
	}
	return !past.Includes(id), nil
}

// lookFailed is the wait after a look that proved nothing.
func (p *Provisioner) lookFailed(ctx context.Context, r *Record, cause error) (Disposition, bool, error) {
	if ctx.Err() != nil {
		return wait(0, WaitShutdown, nil), true, nil //nolint:nilerr // handing back is the answer
	}
	p.meter.lookFailed(ctx)
	r.Search.Failed++
	r.note(Note{Time: time.Now(), What: NoteLooked, Detail: lookProvedNothing, Cause: cause.Error()})
	if now := time.Now(); !now.Before(r.Deadline) {
		return Disposition{}, false, p.fail(ctx, r, p.unknownOutcome(r, "the last look-up failed: "+cause.Error(), now))
	}
	if re, ok := errors.AsType[*ReadError](cause); ok {
		if re.Auth {
			p.meter.keyRefused(ctx)
		}
		switch {
		case re.Throttled:
			p.raise(ctx, re, 1)
		case re.Auth && p.cfg.AuthHold:
			p.holdForAuth(ctx, cause)
		}
	}
	return wait(p.backoff(r.Search.Failed), WaitLookup, cause), true, nil
}

// lookLater is the wait for a look that was not sent because the fleet's reads
// are used up. It is no look that failed.
func lookLater(err error) (Disposition, bool) {
	used, ok := errors.AsType[*ReadsUsedUpError](err)
	if !ok {
		return Disposition{}, false
	}
	return wait(later(used.After), WaitGate, nil), true
}

// settling is the schedule of the newest attempt.
func (p *Provisioner) settling(r *Record) settling {
	over := p.cfg.SettleUnanswered
	if r.attempt().Answered {
		over = p.cfg.SettleAnswered
	}
	return settling{over: over, reads: p.cfg.SettleReads}
}

// elapsed is how long ago the attempt ended, at least: what was measured up to
// the last look, and what this process has seen pass since it first met the
// record after that look. No clock is compared with another machine's.
func (p *Provisioner) elapsed(r *Record) time.Duration {
	stage := r.attempt().Token + "/" + strconv.Itoa(r.Search.Empty)
	return r.Search.Elapsed + time.Since(p.seen.first(r.Key, stage))
}

func (p *Provisioner) unknownOutcome(r *Record, detail string, now time.Time) *Outcome {
	problem := newProblem(ReasonOutcomeUnknown, detail)
	problem.Cause = r.LastProblem
	return outcome(ReasonOutcomeUnknown, problem.JSON(), now)
}

// lateAfter is how old a request may be whose first create call needs no look
// before it (design section 5).
const lateAfter = time.Minute

// doubt returns since when there may be a server of a request that is about to
// be sent, zero when there can be none. An earlier call that nobody answered
// was looked for, but HostUp may have listed its server later than the settle
// time; and the ledger may have forgotten an earlier call of a request that it
// knows no sent call of, for brokers have lost writes they confirmed.
func doubt(r *Record, m *Message) time.Time {
	since := r.unprovedSince()
	if since.IsZero() && r.Sent == 0 && (m.Deliveries != 1 || time.Since(r.RequestedAt) > lateAfter) {
		since = r.RequestedAt
	}
	return since
}

// lookFirst looks before a call that comes late or after one that nobody
// answered; free means that the call may be made. When there is a server that
// might be ours, the request goes the way of every unknown outcome.
func (p *Provisioner) lookFirst(ctx context.Context, r *Record, m *Message, since time.Time, turn *pass) (free bool, d Disposition, stop bool, err error) {
	p.gate.lend(turn)
	f, err := p.look(ctx, r, since)
	if d, later := lookLater(err); later {
		return false, d, true, nil
	}
	if err != nil {
		// Nothing is stored for it; the deliveries count.
		r.Search = &Search{Failed: int(min(max(m.Deliveries, 1), maxTries)) - 1}
		d, stop, err = p.lookFailed(ctx, r, err)
		r.Search = nil
		return false, d, stop, err
	}
	p.meter.looked(ctx, f)
	if len(f.ours)+len(f.doubtful) > 0 {
		d, stop, err = p.suspect(ctx, r, m, since)
		return false, d, stop, err
	}
	if len(r.Attempts) > 0 { // of a first call the record stays as small as it is
		r.note(Note{Time: time.Now(), What: NoteLooked, Detail: lookFoundNothing})
	}
	// Looking took its time: the gate and the deadline come first again.
	return !p.gate.revoked(turn) && time.Now().Before(r.Deadline), Disposition{}, false, nil
}

// lookLast looks once more before it is answered that nothing was bought: for a
// request with an unanswered call, and for a redelivered one of which the
// ledger knows nothing.
func (p *Provisioner) lookLast(ctx context.Context, r *Record, m *Message, since time.Time) (Disposition, bool, error) {
	f, err := p.look(ctx, r, since)
	switch now := time.Now(); {
	case err != nil && ctx.Err() != nil:
		return wait(0, WaitShutdown, nil), true, nil //nolint:nilerr // handing back is the answer
	case err != nil:
		if re, ok := errors.AsType[*ReadError](err); ok && re.Throttled {
			p.raise(ctx, re, 1)
		}
		p.meter.lookFailed(ctx)
		return Disposition{}, false, p.fail(ctx, r, p.unknownOutcome(r, "the deadline passed, and the look whether a server was bought failed: "+err.Error(), now))
	case len(f.ours)+len(f.doubtful) > 0:
		p.meter.looked(ctx, f)
		d, stop, err := p.suspect(ctx, r, m, since)
		if stop && err == nil {
			// Whose name it is might find out; the deadline does not wait for that.
			return Disposition{}, false, p.fail(ctx, r, p.unknownOutcome(r, nameTakenAtDeadline, now))
		}
		return d, stop, err
	default:
		p.meter.looked(ctx, f)
		return Disposition{}, false, p.fail(ctx, r, p.deadlineOutcome(r, now))
	}
}

// suspect treats a request that may have a server as if a call had been made
// and its answer lost, with the name row taken.
func (p *Provisioner) suspect(ctx context.Context, r *Record, m *Message, since time.Time) (Disposition, bool, error) {
	r.begin(since, 0)
	a := r.attempt()
	a.EndedAt, a.Verdict = time.Now(), VerdictUnknown
	a.Detail = "a server of this name and size was there before the call was made"
	r.State, r.Search = StateUnknown, &Search{}
	p.log.WarnContext(ctx, "a request found a server that may be its own before its call was made", "key", r.Key, "name", r.Request.Name)
	err := p.ports.Ledger.Intend(context.WithoutCancel(ctx), r)
	if _, taken := errors.AsType[*NameTakenError](err); taken {
		return p.withdraw(ctx, r, m, err, nil)
	}
	if err != nil {
		// Not an attempt that was never sent: with one, the next call would not
		// be the first, and nobody would look before it.
		return Disposition{}, false, fmt.Errorf("store that %q may have a server: %w", r.Key, err)
	}
	return Disposition{}, false, nil
}
