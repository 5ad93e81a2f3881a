package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/batch"
	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/provision"
)

// submission is one run of submit.
type submission struct {
	*submitCmd

	t         *terminal
	batch     *batch.Batch
	input     *batch.Input
	journal   *batch.Journal // nil for none
	startedAt time.Time      // of the first run, when this one is resumed
	began     time.Time

	js      jetstream.JetStream
	denials *denials
	csvOut  *wholeFile // nil for none
	// lookErr is why the ledger cannot be read; it is written by the looks and
	// read after them.
	lookErr error
}

// heading is what the journal says of this submission.
func (s *submission) heading() batch.Heading {
	return batch.Heading{
		Submission: rand.Text()[:16], Sum: s.batch.Sum(), Rows: s.batch.Len(),
		KeyPrefix: s.KeyPrefix, Subject: s.subject(), StartedAt: s.startedAt.UTC(),
	}
}

// subject is where the orders go.
func (s *submission) subject() string {
	top := s.topology()
	if s.Lane == "batch" || s.Lane == "auto" && s.batch.Counts().Orders > 1 {
		return top.BatchSubject()
	}
	return top.RequestSubject()
}

// run sends, waits and tells.
func (s *submission) run(ctx context.Context) (err error) {
	heading := s.heading()
	if err := s.earlier(heading); err != nil {
		return err
	}
	if s.CSVOut != "" {
		if s.csvOut, err = createCSV(s.CSVOut, s.input); err != nil {
			return usageError{err}
		}
		defer s.csvOut.discard()
	}
	nc, js, err := broker.Connect(s.options())
	if err != nil {
		return fmt.Errorf("%w\nnothing was sent; start a server, or set NATS_URL", err)
	}
	defer nc.Close()
	s.js, s.denials = js, newDenials(s.subject())
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.denials.note(err) })

	answers, stopAnswers := context.WithCancel(ctx)
	defer stopAnswers()
	var broken <-chan error
	if s.Wait {
		if err = s.taken(ctx); err == nil {
			broken, err = s.follow(answers)
		}
		if err != nil {
			return fmt.Errorf("%w\nnothing was sent", s.denials.explain(err))
		}
	}
	if err := s.begin(&heading); err != nil {
		return err
	}
	err = s.send(ctx, heading.Submission)
	switch {
	case ctx.Err() != nil:
		return s.interrupted(ctx)
	case err != nil:
		return s.unsent(err)
	case !s.Wait:
		return s.finish(s.result())
	}
	err = s.wait(ctx, answers, broken)
	switch {
	case ctx.Err() != nil:
		return s.interrupted(ctx)
	case err != nil:
		return fmt.Errorf("%w\n%s", err, s.goOn())
	}
	if err := s.result(); err != nil {
		return err
	}
	return s.finish(s.verdict())
}

// earlier looks for the journal of a submission that was interrupted.
func (s *submission) earlier(heading batch.Heading) error {
	path := s.journalPath()
	if path == "" {
		return nil
	}
	j, err := batch.ReadJournal(path)
	switch {
	case err != nil:
		return usageError{err}
	case j == nil:
		if s.Resume {
			_, _ = fmt.Fprintf(s.t.err, "worker: there is no journal %s, so this begins at the first row\n", path)
		}
		return nil
	}
	about := fmt.Sprintf("%s is the journal of a submission that began %s and was interrupted after %d of %d rows had been sent",
		path, ago(s.startedAt, j.StartedAt), j.Count(), j.Rows)
	const anew = "remove the journal to begin anew (orders with the same keys are not ordered twice)"
	differs := j.Differs(heading)
	switch {
	case differs != "":
		return usageError{fmt.Errorf("%s, but %s: nothing was sent\n%s", about, differs, anew)}
	case !s.Resume:
		return usageError{fmt.Errorf("%s: nothing was sent\ngo on with --resume, or %s", about, anew)}
	}
	s.journal = j
	s.startedAt = j.StartedAt
	return nil
}

