package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/telemetry"
)

// ledgerOf answers every call with one error.
type ledgerOf struct{ err error }

func (l ledgerOf) Load(context.Context, string) (*provision.Record, error) { return nil, l.err }
func (l ledgerOf) Store(context.Context, *provision.Record) error          { return l.err }
func (l ledgerOf) Intend(context.Context, *provision.Record) error         { return l.err }
func (l ledgerOf) Release(context.Context, *provision.Record) error        { return l.err }
func (l ledgerOf) Finished(context.Context, string) (provision.Past, error) {
	return provision.Past{}, l.err
}

// Without a tracer the ports stay as they are, and with one a request that was
// not sampled pays nothing for them.
//
//nolint:paralleltest // it counts allocations
func TestLedgerSpansOfNobodyCostNothing(t *testing.T) {
	l := ledgerOf{}
	plain := provision.Ports{Ledger: l, Names: l}
	if off := withSpans(plain, nil); off != plain {
		t.Errorf("without a tracer the ports became %v", off)
	}
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())).Tracer("")
	ctx, span := tracer.Start(t.Context(), "process")
	defer span.End()
	ports := withSpans(plain, tracer)
	r := &provision.Record{State: provision.StateCreated}
	n := testing.AllocsPerRun(100, func() {
		_, err1 := ports.Ledger.Load(ctx, "k")
		_, err2 := ports.Names.Finished(ctx, "n")
		if err := errors.Join(err1, err2, ports.Ledger.Store(ctx, r), ports.Ledger.Intend(ctx, r), ports.Names.Release(ctx, r)); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What goes wrong in the ledger is on its span, in one word.
func TestLedgerSpansOfErrors(t *testing.T) {
	t.Parallel()
	got := make(map[string]string)
	for _, err := range []error{
		provision.ErrConflict, &provision.NameTakenError{Owner: "o"}, fmt.Errorf("store: %w", context.DeadlineExceeded), nats.ErrTimeout, context.Canceled, errors.New("disk full"),
	} {
		spans := tracetest.NewInMemoryExporter()
		tracer := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("")
		ctx, span := tracer.Start(t.Context(), "process")
		if have := withSpans(provision.Ports{Ledger: ledgerOf{err}, Names: ledgerOf{err}}, tracer).Ledger.Store(ctx, &provision.Record{}); !errors.Is(have, err) {
			t.Errorf("the error became %v", have)
		}
		span.End()
		got[err.Error()] = attr(spans.GetSpans()[0], "error.type")
	}
	want := map[string]string{
		provision.ErrConflict.Error(): "conflict", (&provision.NameTakenError{Owner: "o"}).Error(): "name_taken",
		"store: context deadline exceeded": "timeout", nats.ErrTimeout.Error(): "timeout", "context canceled": "canceled", "disk full": "_OTHER",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("error.type (-want +got):\n%s", diff)
	}
}

// Nothing is exported unless a variable asks for it: the exporters' own default
// would be a collector on this machine.
func TestExports(t *testing.T) {
	t.Parallel()
	spans, metrics, logs := telemetry.Options{Traces: true}, telemetry.Options{Metrics: true}, telemetry.Options{Logs: true}
	for _, c := range []struct {
		env  map[string]string
		want telemetry.Options
	}{
		{nil, telemetry.Options{}},
		{map[string]string{"OTEL_SERVICE_NAME": "w", "OTEL_TRACES_SAMPLER": "always_on", "OTEL_TRACES_EXPORTER": ""}, telemetry.Options{}},
		{map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, spans},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, spans},
		{map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, spans},
		{map[string]string{"OTEL_METRICS_EXPORTER": "otlp"}, metrics},
		{map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, metrics},
		{map[string]string{"OTEL_LOGS_EXPORTER": "otlp"}, logs},
		{map[string]string{"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://collector:4318/v1/logs"}, logs},
		{map[string]string{"OTEL_LOGS_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp", "OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, telemetry.Options{}},
	} {
		if got := exports(variables(c.env)); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.env, got, c.want)
		}
	}
}

// A variable that asks for what the worker does not do is named.
func TestUnreadVariables(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env  map[string]string
		want []string
	}{
		{nil, nil},
		{map[string]string{"OTEL_PROPAGATORS": "tracecontext, baggage"}, nil},
		{map[string]string{"OTEL_PROPAGATORS": "b3,jaeger"}, []string{"OTEL_PROPAGATORS"}},
		{map[string]string{"OTEL_CONFIG_FILE": "otel.yaml"}, []string{"OTEL_CONFIG_FILE"}},
	} {
		if diff := gocmp.Diff(c.want, unread(variables(c.env))); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.env, diff)
		}
	}
}

func variables(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := env[name]; return v, ok }
}
