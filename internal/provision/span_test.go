package provision

import (
	"context"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Whatever the core does for spans costs nothing while nobody gets them, and
// nothing for a request that was not sampled.
func TestSpansOfNobodyCostNothing(t *testing.T) {
	remote := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, Remote: true,
	}))
	dropping := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())).Tracer("")
	unsampled, span := dropping.Start(remote, "process")
	defer span.End()
	r := &Record{Attempts: []Attempt{{Number: 2}}, Outcome: &Outcome{}}
	a := Answer{Verdict: VerdictCreated, Status: 201, RequestID: "req_1", VPSID: "vps_1"}
	for name, c := range map[string]struct {
		p   *Provisioner
		ctx context.Context
	}{
		"no tracer":   {&Provisioner{}, remote},
		"not sampled": {&Provisioner{tracer: dropping}, unsampled},
	} {
		n := testing.AllocsPerRun(100, func() {
			ctx, span := c.p.begin(c.ctx, "attempt")
			admit(span)
			endAdmission(span, r, Disposition{}, false)
			tellVerdict(ctx, 2, a)
			tellNameTaken(ctx, 2)
			tellLook(span, found{}, nil)
			tellWait(ctx, Disposition{Reason: WaitTurn}, time.Second)
			tellAdopted(ctx, "vps_1")
			if Resends(withResends(ctx, span, 2)) != 0 {
				t.Error("a call is told of resends that no span tells of")
			}
			span.End()
		})
		if n != 0 {
			t.Errorf("%s: %v allocations a request", name, n)
		}
	}
}
