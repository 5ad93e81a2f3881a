package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/batch"
	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/provision"
)

const (
	// sendWindow is how many messages are on the way at once.
	sendWindow = 256
	// sendPatience is how long nothing may be confirmed before sending is given
	// up; sendPause is between two tries of one message.
	sendPatience = time.Minute
	sendPause    = 250 * time.Millisecond
	// sendGrace is how long an interrupted sending waits for answers that are
	// under way.
	sendGrace = 2 * time.Second
)

// JetStream's codes for what more tries do not mend.
const (
	codeStoreFailed   jetstream.ErrorCode = 10077 // a limit of the stream, with discard new
	codeNoResources   jetstream.ErrorCode = 10023
	codeNoStorage     jetstream.ErrorCode = 10047
	codeWrongStream   jetstream.ErrorCode = 10060
	codeTooLarge      jetstream.ErrorCode = 10054
	codeStreamOffline jetstream.ErrorCode = 10118
)

// sender publishes the orders of a batch in their order.
type sender struct {
	*submission

	mark, trace string
	onWay       []onWay
	// confirmed is when the broker last confirmed anything.
	confirmed time.Time
	any       bool
}

// onWay is a message whose answer is awaited.
type onWay struct {
	row    int
	msg    *nats.Msg
	answer jetstream.PubAckFuture // nil when it could not be sent
	err    error
}

// send publishes every order that the journal does not know to be sent, and
// returns when all are confirmed. Sending a message again is harmless: it has
// the same id, and for as long as the ledger remembers, the same key.
func (s *submission) send(ctx context.Context, mark string) error {
	p := s.progress("sending", func(c batch.Counts) int { return c.Sent })
	defer p.stop()
	w := &sender{submission: s, mark: mark, trace: s.traceparent(), confirmed: time.Now()}
	err := s.batch.Each(func(i int, r batch.Row) error { return w.row(ctx, i, r) })
	for err == nil && len(w.onWay) > 0 {
		err = w.await(ctx)
	}
	if err != nil {
		// What is confirmed until then need not be sent again.
		rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendGrace)
		defer cancel()
		for more := true; more && len(w.onWay) > 0; {
			more = w.collect(rest)
		}
	}
	return err
}

func (w *sender) row(ctx context.Context, i int, r batch.Row) error {
	if _, repeated := w.batch.Repeated(i); repeated {
		return nil
	}
	m, hash, err := w.message(r.Request)
	if err != nil {
		return err
	}
	w.batch.Sending(i, hash)
	if w.journal != nil && w.journal.Confirmed(i) {
		w.batch.Sent(i)
		return nil
	}
	for len(w.onWay) >= sendWindow {
		if err := w.await(ctx); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	o := onWay{row: i, msg: m}
	o.answer, o.err = w.js.PublishMsgAsync(again(m))
	w.onWay = append(w.onWay, o)
	return w.harvest()
}

// harvest takes the confirmations that have come, so that the journal has them
// soon.
func (w *sender) harvest() error {
	for len(w.onWay) > 0 && w.onWay[0].err == nil {
		select {
		case <-w.onWay[0].answer.Ok():
			if err := w.confirm(); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// message is the order on the wire. The mark of the submission makes a message
// of its own of what another submission has sent already, so that a rejection
// that was answered to that one is not taken for the answer to this one.
func (w *sender) message(r provision.Request) (*nats.Msg, string, error) {
	h, body, err := events.EncodeRequest(r, provision.JSON)
	if err != nil {
		return nil, "", err
	}
	body = fmt.Appendf(body[:len(body)-1], `,"submission":%q}`, w.mark)
	hash := events.BodyHash(body)
	m := &nats.Msg{Subject: w.subject(), Header: h, Data: body}
	m.Header.Set(nats.MsgIdHdr, provision.KeyHash(r.Key)+"."+hash)
	m.Header.Set(nats.ExpectedStreamHdr, w.Stream)
	if w.trace != "" {
		m.Header["traceparent"] = []string{w.trace}
	}
	return m, hash, nil
}

// again is a message that can be published once more: a publish writes its
// reply subject into it.
func again(m *nats.Msg) *nats.Msg {
	return &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}
}

// await waits for the answer to the oldest message on the way, and sends it
// again until the broker has it.
func (w *sender) await(ctx context.Context) error {
	o := w.onWay[0]
	err := o.err
	if err == nil {
		select {
		case <-o.answer.Ok():
		case err = <-o.answer.Err():
		case <-w.denials.refused:
			err = nats.ErrPermissionViolation
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	// At once at first: when a connection is lost, all that is on the way is.
	for wait := time.Duration(0); err != nil; wait = sendPause {
		if final := w.verdict(err); final != nil {
			return final
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
		_, err = w.js.PublishMsg(ctx, again(o.msg))
	}
	return w.confirm()
}

// collect takes an answer that comes by itself; false when none does.
func (w *sender) collect(ctx context.Context) bool {
	o := w.onWay[0]
	if o.err != nil {
		w.onWay = w.onWay[1:]
		return true
	}
	select {
	case <-o.answer.Ok():
		return w.confirm() == nil
	case err := <-o.answer.Err():
		w.onWay = w.onWay[1:]
		return err != nil
	case <-w.denials.refused:
		return false
	case <-ctx.Done():
		return false
	}
}

// confirm notes that the broker has the oldest message on the way.
func (w *sender) confirm() error {
	o := w.onWay[0]
	w.onWay = w.onWay[1:]
	w.confirmed, w.any = time.Now(), true
	w.batch.Sent(o.row)
	if w.journal == nil {
		return nil
	}
	return w.journal.Confirm(o.row)
}

// verdict says what is wrong, when more tries would not mend it.
func (w *sender) verdict(err error) error {
	subject := w.subject()
	select {
	case <-w.denials.refused:
		return fmt.Errorf("the NATS user may not publish to %s: permit it, or use other credentials", subject)
	default:
	}
	api, _ := errors.AsType[*jetstream.APIError](err)
	missing := errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)
	switch {
	case api != nil && (api.ErrorCode == codeStoreFailed || api.ErrorCode == codeNoResources || api.ErrorCode == codeNoStorage):
		return fmt.Errorf("the stream %s takes no more: %w: make it larger, or wait until the worker has taken some", w.Stream, err)
	case api != nil && api.ErrorCode == codeWrongStream:
		return fmt.Errorf("%s belongs to another stream than %s: WORKER_STREAM and WORKER_SUBJECT_PREFIX must be the worker's: %w", subject, w.Stream, err)
	case api != nil && (api.ErrorCode == codeTooLarge || api.ErrorCode == codeStreamOffline):
		return fmt.Errorf("the stream %s does not take it: %w", w.Stream, err)
	case missing && !w.any:
		// Later it may be an election.
		return fmt.Errorf("no stream takes %s: create or mend %s with `worker setup`", subject, w.Stream)
	case time.Since(w.confirmed) > sendPatience:
		return fmt.Errorf("nothing was confirmed within %s: %w", sendPatience, err)
	default:
		return nil
	}
}
