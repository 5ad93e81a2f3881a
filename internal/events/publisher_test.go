//go:build !fuzz

package events

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// jetStream starts a broker with the events stream, of one replica.
func jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker does not start")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "DEPLOY_EVENTS", Subjects: []string{"deploy.provisioning", "deploy.failed", "deploy.held"}, Storage: jetstream.MemoryStorage,
	}); err != nil {
		t.Fatal(err)
	}
	return js
}

func TestPublishStores(t *testing.T) {
	t.Parallel()
	js := jetStream(t)
	p := NewPublisher(PublisherConfig{JetStream: js, Stream: "DEPLOY_EVENTS"})
	sent := []provision.Event{provisioningEvent(), failedEvent(), rejectedEvent(), heldEvent()}
	for _, e := range append(sent, sent...) { // twice: the second time is a duplicate
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := js.Stream(t.Context(), "DEPLOY_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().State.Msgs; got != uint64(len(sent)) {
		t.Fatalf("%d messages are stored, want %d", got, len(sent))
	}
	for i, e := range sent {
		msg, err := stream.GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeEvent(msg.Header, msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != e.ID || got.Kind != e.Kind || got.Trace != e.Trace || got.CausationID != e.CausationID || msg.Subject != "deploy."+string(e.Kind) {
			t.Errorf("on %s: %+v", msg.Subject, got)
		}
	}
}

func TestPublishRefusals(t *testing.T) {
	t.Parallel()
	js := jetStream(t)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"other.>"}}); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		prefix string
		event  provision.Event
		is     error
		says   string
	}{
		"no stream":    {t.Context(), "nowhere", failedEvent(), jetstream.ErrNoStreamResponse, "publish nowhere.failed "},
		"other stream": {t.Context(), "other", failedEvent(), nil, "expected stream does not match"},
		"cancelled":    {cancelled, "", failedEvent(), context.Canceled, "publish deploy.failed "},
		"unknown kind": {t.Context(), "", provision.Event{ID: "x"}, nil, "no event of kind"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := NewPublisher(PublisherConfig{JetStream: js, Prefix: c.prefix, Stream: "DEPLOY_EVENTS"}).Publish(c.ctx, c.event)
			if err == nil || !strings.Contains(err.Error(), c.says) || (c.is != nil && !errors.Is(err, c.is)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// script answers publishes one after another.
type script struct {
	errs []error
	sent []*nats.Msg
}

func (s *script) PublishMsg(ctx context.Context, msg *nats.Msg, _ ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	s.sent = append(s.sent, msg)
	if len(s.errs) == 0 {
		return &jetstream.PubAck{Stream: "S", Sequence: 1}, nil
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	if errors.Is(err, errHang) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, err
}

var errHang = errors.New("hang")

func inProcess() error {
	return fmt.Errorf("nats: %w", &jetstream.APIError{Code: 409, ErrorCode: 10158, Description: "duplicate message id is in process"})
}

func TestPublishWaitsForADuplicateInProcess(t *testing.T) {
	t.Parallel()
	s := &script{errs: []error{inProcess(), inProcess()}}
	if err := NewPublisher(PublisherConfig{JetStream: s}).Publish(t.Context(), failedEvent()); err != nil || len(s.sent) != 3 {
		t.Errorf("%v after %d tries", err, len(s.sent))
	}
	s = &script{errs: []error{inProcess(), inProcess(), inProcess(), inProcess(), inProcess()}}
	err := NewPublisher(PublisherConfig{JetStream: s, Timeout: 30 * time.Millisecond}).Publish(t.Context(), failedEvent())
	if !errors.Is(err, context.DeadlineExceeded) || code(err) != errDuplicateInProcess {
		t.Errorf("at the timeout: %v", err)
	}
}

func TestPublishTimesOutAndDoesNotRepeat(t *testing.T) {
	t.Parallel()
	s := &script{errs: []error{errHang}}
	err := NewPublisher(PublisherConfig{JetStream: s, Timeout: time.Millisecond}).Publish(t.Context(), failedEvent())
	if !errors.Is(err, context.DeadlineExceeded) || len(s.sent) != 1 {
		t.Errorf("%v after %d tries", err, len(s.sent))
	}
}

// tracer returns one whose finished spans can be looked at.
func tracer(t *testing.T, sampler sdktrace.Sampler) (trace.Tracer, *tracetest.SpanRecorder) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder), sdktrace.WithSampler(sampler))
	t.Cleanup(func() { _ = provider.Shutdown(context.WithoutCancel(t.Context())) })
	return provider.Tracer("test"), recorder
}

func TestPublishSpan(t *testing.T) {
	t.Parallel()
	tr, recorder := tracer(t, sdktrace.AlwaysSample())
	s := &script{errs: []error{nil, inProcess()}}
	e := provisioningEvent()
	peer := func() []attribute.KeyValue { return []attribute.KeyValue{attribute.String("server.address", "n1")} }
	if err := NewPublisher(PublisherConfig{JetStream: s, Tracer: tr, Peer: peer}).Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	span := recorder.Ended()[0]
	if span.Name() != "publish deploy.provisioning" || span.SpanKind() != trace.SpanKindProducer || span.Parent().SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("span %s, kind %s, parent %s", span.Name(), span.SpanKind(), span.Parent().SpanID())
	}
	want := "00-0af7651916cd43dd8448eb211c80319c-" + span.SpanContext().SpanID().String() + "-01"
	if h := s.sent[0].Header; header(h, "traceparent") != want || header(h, "tracestate") != "a=b" {
		t.Errorf("headers %v, want traceparent %s", h, want)
	}
	attrs := map[attribute.Key]string{}
	for _, kv := range span.Attributes() {
		attrs[kv.Key] = kv.Value.String()
	}
	wantAttrs := map[attribute.Key]string{
		"messaging.system": "nats", "messaging.operation.name": "publish", "messaging.operation.type": "send",
		"messaging.destination.name": "deploy.provisioning", "messaging.message.id": e.ID, "messaging.message.conversation_id": "order-1001",
		"messaging.message.body.size": strconv.Itoa(len(s.sent[0].Data)), "cloudevents.event_id": e.ID,
		"cloudevents.event_source": "/hostup/deploy-worker", "cloudevents.event_type": "se.hostup.deploy.provisioning.v1",
		"cloudevents.event_subject": "order-1001", "cloudevents.event_spec_version": "1.0", "server.address": "n1",
	}
	if diff := cmp.Diff(wantAttrs, attrs); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

func TestPublishSpanOfAnError(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"timeout":   context.DeadlineExceeded,
		"canceled":  context.Canceled,
		"no_stream": jetstream.ErrNoStreamResponse,
		"10060":     &jetstream.APIError{ErrorCode: 10060, Description: "expected stream does not match"},
		"_OTHER":    errors.New("something else"),
	} {
		tr, recorder := tracer(t, sdktrace.AlwaysSample())
		if NewPublisher(PublisherConfig{JetStream: &script{errs: []error{err}}, Tracer: tr}).Publish(t.Context(), heldEvent()) == nil {
			t.Errorf("%v: no error", err)
		}
		span := recorder.Ended()[0]
		got := span.Attributes()[len(span.Attributes())-1]
		if span.Status().Code != codes.Error || got.Key != "error.type" || got.Value.AsString() != want {
			t.Errorf("status %v, %v; want error.type %s", span.Status(), got, want)
		}
	}
}

