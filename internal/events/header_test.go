package events

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

func TestPercentCoding(t *testing.T) {
	t.Parallel()
	for plain, encoded := range map[string]string{
		"": "", "a~!b": "a~!b", "a b": "a%20b", `"`: "%22", "100%": "100%25", "å\x00\x7f": "%C3%A5%00%7F", "%41": "%2541",
	} {
		if got := percentEncoded(plain); got != encoded {
			t.Errorf("%q is encoded as %q, want %q", plain, got, encoded)
		}
		if got := percentDecoded(encoded); got != plain {
			t.Errorf("%q is decoded as %q, want %q", encoded, got, plain)
		}
	}
	for in, want := range map[string]string{"100%": "100%", "%4": "%4", "%zz%41": "%zzA", "%c3%a5": "å", "%%41": "%A"} {
		if got := percentDecoded(in); got != want {
			t.Errorf("%q is decoded as %q, want %q", in, got, want)
		}
	}
}

func TestCarrier(t *testing.T) {
	t.Parallel()
	h := headers("Traceparent", traceparent, "X", "1", "Empty", "")
	c := Carrier(h)
	if got := c.Get("TRACEPARENT"); got != traceparent {
		t.Errorf("got %q", got)
	}
	c.Set("TraceParent", "new")
	if diff := cmp.Diff(nats.Header{"traceparent": {"new"}, "X": {"1"}, "Empty": {""}}, h); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Empty", "X", "traceparent"}, c.Keys()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if got := Carrier(nil).Get("x"); got != "" {
		t.Errorf("got %q from nothing", got)
	}
}

func TestExtractAndInject(t *testing.T) {
	t.Parallel()
	want := provision.Trace{Parent: traceparent, State: "a=b"}
	ctx := Extract(t.Context(), want)
	if sc := trace.SpanContextFromContext(ctx); !sc.IsRemote() || sc.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("extracted %v", sc)
	}
	h := nats.Header{}
	propagation.TraceContext{}.Inject(ctx, Carrier(h))
	if diff := cmp.Diff(want, traceOf(h, provision.Trace{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if ctx := Extract(t.Context(), provision.Trace{}); ctx != t.Context() {
		t.Error("nothing changed ctx")
	}
}
