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
func (p *Provisioner) accepted(ctx context.Context, r *Record, since time.Time, m Message) (d Disposition, stop bool, err error) {
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
func (p *Provisioner) admitted(ctx context.Context, r *Record, m Message, facts admission.Facts, span trace.Span) (d Disposition, stop bool, err error) {
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
	turn, closure := p.gate.enter(r.Key, !since.IsZero())
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
func (p *Provisioner) wrongRegion(ctx context.Context, r *Record, m Message, f Fault) (Disposition, bool, error) {
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

// readsOfFacts is how many calls the account's facts take: limits and options.
const readsOfFacts = 2

// facts reads the account, unless that has failed too lately: one process
// knocks once, however many requests wait.
func (p *Provisioner) facts(ctx context.Context, oldest time.Time) (admission.Facts, error) {
	if p.reads.left() > 0 {
		return admission.Facts{}, errImpatient
	}
	began := time.Now()
	if asked := p.asked.Load(); (asked == nil || asked.Before(oldest)) && p.asking.CompareAndSwap(false, true) {
		p.gate.Reading(readsOfFacts)
		defer p.asking.Store(false)
	}
	facts, err := p.ports.Account.Facts(ctx, oldest)
	switch {
	case err == nil:
		p.asked.Store(&facts.AskedAt)
		p.meter.know(facts)
		p.reads.worked()
	case ctx.Err() == nil:
		re, _ := errors.AsType[*ReadError](err)
		if re != nil && re.Auth {
			p.meter.keyRefused(ctx)
		}
		p.reads.failed(began, func(n int) time.Duration {
			if re == nil || re.Auth {
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
func (p *Provisioner) attempt(ctx context.Context, r *Record, m Message, turn *pass) (Disposition, bool, error) {
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
func (p *Provisioner) withdraw(ctx context.Context, r *Record, m Message, cause error, turn *pass) (Disposition, bool, error) {
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

// conclude stores what came of the attempt in hand. A paid answer must not be
// lost, so it is offered to the ledger until it is taken or StoreTimeout ends,
// also when somebody has meanwhile given the attempt up for unknown: whoever
// made the call knows better.
func (p *Provisioner) conclude(ctx context.Context, r *Record, a Answer, turn *pass) error {
	p.meter.attempted(ctx, a)
	tellVerdict(ctx, r.attempt().Number, a)
	// Before it is stored: should this process end first, the line is all that
	// is left of a paid answer.
	p.log.InfoContext(ctx, "attempt", "key", r.Key, "attempt", r.attempt().Number, "verdict", a.Verdict,
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