// A redelivery has a trace of its own, but what it publishes answers the
// request, and belongs to the request's trace.
func TestPublishFromAnotherTrace(t *testing.T) {
	t.Parallel()
	tr, recorder := tracer(t, sdktrace.AlwaysSample())
	ctx, process := tr.Start(t.Context(), "process")
	s := &script{}
	e := provisioningEvent()
	e.Trace.Baggage = "tenant=7"
	if err := NewPublisher(PublisherConfig{JetStream: s, Tracer: tr}).Publish(ctx, e); err != nil {
		t.Fatal(err)
	}
	process.End()
	span := recorder.Ended()[0]
	if got := span.Parent().SpanID().String(); got != "b7ad6b7169203331" {
		t.Errorf("the parent is %s, want the request's span", got)
	}
	if links := span.Links(); len(links) != 1 || !links[0].SpanContext.Equal(process.SpanContext()) {
		t.Errorf("links %v, want one to the redelivery's span", links)
	}
	want := provision.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-" + span.SpanContext().SpanID().String() + "-01", State: "a=b", Baggage: "tenant=7"}
	if got := traceOf(s.sent[0].Header, provision.Trace{}); got != want {
		t.Errorf("the event has %+v, want %+v", got, want)
	}
}

// The request's trace goes on unchanged unless a span that is exported takes
// its place.
func TestPublishTrace(t *testing.T) {
	t.Parallel()
	recording, _ := tracer(t, sdktrace.AlwaysSample())
	dropping, _ := tracer(t, sdktrace.NeverSample())
	e := provisioningEvent()
	live, span := recording.Start(Extract(t.Context(), provision.Trace{Parent: "00-11111111111111111111111111111111-2222222222222222-01"}), "process")
	defer span.End()
	for name, c := range map[string]struct {
		ctx    context.Context
		tracer trace.Tracer
		want   provision.Trace
	}{
		"no tracer":                 {t.Context(), nil, e.Trace},
		"nothing sampled":           {t.Context(), dropping, e.Trace},
		"a remote span in ctx":      {Extract(t.Context(), e.Trace), nil, e.Trace},
		"a live span and no tracer": {live, nil, e.Trace},
	} {
		s := &script{}
		if err := NewPublisher(PublisherConfig{JetStream: s, Tracer: c.tracer}).Publish(c.ctx, e); err != nil {
			t.Fatal(err)
		}
		if got := traceOf(s.sent[0].Header, provision.Trace{}); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
