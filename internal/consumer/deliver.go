package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// deliver takes one delivery from the broker to its answer.
func (l *lane) deliver(ctx context.Context, m jetstream.Msg) {
	if ctx.Err() != nil {
		l.handBack(ctx, m)
		return
	}
	l.c.meter.inWork(ctx, 1)
	defer l.c.meter.inWork(ctx, -1)
	l.handle(ctx, m)
}

// handBack returns what was pulled while shutting down: nothing was begun.
func (l *lane) handBack(ctx context.Context, m jetstream.Msg) {
	l.inHand.remove(m)
	l.answer(ctx, m, provision.Disposition{Action: provision.Retry, Result: provision.ResultWaiting, Reason: provision.WaitShutdown})
}

// handle reads the message, gives it to the core and its answer to the broker,
// under one span.
func (l *lane) handle(ctx context.Context, m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		// Only a message that did not come from a consumer has none.
		l.answer(ctx, m, provision.Disposition{Action: provision.Retry, Result: provision.ResultWaiting, Reason: provision.WaitLedger, After: time.Second, Err: err})
		return
	}
	ctx, span, d := l.ask(ctx, m, meta)
	defer span.End()
	tellResult(span, d)
	l.answer(ctx, m, d)
}

// ask reads the message, starts its span and gives it to the core. It is the
// one place that recovers a panic.
func (l *lane) ask(ctx context.Context, m jetstream.Msg, meta *jetstream.MsgMetadata) (inside context.Context, span trace.Span, d provision.Disposition) {
	defer func() {
		if p := recover(); p != nil {
			if span == nil { // the message could not even be read
				inside, span = ctx, noSpan
			}
			d = l.c.panicked(inside, meta, p)
		}
	}()
	msg := l.c.ports.Decode(m.Headers(), m.Data())
	msg.Stream, msg.Sequence = meta.Stream, meta.Sequence.Stream
	msg.StoredAt, msg.Deliveries = meta.Timestamp, meta.NumDelivered
	// What is new is told with each message, what waits is asked for now and then.
	msg.Waiting, msg.Queued = int(l.crowd.waiting.Load()), int(max(l.crowd.queued.Load(), int64(meta.NumPending)))
	inside, span = l.begin(ctx, m, msg)
	began := time.Now()
	defer func() { l.c.meter.processed(inside, l.name, m.Subject(), began, d) }()
	d = l.c.ports.Handler.Handle(inside, msg)
	l.c.panics.forget(meta.Sequence.Stream)
	l.c.log(inside, msg, d)
	return inside, span, d
}

// log writes the one line about a delivery.
func (c *Consumer) log(ctx context.Context, msg provision.Message, d provision.Disposition) {
	logAnswer(ctx, c.ports.Log, d, "stream_sequence", msg.Sequence, "deliveries", msg.Deliveries)
}

// logAnswer writes the one line about an answer of the core. Waiting is no news
// unless something is wrong.
func logAnswer(ctx context.Context, log *slog.Logger, d provision.Disposition, more ...any) {
	attrs := append([]any{
		"result", string(d.Result), "key", d.Key, "reason", d.Reason, "attempts", d.Attempts,
		"attempt", d.Attempt, "verdict", string(d.Verdict), "request_id", d.RequestID, "vps_id", d.VPSID,
	}, more...)
	switch {
	case d.Err != nil:
		log.WarnContext(ctx, "request waits", append(attrs, "after", d.After.String(), "error", d.Err)...)
	case d.Action == provision.Retry:
		if log.Enabled(ctx, slog.LevelDebug) {
			log.DebugContext(ctx, "request waits", append(attrs, "after", d.After.String())...)
		}
	case d.Action == provision.Dead:
		log.WarnContext(ctx, "request goes to the dead letters", append(attrs, "detail", d.Defect.Detail)...)
	default:
		log.InfoContext(ctx, "request answered", attrs...)
	}
}

// answer is the one switch from the core's disposition to the broker. An ack
// that is lost costs one redelivery that finds the record done.
func (l *lane) answer(ctx context.Context, m jetstream.Msg, d provision.Disposition) {
	var err error
	switch d.Action {
	case provision.Done:
		err = l.settle(ctx, m, "ack", 0, m.Ack)
	case provision.Dead:
		if err = l.c.bury(context.WithoutCancel(ctx), m, *d.Defect); err == nil {
			l.c.meter.dead(ctx, d.Defect.Reason)
			err = l.settle(ctx, m, "term", 0, func() error { return m.TermWithReason(string(d.Defect.Reason)) })
			break
		}
		d.After = time.Second
		l.c.ports.Log.ErrorContext(ctx, "the dead letter could not be stored, the message stays in the stream", "error", err)
		fallthrough
	case provision.Retry:
		err = l.settle(ctx, m, "nak", d.After, func() error { return m.NakWithDelay(d.After) })
	}
	if err != nil {
		l.c.ports.Log.WarnContext(ctx, "the broker was not told what became of a message; it will be redelivered", "action", fmt.Sprint(d.Action), "key", d.Key, "error", err)
	}
}

// settle tells the broker what became of a message, under a span and counted.
func (l *lane) settle(ctx context.Context, m jetstream.Msg, operation string, after time.Duration, tell func() error) error {
	span, began := l.settling(ctx, m, operation), time.Now()
	err := tell()
	settled(span, err, after)
	l.c.meter.settled(ctx, l.name, operation, m.Subject(), began, err)
	return err
}

// maxPanics is how often one message may bring the handler down before it
// goes to the dead letters.
const maxPanics = 3

func (c *Consumer) panicked(ctx context.Context, meta *jetstream.MsgMetadata, p any) provision.Disposition {
	n := c.panics.count(meta.Sequence.Stream)
	c.meter.panicked(ctx)
	c.ports.Log.ErrorContext(ctx, "handling a message panicked", "panic", fmt.Sprint(p), "stream_sequence", meta.Sequence.Stream, "times", n, "stack", string(debug.Stack()))
	if n >= maxPanics {
		defect := provision.Defect{Reason: provision.DeadPanic, Detail: fmt.Sprintf("the handler panicked %d times, last: %v", n, p)}
		return provision.Disposition{Action: provision.Dead, Defect: &defect, Result: provision.ResultDead, Reason: string(defect.Reason)}
	}
	return provision.Disposition{Action: provision.Retry, After: time.Second << n, Result: provision.ResultWaiting, Reason: "panic"}
}

// panics counts panics by stream sequence, in this process.
type panics struct {
	mu    sync.Mutex
	bySeq map[uint64]int
}

func (p *panics) count(seq uint64) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bySeq == nil {
		p.bySeq = make(map[uint64]int)
	}
	p.bySeq[seq]++
	return p.bySeq[seq]
}

func (p *panics) forget(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.bySeq, seq)
}