// begin opens the journal; a resumed one says what the messages are marked
// with.
func (s *submission) begin(heading *batch.Heading) error {
	if s.journal != nil {
		*heading = s.journal.Heading
		return s.journal.Continue()
	}
	path := s.journalPath()
	if path == "" {
		return nil
	}
	var err error
	if s.journal, err = batch.CreateJournal(path, *heading); err != nil {
		return usageError{fmt.Errorf("%w\nnothing was sent; name a place for the journal with --journal", err)}
	}
	return nil
}

// finish removes the journal unless somebody may want to go on with it.
func (s *submission) finish(err error) error {
	if s.journal == nil {
		return err
	}
	if s.Wait && s.batch.Counts().Answered() < s.batch.Counts().Orders {
		return errors.Join(err, s.journal.Close())
	}
	return errors.Join(err, s.journal.Remove())
}

// unsent says that not everything could be sent.
func (s *submission) unsent(err error) error {
	c := s.batch.Counts()
	if j := s.journal; j != nil && j.Count() == 0 {
		// There is nothing to resume; nobody should have to clear it away.
		err, s.journal = errors.Join(err, j.Remove()), nil
	}
	err = fmt.Errorf("%w\n%d of %d orders were sent; %s", s.denials.explain(err), c.Sent, c.Orders, s.goOn())
	if s.journal != nil {
		err = errors.Join(err, s.journal.Close())
	}
	if c.Sent > 0 {
		return partlyError{err}
	}
	return err
}

// interrupted tells how to go on.
func (s *submission) interrupted(ctx context.Context) error {
	c := s.batch.Counts()
	_, _ = fmt.Fprintf(s.t.err, "worker: %d of %d orders were sent, and go on by themselves; %d are answered\n%s\n", c.Sent, c.Orders, c.Answered(), s.goOn())
	if s.journal != nil {
		if err := s.journal.Close(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// goOn is what to type next.
func (s *submission) goOn() string {
	if s.File == "" || s.journal == nil {
		return "to go on, send the same again: what was ordered is not ordered twice"
	}
	words := []string{"worker submit -f", shellWord(s.File)}
	add := func(flag, value string) {
		if value != "" {
			words = append(words, flag, shellWord(value))
		}
	}
	add("--journal", s.Journal)
	add("--key-prefix", s.KeyPrefix)
	add("--csv-out", s.CSVOut)
	if s.Lane != "auto" {
		add("--lane", s.Lane)
	}
	if s.Wait {
		words = append(words, "--wait")
	}
	return "to go on: " + strings.Join(append(words, "--resume"), " ")
}

// traceparent is the trace to put on the messages, "" for none.
func (s *submission) traceparent() string {
	if s.Trace == "" {
		return ""
	}
	if !trace.SpanContextFromContext(events.Extract(context.Background(), provision.Trace{Parent: s.Trace})).IsValid() {
		_, _ = fmt.Fprintf(s.t.err, "worker: TRACEPARENT=%q is no W3C trace context; the orders begin traces of their own\n", s.Trace)
		return ""
	}
	return s.Trace
}

// denials are what the broker did not permit. It says so apart from the call,
// which gets no answer.
type denials struct {
	mu   sync.Mutex
	last string
	// subject is what has to be published to; refused is closed when that is not
	// permitted.
	subject string
	refused chan struct{}
}

func newDenials(subject string) *denials {
	return &denials{subject: subject, refused: make(chan struct{})}
}

func (d *denials) note(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = err.Error()
	if !strings.Contains(strings.ToLower(d.last), `for publish to "`+strings.ToLower(d.subject)+`"`) {
		return
	}
	select {
	case <-d.refused:
	default:
		close(d.refused)
	}
}

// explain adds what was not permitted to an error that may come from it.
func (d *denials) explain(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == "" || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w (%s)", err, d.last)
}
