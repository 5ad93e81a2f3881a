package broker_test

import (
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// Readers are made when they are named, and are left alone otherwise; what
// somebody set for his own use stays.
func TestReaders(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	top := topology()
	apply(t, top, js)
	top.Readers = []string{"billing", "audit", "billing"}
	planned := func(a broker.Action) map[string]broker.Action {
		want := all(broker.Keep)
		maps.Copy(want, map[string]broker.Action{"consumer audit": a, "consumer billing": a})
		return want
	}
	if diff := cmp.Diff(planned(broker.Create), actions(t, top, js)); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	apply(t, top, js)
	reader := func() jetstream.ConsumerConfig {
		t.Helper()
		c, err := js.Consumer(t.Context(), "DEPLOY_EVENTS", "billing")
		if err != nil {
			t.Fatal(err)
		}
		return c.CachedInfo().Config
	}
	made := reader()
	if made.AckPolicy != jetstream.AckExplicitPolicy || made.DeliverPolicy != jetstream.DeliverAllPolicy || made.MaxDeliver != -1 || made.MaxAckPending != 1 || made.FilterSubject != "" {
		t.Errorf("made: %+v", made)
	}
	made.MaxAckPending, made.AckWait = 50, 5*time.Minute
	if _, err := js.UpdateConsumer(t.Context(), "DEPLOY_EVENTS", made); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(planned(broker.Keep), actions(t, top, js)); diff != "" {
		t.Errorf("with settings of his own (-want +got):\n%s", diff)
	}
	made.MaxDeliver, made.FilterSubject = 3, "deploy.failed"
	if _, err := js.UpdateConsumer(t.Context(), "DEPLOY_EVENTS", made); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all(broker.Keep), actions(t, topology(), js)); diff != "" {
		t.Errorf("without readers (-want +got):\n%s", diff)
	}
	plan, err := top.Plan(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range plan {
		if got := weakened(c.Fields); got != "" {
			t.Errorf("%s weakens %s", c.Name, got)
		}
	}
	if err := broker.Apply(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	if c := reader(); c.MaxDeliver != -1 || c.FilterSubject != "" || c.MaxAckPending != 50 || c.AckWait != 5*time.Minute {
		t.Errorf("mended: %+v", c)
	}
}
