package provision

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Attributes of spans that no convention registers (docs/tracing.md). Texts are
// words of a closed set, except those that name one thing.
const (
	AttrResult     = attribute.Key("hostup_worker.result")
	AttrReason     = attribute.Key("hostup_worker.reason")
	AttrAttempt    = attribute.Key("hostup_worker.attempt")
	AttrVerdict    = attribute.Key("hostup_worker.verdict")
	AttrRequestID  = attribute.Key("hostup_worker.request_id")
	AttrVPSID      = attribute.Key("hostup_worker.vps_id")
	AttrState      = attribute.Key("hostup_worker.state")
	AttrCandidates = attribute.Key("hostup_worker.candidates")
	AttrWait       = attribute.Key("hostup_worker.wait")
)

const (
	attrErrorType = attribute.Key("error.type")
	attrStatus    = attribute.Key("http.response.status_code")
)

// noSpan is the span of what nobody is to see.
var noSpan trace.Span = noop.Span{}

// begin starts a span of the core below the one in ctx, if that is exported: by
// its identity and not by whether it still records, because some work goes on
// after a delivery has been answered. Otherwise it costs nothing.
func (p *Provisioner) begin(ctx context.Context, name string) (context.Context, trace.Span) {
	if p.tracer == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, noSpan
	}
	return p.tracer.Start(ctx, name) //nolint:spancheck // who asked for it ends it
}

// endAdmission says what admission came to. After the span was ended for a
// request that goes on it does nothing.
func endAdmission(span trace.Span, r *Record, d Disposition, stop bool) {
	if !span.IsRecording() {
		return
	}
	switch {
	case stop && d.Action == Retry:
		span.SetAttributes(AttrResult.String(string(ResultWaiting)), AttrReason.String(d.Reason))
	case stop:
		span.SetAttributes(AttrResult.String(string(d.Result)), AttrReason.String(d.Reason))
	case r.Outcome != nil:
		span.SetAttributes(AttrResult.String(string(ResultFailed)), AttrReason.String(string(r.Outcome.Reason)))
	}
	span.End()
}

// admit ends the span of an admission that lets the request pass.
func admit(span trace.Span) {
	if span.IsRecording() {
		span.SetAttributes(AttrResult.String("admitted"))
		span.End()
	}
}

// tellVerdict puts what came of an attempt on the span in ctx.
func tellVerdict(ctx context.Context, number int, a Answer) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	as := append(make([]attribute.KeyValue, 0, 6), AttrAttempt.Int(number), AttrVerdict.String(string(a.Verdict)))
	if a.Status != 0 {
		as = append(as, attrStatus.Int(a.Status))
	}
	if a.RequestID != "" {
		as = append(as, AttrRequestID.String(a.RequestID))
	}
	if a.VPSID != "" {
		as = append(as, AttrVPSID.String(a.VPSID))
	}
	if a.Verdict != VerdictCreated {
		as = append(as, attrErrorType.String(string(a.Verdict)))
		span.SetStatus(codes.Error, a.Detail)
	}
	span.SetAttributes(as...)
}

// tellNameTaken says on the span in ctx that an attempt was none: another
// request has the name.
func tellNameTaken(ctx context.Context, number int) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(AttrAttempt.Int(number), AttrResult.String(string(ResultWaiting)), AttrReason.String(WaitName))
	}
}

// tellLook ends the span of a look-up with what was found.
func tellLook(span trace.Span, f found, err error) {
	if !span.IsRecording() {
		return
	}
	if err != nil {
		span.SetAttributes(AttrResult.String(lookedFailed), attrErrorType.String(lookedFailed))
		span.SetStatus(codes.Error, err.Error())
	} else {
		span.SetAttributes(AttrResult.String(f.result()), AttrCandidates.Int(len(f.ours)+len(f.doubtful)))
	}
	span.End()
}

// tellEvent marks something on the span in ctx.
func tellEvent(ctx context.Context, name string, attrs ...attribute.KeyValue) {
	trace.SpanFromContext(ctx).AddEvent(name, trace.WithAttributes(attrs...))
}

// tellWait marks a wait in hand on the span in ctx, when it is over.
func tellWait(ctx context.Context, d Disposition, waited time.Duration) {
	if trace.SpanFromContext(ctx).IsRecording() {
		tellEvent(ctx, "wait", AttrReason.String(d.Reason), AttrWait.Float64(waited.Seconds()))
	}
}

// tellAdopted marks the adoption of a server on the span in ctx.
func tellAdopted(ctx context.Context, id string) {
	if trace.SpanFromContext(ctx).IsRecording() {
		tellEvent(ctx, "adopted", AttrVPSID.String(id))
	}
}

type resendsKey struct{}

// withResends tells the create channel how many attempts came before, for the
// span of the call.
func withResends(ctx context.Context, span trace.Span, number int) context.Context {
	if !span.IsRecording() || number < 2 {
		return ctx
	}
	return context.WithValue(ctx, resendsKey{}, number-1)
}

// Resends is how many attempts came before the create call of ctx, for
// http.request.resend_count; 0 unless spans are exported.
func Resends(ctx context.Context) int {
	n, _ := ctx.Value(resendsKey{}).(int)
	return n
}
