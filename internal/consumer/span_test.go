package consumer

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// namedMsg is a message of which only the subject and the headers are read.
type namedMsg struct {
	jetstream.Msg

	header nats.Header
}

func (m namedMsg) Subject() string      { return "deploy.requested" }
func (m namedMsg) Headers() nats.Header { return m.header }

// Whatever the consumer does for spans costs nothing while nobody gets them. A
// trace context is read all the same, for whatever follows belongs to it.
//
//nolint:paralleltest // it counts allocations
func TestSpansOfNobodyCostNothing(t *testing.T) {
	c := &Consumer{}
	l := &lane{c: c}
	var m jetstream.Msg = namedMsg{}
	d := provision.Disposition{Result: provision.ResultProvisioning, Attempt: 1, VPSID: "vps_1"}
	n := testing.AllocsPerRun(100, func() {
		ctx, span := l.begin(t.Context(), m, provision.Message{})
		tellResult(span, d)
		settled(l.settling(ctx, m, "ack"), nil, time.Second)
		span.End()
	})
	if n != 0 {
		t.Errorf("%v allocations a delivery", n)
	}
	parent := provision.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	ctx, _ := l.begin(context.Background(), m, provision.Message{Trace: parent, Deliveries: 2})
	if sc := trace.SpanContextFromContext(ctx); sc.SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("the context has %v, want the requester's span", sc)
	}
}
