package main

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// withSpans puts a span around every write of the ledger; reads are quick, and a
// slow one is the gap between two spans. Without a tracer the ports stay as they
// are.
func withSpans(ports provision.Ports, tracer trace.Tracer) provision.Ports {
	if tracer == nil {
		return ports
	}
	s := newLedgerSpans(tracer)
	ports.Ledger = tracedLedger{ports.Ledger, s}
	ports.Names = tracedNames{ports.Names, s}
	return ports
}

// ledgerSpans makes the spans of the ledger. What they say is made once: there
// are several for each request.
type ledgerSpans struct {
	tracer trace.Tracer
	calls  map[ledgerCall]ledgerSpan
}

// ledgerCall is an operation, and the state that a record is stored in if it is.
type ledgerCall struct {
	operation string
	state     provision.State
}

type ledgerSpan struct {
	name  string
	attrs []attribute.KeyValue
}

// The writes of the ledger in spans.
const (
	opStore   = "store"
	opIntend  = "intend"
	opRelease = "release"
)

func newLedgerSpans(tracer trace.Tracer) ledgerSpans {
	s := ledgerSpans{tracer: tracer, calls: make(map[ledgerCall]ledgerSpan)}
	for _, operation := range []string{opStore, opIntend, opRelease} {
		for _, state := range []provision.State{
			"", provision.StateAccepted, provision.StateCreating, provision.StateUnknown, provision.StateHeld,
			provision.StateCreated, provision.StateFailed, provision.StateDone,
		} {
			attrs := []attribute.KeyValue{semconv.DBSystemNameKey.String("nats"), semconv.DBOperationName(operation)}
			if state != "" {
				attrs = append(attrs, provision.AttrState.String(string(state)))
			}
			s.calls[ledgerCall{operation, state}] = ledgerSpan{"ledger " + operation, attrs}
		}
	}
	return s
}

var clientSpan = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}

// around makes a span of a write, if it is part of a request that is exported.
// state is what a record is stored as, if it is.
func (s ledgerSpans) around(ctx context.Context, operation string, state provision.State, call func(context.Context) error) error {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return call(ctx)
	}
	about := s.calls[ledgerCall{operation, state}]
	ctx, span := s.tracer.Start(ctx, about.name, clientSpan...)
	defer span.End()
	span.SetAttributes(about.attrs...)
	err := call(ctx)
	if err != nil {
		span.SetAttributes(semconv.ErrorTypeKey.String(ledgerErrorType(err)))
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}

// ledgerErrorType is one word for an error of the ledger.
func ledgerErrorType(err error) string {
	_, taken := errors.AsType[*provision.NameTakenError](err)
	switch {
	case taken:
		return "name_taken"
	case errors.Is(err, provision.ErrConflict):
		return "conflict"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	default:
		return "_OTHER"
	}
}

// Each decorator embeds the port: reads pass, and so does a method it does not know.

type tracedLedger struct {
	provision.Ledger

	spans ledgerSpans
}

func (l tracedLedger) Store(ctx context.Context, r *provision.Record) error {
	return l.spans.around(ctx, opStore, r.State, func(ctx context.Context) error { return l.Ledger.Store(ctx, r) })
}

func (l tracedLedger) Intend(ctx context.Context, r *provision.Record) error {
	return l.spans.around(ctx, opIntend, r.State, func(ctx context.Context) error { return l.Ledger.Intend(ctx, r) })
}

type tracedNames struct {
	provision.Names

	spans ledgerSpans
}

func (n tracedNames) Release(ctx context.Context, r *provision.Record) error {
	return n.spans.around(ctx, opRelease, "", func(ctx context.Context) error { return n.Names.Release(ctx, r) })
}

// peer tells spans which server the connection is to, and who is at this end.
type peer struct {
	nc     *nats.Conn
	client string
	known  atomic.Pointer[peerOf]
}

// peerOf are the attributes for one server.
type peerOf struct {
	server string
	attrs  []attribute.KeyValue
}

// attributes are made anew only when the connection has moved.
func (p *peer) attributes() []attribute.KeyValue {
	server := p.nc.ConnectedServerId()
	if k := p.known.Load(); k != nil && k.server == server {
		return k.attrs
	}
	k := &peerOf{server: server, attrs: []attribute.KeyValue{semconv.MessagingClientID(p.client)}}
	if u, err := url.Parse(p.nc.ConnectedUrl()); err == nil && u.Host != "" {
		k.attrs = append(k.attrs, semconv.ServerAddress(u.Hostname()))
		if port, err := strconv.Atoi(u.Port()); err == nil {
			k.attrs = append(k.attrs, semconv.ServerPort(port))
		}
	}
	p.known.Store(k)
	return k.attrs
}
