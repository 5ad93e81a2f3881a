package provision

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// ReadControls changes the shared row that says how far the fleet may read, as
// Controls does the gate's.
type ReadControls interface {
	UpdateReads(ctx context.Context, change func(admission.Gate) (admission.Gate, bool)) (admission.Gate, error)
}

// ReadGate hands out the fleet's reads, so that a thousand look-ups at once do
// not overrun HostUp's limit on them. It is a Gate like that of the creates over
// a row of its own, and costs nothing until a read is answered with what a
// window holds, or with a 429. Where reads and creates draw on one budget their
// gate hands reads out, too, and the own row is for when unknown verdicts keep it
// closed. It is safe for concurrent use.
type ReadGate struct {
	*Gate

	creates *Gate
	log     *slog.Logger
	pause   func(closures int) time.Duration
	n       atomic.Uint64
}

// NewReadGate returns the gate of one replica beside that of its creates, whose
// name it shares. It is closed until the first Synced(true), and needs Run. A
// read takes at most within; after the nth 429 in a row the gate stays closed
// for pause(n), or for as long as HostUp asks.
func NewReadGate(controls ReadControls, creates *Gate, within time.Duration, pause func(n int) time.Duration, log *slog.Logger) *ReadGate {
	own := NewFleetGate(readRow{ReadControls: controls}, creates.source, within)
	return &ReadGate{Gate: own, creates: creates, pause: pause, log: log}
}

// readRow makes the row of the reads the one that a Gate changes. It has no
// brake and no caps.
type readRow struct {
	ReadControls
	Controls
}

func (r readRow) UpdateGate(ctx context.Context, change func(admission.Gate) (admission.Gate, bool)) (admission.Gate, error) {
	return r.UpdateReads(ctx, change)
}

// ReadsUsedUpError is why a read was not sent: the fleet's reads are used up
// for the time being.
type ReadsUsedUpError struct {
	// After is in how long it is worth asking again.
	After time.Duration
}

// Error implements error.
func (e *ReadsUsedUpError) Error() string {
	return fmt.Sprintf("not sent: HostUp's limit on reads is used up for %s", e.After.Round(time.Millisecond))
}

// tooManyRequests is RFC 6585, section 4.
const tooManyRequests = 429

// ReadAnswer is what a read's answer says of the limit.
type ReadAnswer struct {
	// Status is the HTTP status, 0 without an answer.
	Status int
	// RetryAfter and Rate are as in Answer.
	RetryAfter time.Duration
	Rate       admission.Rate
}

// Enter returns when a read may be sent, and what is to be called once with
// its answer. Where others have to be answered first it waits, for a second at
// most. Errors are *ReadsUsedUpError and that of ctx.
func (g *ReadGate) Enter(ctx context.Context) (leave func(ReadAnswer), err error) {
	key := "read " + strconv.FormatUint(g.n.Add(1), 36)
	for end := time.Now().Add(turnPause); ; {
		turn, c, shared := g.creates.enterRead(key)
		if turn != nil {
			return g.leaving(*turn), nil
		}
		if !shared {
			if turn, c = g.enter(key); turn != nil {
				return func(a ReadAnswer) { g.leaving(pass{uncounted: true})(a); g.answered(ctx, turn, a) }, nil
			}
		}
		left := time.Until(end)
		switch {
		case c.Reason == WaitLedger || c.Reason == WaitAuth:
			// Nobody can say, or this process only tries its key. The creates stand
			// still by then, and with them what reads most.
			return g.leaving(pass{uncounted: true}), nil
		case c.Reason != WaitTurn || left <= 0:
			g.forgo(key)
			g.creates.forgo(key)
			return nil, &ReadsUsedUpError{After: max(time.Until(c.Until), 0)}
		}
		wake := time.NewTimer(left)
		select {
		case <-c.changed:
		case <-wake.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
		wake.Stop()
		if err != nil {
			return nil, err
		}
	}
}

// leaving tells the gate of the creates what came of a read.
func (g *ReadGate) leaving(p pass) func(ReadAnswer) {
	return func(a ReadAnswer) { g.creates.leaveRead(p, a) }
}

// answered tells the gate what came of a read. One without an answer tells
// nothing of the limit.
func (g *ReadGate) answered(ctx context.Context, turn *pass, a ReadAnswer) {
	verdict := VerdictRefused
	switch a.Status {
	case 0:
		verdict = VerdictUnknown
	case tooManyRequests:
		verdict = VerdictThrottled
	}
	closed := g.leave(turn, Answer{Verdict: verdict, Status: a.Status, Rate: a.Rate}, closing{
		throttled: max(a.RetryAfter, g.pause(g.Row().Closures+1)),
	})
	if row := g.Row(); closed && row.Reason == admission.ReasonThrottled {
		g.log.WarnContext(ctx, "no reads of the account for a while, in the whole fleet", "for", row.Wait.Round(time.Millisecond).String(), "closures_in_a_row", row.Closures)
	}
}
