package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/admission"
)

// accepted decides whether a request may be sent now, and sends it.
func (p *Provisioner) accepted(ctx context.Context, r *Record, since time.Time, m *Message) (d Disposition, stop bool, err error) {
	now := time.Now()
	if !now.Before(r.Deadline) {
		if since := doubt(r, m); !since.IsZero() && (r.Sent > 0 || r.Redelivered) {
			return p.lookLast(ctx, r, m, since)
		}
		return Disposition{}, false, p.fail(ctx, r, p.deadlineOutcome(r, now))
	}
	if left := r.NotBefore.Sub(now); left > 0 {
		return wait(left, r.WaitReason, nil), true, nil
	}
	if c, stopped := p.gate.Stopped(); stopped {
		return p.behindGate(c), true, nil
	}
	inside, span := p.begin(ctx, "admission")
	defer func() { endAdmission(span, r, d, stop) }()
	facts, err := p.facts(inside, now.Add(-p.cfg.LimitsTTL))
	if err != nil {
		return p.unreadable(ctx, r, err)
	}
	if len(r.Attempts) == 0 && !facts.AllowsRegion(r.Request.Region) {
		return p.wrongRegion(ctx, r, m, RegionFault(r.Request.Region, facts.Regions))
	}
	decision := p.book.Admit(r.Key, facts, r.Request.Resources())
	if decision.Verdict != admission.Admit && !p.cfg.LimitWait && facts.AskedAt.Before(since) {
		// Nobody is refused on facts from before the request was looked at. Who
		// only waits does not read the account for each of thousands.
		if facts, err = p.facts(inside, since); err != nil {
			return p.unreadable(ctx, r, err)
		}
		decision = p.book.Admit(r.Key, facts, r.Request.Resources())
	}
	switch {
	case decision.Verdict == admission.Admit:
		return p.admitted(ctx, r, m, facts, span)
	case decision.Verdict == admission.Crowded:
		return wait(p.backoff(2), WaitCrowded, nil), true, nil
	case p.cfg.LimitWait:
		r.LastProblem = limitProblem(decision)
		return wait(later(p.cfg.LimitsTTL), WaitLimits, nil), true, nil
	default:
		return Disposition{}, false, p.fail(ctx, r, limitOutcome(decision, now))
	}
}

// admitted takes a request that fits the account to its attempt, if it is its
// turn; then the span of its admission ends.
func (p *Provisioner) admitted(ctx context.Context, r *Record, m *Message, facts admission.Facts, span trace.Span) (d Disposition, stop bool, err error) {
	begun := false
	defer func() {
		if !begun {
			p.book.Forget(r.Key)
		}
	}()
	if _, stopped := p.gate.Stopped(); stopped || !time.Now().Before(r.Deadline) {
		// Reading took its time: the gate and the deadline come first again.
		return Disposition{}, false, nil
	}
	if ctx.Err() != nil {
		// A drain need not outlast a call that was not begun.
		return wait(0, WaitShutdown, nil), true, nil
	}
	since := doubt(r, m)
	turn, closure := p.gate.enter(r.Key)
	if turn == nil {
		return p.behindGate(closure), true, nil
	}
	defer func() { p.leave(ctx, r, Answer{Verdict: VerdictNeverSent}, turn) }() // unless it was used
	if d, over := p.afford(ctx, r, turn, facts); over {
		return d, true, nil
	}
	admit(span)
	if !since.IsZero() {
		if free, d, stop, err := p.lookFirst(ctx, r, m, since, turn); !free {
			return d, stop, err
		}
	}
	begun = true
	return p.attempt(ctx, r, m, turn)
}

// wrongRegion answers a region that the account does not offer. A request that
// was never stored is rejected and leaves its key free; one that had to wait
// before the regions could be read has claimed it already.
func (p *Provisioner) wrongRegion(ctx context.Context, r *Record, m *Message, f Fault) (Disposition, bool, error) {
	if r.Revision == 0 {
		return p.rejectInvalid(ctx, m, []Fault{f}), true, nil
	}
	problem := newProblem(ReasonInvalidRequest, f.Detail)
	problem.Errors = []Fault{f}
	return Disposition{}, false, p.fail(ctx, r, outcome(ReasonInvalidRequest, problem.JSON(), time.Now()))
}

// releasePoll is how often a request asks whether a gate is open that somebody
// has to open: who lifts a brake, or mends a key, waits to see orders move.
const releasePoll = 8 * time.Second

// behindGate is the wait for a closed gate. A gate that only Release opens is
// looked at again after a while; in hand it is noticed at once.
func (p *Provisioner) behindGate(c Closure) Disposition {
	d := wait(later(time.Until(c.Until)), c.Reason, nil)
	if c.Until.IsZero() {
		d = wait(later(min(p.cfg.BackoffMax, releasePoll)), c.Reason, nil)
	}
	d.changed = c.changed
	return d
}

// errImpatient is why the account is not read: it failed a moment ago.
var errImpatient = errors.New("the account could not be read a moment ago")

