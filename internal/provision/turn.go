package provision

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// leave hands a turn back with what came of it, and its share of the caps when
// nothing was bought. A turn is handed back once.
func (p *Provisioner) leave(ctx context.Context, r *Record, a Answer, turn *pass) {
	if turn == nil || turn.used {
		return
	}
	closed := p.gate.leave(turn, a, closing{
		throttled: p.closure(a.RetryAfter, r.fruitless()),
		unknowns:  p.cfg.BreakerUnknowns, pause: p.breakerPause,
	})
	if closed {
		p.announceClosure(ctx)
	}
	if turn.purchase != nil && a.Verdict != VerdictCreated && a.Verdict != VerdictUnknown {
		p.refund(ctx, *turn.purchase)
	}
}

// raise closes the gate after a read that was throttled, the nth in a row.
func (p *Provisioner) raise(ctx context.Context, re *ReadError, n int) {
	_, before := p.gate.Closed()
	p.gate.Raise(p.closure(re.RetryAfter, n), re.Rate)
	if _, after := p.gate.Closed(); after && !before {
		p.announceClosure(ctx)
	}
}

// closure is how long a 429 closes the gate: what the server wished, or longer
// by the own backoff after as many closures as there have been in a row.
func (p *Provisioner) closure(wish time.Duration, n int) time.Duration {
	return max(wish, p.backoff(max(n, p.gate.Row().Closures+1)))
}

func (p *Provisioner) announceClosure(ctx context.Context) {
	row := p.gate.Row()
	p.meter.gateClosed(ctx, row.Reason)
	p.log.WarnContext(ctx, "no calls to HostUp for a while, in the whole fleet", "reason", row.Reason, "for", row.Wait.Round(time.Millisecond).String(), "closures_in_a_row", row.Closures)
}

// breakerFactor is how many times the longest backoff the longest pause of the
// breaker is: 5 min at the defaults (contract: WORKER_BREAKER_UNKNOWNS).
const breakerFactor = 5

// breakerPause is the nth pause in a row after unknown verdicts.
func (p *Provisioner) breakerPause(n int) time.Duration {
	d, longest := p.cfg.BackoffInitial, breakerFactor*p.cfg.BackoffMax
	for range min(n+1, 62) {
		if d = min(2*d, longest); d == longest {
			break
		}
	}
	return d/2 + rand.N(d/2+1)
}

// errNoPrice keeps a cap on costs from being void.
var errNoPrice = errors.New("HostUp's answer has no prices, so WORKER_MAX_HOURLY_COST cannot be kept and nothing is bought")

// afford enters the purchase against the fleet's caps; over means that there is
// no turn for it now. A cap that is reached puts the brake on: only a person
// lifts it.
func (p *Provisioner) afford(ctx context.Context, r *Record, turn *pass, facts admission.Facts) (d Disposition, over bool) {
	if !p.cfg.Caps.Set() {
		return Disposition{}, false
	}
	buy := admission.Purchase{At: time.Now(), Price: facts.Prices.PerHour(r.Request.Resources())}
	if buy.Price <= 0 && p.cfg.Caps.HourlyCost > 0 {
		return wait(p.backoff(1), WaitAccount, errNoPrice), true
	}
	reached := admission.CapNone
	_, err := p.ports.Controls.UpdateSpend(ctx, func(s admission.Spend) (admission.Spend, bool) {
		next, exceeded := s.Enter(buy, p.cfg.Caps)
		reached = exceeded
		return next, exceeded == admission.CapNone
	})
	if err != nil {
		return wait(p.backoff(1), WaitLedger, err), true
	}
	if reached == admission.CapNone {
		turn.purchase = &buy
		return Disposition{}, false
	}
	p.trip(ctx, func(b admission.Brake) (admission.Brake, bool) { return b.Reach(time.Now(), automatic, reached) })
	return p.behindGate(Closure{Reason: WaitPaused}), true
}

// refund takes a purchase out of the caps that bought nothing. Should that fail
// the count is too high, which is the safe side.
func (p *Provisioner) refund(ctx context.Context, bought admission.Purchase) {
	p.after(ctx, func(ctx context.Context) {
		_, err := p.ports.Controls.UpdateSpend(ctx, func(s admission.Spend) (admission.Spend, bool) {
			return s.Remove(bought), true
		})
		if err != nil {
			p.log.WarnContext(ctx, "could not take a create out of the caps that bought nothing", "error", err)
		}
	})
}

// automatic is who sets the brake when nobody does.
const automatic = "deploy-worker"

// trip puts the brake on, here at once and for the whole fleet as soon as that
// can be stored.
func (p *Provisioner) trip(ctx context.Context, set func(admission.Brake) (admission.Brake, bool)) {
	if p.gate.trip(set) {
		p.tellBrake(ctx)
	}
}

// BrakeChanged obeys the brake as it is stored, and says so in the log when it
// was set or lifted.
func (p *Provisioner) BrakeChanged(ctx context.Context, b admission.Brake) {
	if p.gate.BrakeChanged(b) {
		p.tellBrake(ctx)
	}
}

func (p *Provisioner) tellBrake(ctx context.Context) {
	if b, on := p.gate.Braked(); on {
		p.log.ErrorContext(ctx, "creates are paused in the whole fleet until `worker resume`", "reason", b.Reason, "by", b.By, "since", b.At)
	} else {
		p.log.WarnContext(ctx, "creates go on", "reason", b.Reason, "by", b.By)
	}
}

// Suspect puts the brake on when an audit found servers that may have been
// bought twice, unless a person has lifted it for the same ones before.
func (p *Provisioner) Suspect(ctx context.Context, found []Finding) {
	var doubles []string
	for _, f := range found {
		if f.Finding == FindingSuspectedDouble {
			doubles = append(doubles, f.VPSID)
		}
	}
	if len(doubles) == 0 {
		return
	}
	reason := "the audit suspects that these servers were bought twice: " + strings.Join(doubles, ", ")
	p.trip(ctx, func(b admission.Brake) (admission.Brake, bool) {
		return b.Suspect(time.Now(), automatic, reason, doubles)
	})
}
