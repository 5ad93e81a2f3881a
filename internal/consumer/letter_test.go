package consumer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/provision"
)

// buried makes a stream of requests with one in it, buries it, and returns it
// as a letter.
func buried(t *testing.T, js jetstream.JetStream, m *nats.Msg) Letter {
	t.Helper()
	var dead jetstream.Stream
	for _, s := range []jetstream.StreamConfig{
		{Name: "DEPLOY_DEAD", Subjects: []string{"deploy.dead"}},
		{Name: "DEPLOY", Subjects: []string{"deploy.requested.>"}, Retention: jetstream.WorkQueuePolicy},
	} {
		var err error
		if dead, err = js.CreateStream(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	cons, err := dead.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	got, err := cons.Next()
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Concurrency: 1, DeadSubject: "deploy.dead", DeadStream: "DEPLOY_DEAD"}, Ports{JetStream: js, Meter: noop.NewMeterProvider().Meter("")})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.bury(t.Context(), got, provision.Defect{Reason: provision.DeadPanic, Detail: "no luck"}); err != nil {
		t.Fatal(err)
	}
	letters, err := OpenLetters(t.Context(), js, "DEPLOY_DEAD")
	if err != nil {
		t.Fatal(err)
	}
	l, err := letters.Get(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := letters.Get(t.Context(), 2); !errors.Is(err, ErrNoLetter) {
		t.Errorf("a letter that does not exist: %v", err)
	}
	if _, err := letters.Get(t.Context(), 0); !errors.Is(err, ErrNoLetter) {
		t.Errorf("sequence 0: %v", err)
	}
	var listed []Letter
	if err := letters.Each(t.Context(), func(l Letter) error { listed = append(listed, l); return nil }); err != nil {
		t.Fatal(err)
	}
	bare := l
	bare.Body = nil
	// What the broker adds to a message without its body is not the request's.
	if diff := cmp.Diff([]Letter{bare}, listed); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	return l
}

// A letter has the request as it was, and gives it back so that the worker reads
// the same and the broker neither drops nor obeys it.
func TestLetterGivesTheRequestBack(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	m := nats.NewMsg("deploy.requested.batch")
	m.Data = []byte("\x00\xff")
	m.Header = nats.Header{
		"Nats-Msg-Id": {"theirs"}, "Nats-Expected-Stream": {"DEPLOY"}, "traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, "X-Odd": {"a", "b"},
	}
	l := buried(t, js, m)
	if l.Time.IsZero() || time.Since(l.Time) > time.Hour || l.ID == "" {
		t.Errorf("time %s, id %q", l.Time, l.ID)
	}
	l.Time, l.ID = time.Time{}, ""
	want := Letter{
		Sequence: 1, Reason: provision.DeadPanic, Detail: "no luck", Subject: "deploy.requested.batch", Stream: "DEPLOY", Original: 1, Deliveries: 1,
		Headers: nats.Header{"nats-msg-id": {"theirs"}, "nats-expected-stream": {"DEPLOY"}, "traceparent": m.Header["traceparent"], "X-Odd": {"a", "b"}},
		Body:    m.Data, Size: 2,
	}
	if diff := cmp.Diff(want, l); diff != "" {
		t.Errorf("letter (-want +got):\n%s", diff)
	}
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	again := l.Request("deploy.requested", "ann", now)
	if diff := cmp.Diff(nats.Header{
		"nats-msg-id": {"theirs"}, "traceparent": m.Header["traceparent"], "X-Odd": {"a", "b"},
		"deploy-replay-of": {"1"}, "deploy-replay-time": {"2026-12-01T12:00:00Z"}, "deploy-replay-by": {"ann"},
	}, again.Header); diff != "" || again.Subject != m.Subject || string(again.Data) != string(m.Data) {
		t.Errorf("request on %s: %q (-want +got):\n%s", again.Subject, again.Data, diff)
	}
	// Within the stream's window, in which it drops the same id.
	if ack, err := js.PublishMsg(t.Context(), m); err != nil || !ack.Duplicate {
		t.Fatalf("the same message again: %+v, %v", ack, err)
	}
	if ack, err := js.PublishMsg(t.Context(), again); err != nil || ack.Duplicate {
		t.Errorf("the replay: %+v, %v", ack, err)
	}
	l.Subject = ""
	if got := l.Request("deploy.requested", "ann", now).Subject; got != "deploy.requested" {
		t.Errorf("the subject of a letter without one is %q", got)
	}
}

// A replay may come days later: its span is linked to the requester's and not
// part of that trace.
func TestReplayIsLinkedOnly(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for about, tc := range map[string]struct {
		deliveries uint64
		header     nats.Header
		child      bool
	}{
		"first delivery": {1, nil, true},
		"redelivery":     {2, nil, false},
		"replay":         {1, nats.Header{HeaderReplayOf: {"7"}}, false},
	} {
		msg := provision.Message{Deliveries: tc.deliveries, Trace: provision.Trace{Parent: parent}}
		ctx, opts := (&lane{c: &Consumer{}}).related(context.Background(), &strandedMsg{raw: &jetstream.RawStreamMsg{Header: tc.header}}, msg)
		if child := trace.SpanContextFromContext(ctx).IsValid(); child != tc.child {
			t.Errorf("%s: a child is %t, want %t", about, child, tc.child)
		}
		started := trace.NewSpanStartConfig(opts...)
		if links := started.Links(); len(links) != 1 || links[0].SpanContext.SpanID().String() != "00f067aa0ba902b7" {
			t.Errorf("%s: links %v", about, links)
		}
	}
}