// facts reads the account, unless that has failed too lately: one process
// knocks once, however many requests wait.
func (p *Provisioner) facts(ctx context.Context, oldest time.Time) (admission.Facts, error) {
	if p.reads.left() > 0 {
		return admission.Facts{}, errImpatient
	}
	began := time.Now()
	facts, err := p.ports.Account.Facts(ctx, oldest)
	switch {
	case err == nil:
		p.meter.know(facts)
		p.reads.worked()
	case ctx.Err() == nil:
		re, _ := errors.AsType[*ReadError](err)
		if re != nil && re.Auth {
			p.meter.keyRefused(ctx)
		}
		used, _ := errors.AsType[*ReadsUsedUpError](err)
		p.reads.failed(began, func(n int) time.Duration {
			switch {
			case used != nil:
				return used.After
			case re == nil || re.Auth:
				return p.backoff(n)
			}
			return max(re.RetryAfter, p.backoff(n))
		})
	}
	return facts, err
}

// unreadable is the wait after the account could not be read. The check being
// unavailable is not a refusal; a refused key is one, by policy.
func (p *Provisioner) unreadable(ctx context.Context, r *Record, err error) (Disposition, bool, error) {
	if errors.Is(err, errImpatient) {
		return wait(later(p.reads.left()), WaitAccount, nil), true, nil
	}
	if re, ok := errors.AsType[*ReadError](err); ok {
		if re.Problem != nil {
			r.LastProblem = compacted(re.Problem)
		}
		switch {
		case re.Throttled:
			// One budget is assumed for reads and creates.
			p.raise(ctx, re, p.reads.count())
			if c, closed := p.gate.Closed(); closed {
				return p.behindGate(c), true, nil
			}
		case re.Auth && p.cfg.AuthHold:
			p.holdForAuth(ctx, err)
			return p.behindGate(Closure{Reason: WaitAuth}), true, nil
		case re.Auth:
			problem := re.Problem
			if problem == nil {
				made := newProblem(ReasonRefused, "the account could not be read: "+err.Error())
				made.Status = re.Status
				problem = made.JSON()
			}
			return Disposition{}, false, p.fail(ctx, r, outcome(ReasonRefused, problem, time.Now()))
		}
	}
	if ctx.Err() != nil {
		return wait(0, WaitShutdown, nil), true, nil //nolint:nilerr // handing back is the answer
	}
	return wait(later(p.reads.left()), WaitAccount, fmt.Errorf("read the account: %w", err)), true, nil
}

// attempt is steps 1 to 3 of the order of effects. Between 1 and 2 nothing
// waits.
func (p *Provisioner) attempt(ctx context.Context, r *Record, m *Message, turn *pass) (Disposition, bool, error) {
	ctx, span := p.begin(ctx, "attempt")
	defer span.End()
	start := time.Now()
	r.begin(start, p.cfg.CreateTimeout)
	r.UpdatedAt = start
	concluded := false
	defer func() {
		if !concluded { // a panic: nothing may stay reserved for it
			p.book.Forget(r.Key)
		}
	}()
	if err := p.ports.Ledger.Intend(context.WithoutCancel(ctx), r); err != nil {
		return p.withdraw(ctx, r, m, err, turn)
	}
	if reason := p.tooLate(start, turn); reason != "" {
		return Disposition{}, false, p.conclude(ctx, r, Answer{Verdict: VerdictNeverSent, Detail: reason}, turn)
	}
	// The deadline counts from before the intent was stored: an observer that
	// waits as long from when it saw the intent cannot be too early.
	call, cancel := context.WithDeadline(context.WithoutCancel(withResends(ctx, span, r.attempt().Number)), start.Add(p.cfg.CreateTimeout))
	answer := p.ports.API.Create(call, r.Request)
	cancel()
	concluded = true
	return Disposition{}, false, p.conclude(ctx, r, answer, turn)
}

// tooLate says why the call of an intent is not made after all.
func (p *Provisioner) tooLate(start time.Time, turn *pass) string {
	if spent := time.Since(start); spent > p.cfg.CreateTimeout*3/4 {
		return fmt.Sprintf("storing the intent took %s, which left too little of the time for the call", spent.Round(time.Millisecond))
	}
	if b, on := p.gate.stops(turn); on {
		return "creates were paused by " + b.By + ": " + b.Reason
	}
	return ""
}

// withdraw takes back an intent that was not, or may not have been, stored
// with the name. No call was sent for it.
func (p *Provisioner) withdraw(ctx context.Context, r *Record, m *Message, cause error, turn *pass) (Disposition, bool, error) {
	if errors.Is(cause, ErrConflict) {
		return Disposition{}, false, fmt.Errorf("store the intent of %q: %w", r.Key, cause)
	}
	if taken, ok := errors.AsType[*NameTakenError](cause); ok {
		// Waiting for a name is no attempt: there may be thousands of such waits.
		tellNameTaken(ctx, r.attempt().Number)
		r.Attempts = slices.Clone(r.Attempts[:len(r.Attempts)-1])
		r.State, r.WaitReason, r.Search = StateAccepted, WaitName, nil
		p.book.Forget(r.Key)
		p.log.DebugContext(ctx, "a request waits for its name", "key", r.Key, "owner", taken.Owner)
		n := int(min(max(m.Deliveries, 2), maxTries))
		r.waits(time.Now(), taken)
		return wait(p.ceiling(n)/2+p.backoff(n)/2, WaitName, nil), true, p.store(ctx, r)
	}
	detail := "the intent could not be stored: " + cause.Error()
	if err := p.conclude(ctx, r, Answer{Verdict: VerdictNeverSent, Detail: detail}, turn); err != nil {
		return Disposition{}, false, err
	}
	return wait(p.backoff(r.fruitless()), WaitNeverSent, nil), true, nil
}
