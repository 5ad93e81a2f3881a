package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// Each setting is judged in both directions: only one of them gives up safety.
func TestWeaker(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, c := range []struct {
		about       string
		bucket      bool
		weak, sound jetstream.StreamConfig
		says        string
	}{
		{"fewer copies", false, jetstream.StreamConfig{Replicas: 1}, jetstream.StreamConfig{Replicas: 3}, "replicas"},
		{"a shorter ledger", true, jetstream.StreamConfig{MaxAge: day}, jetstream.StreamConfig{MaxAge: 30 * day}, "max_age"},
		{"a ledger that forgets at all", true, jetstream.StreamConfig{MaxAge: day}, jetstream.StreamConfig{}, "max_age"},
		{"orders that expire", false, jetstream.StreamConfig{MaxAge: day}, jetstream.StreamConfig{}, "max_age"},
		{"a shorter window", false, jetstream.StreamConfig{Duplicates: time.Minute}, jetstream.StreamConfig{Duplicates: time.Hour}, "duplicate_window"},
		{"old ones are dropped", false, jetstream.StreamConfig{Discard: jetstream.DiscardOld}, jetstream.StreamConfig{Discard: jetstream.DiscardNew}, "discard"},
		{"larger messages or smaller ones", false, jetstream.StreamConfig{MaxMsgSize: 1}, jetstream.StreamConfig{MaxMsgSize: 2}, ""},
	} {
		c.weak.Name, c.sound.Name = "DEPLOY", "DEPLOY"
		if c.bucket {
			c.weak.Name, c.sound.Name = "KV_deploy-ledger", "KV_deploy-ledger"
		}
		if got := weakened(topology().StreamFields(c.sound, c.weak)); got != c.says {
			t.Errorf("%s weakens %q, want %q", c.about, got, c.says)
		}
		if got := weakened(topology().StreamFields(c.weak, c.sound)); got != "" {
			t.Errorf("the reverse of %s weakens %q", c.about, got)
		}
	}
	type consumer = jetstream.ConsumerConfig
	for _, c := range []struct {
		about       string
		weak, sound consumer
		says        string
	}{
		{"fewer deliveries", consumer{MaxDeliver: 3}, consumer{MaxDeliver: -1}, "max_deliver"},
		{"still fewer deliveries", consumer{MaxDeliver: 3}, consumer{MaxDeliver: 5}, "max_deliver"},
		{"fewer may wait", consumer{MaxAckPending: 10}, consumer{MaxAckPending: 100}, "max_ack_pending"},
		{"as many as before may not wait", consumer{MaxAckPending: 10}, consumer{MaxAckPending: -1}, "max_ack_pending"},
		{"a part of the subjects", consumer{FilterSubject: "deploy.requested"}, consumer{}, ""},
		{"one subject of a pattern", consumer{FilterSubject: "deploy.requested"}, consumer{FilterSubject: "deploy.*"}, ""},
		{"another wait", consumer{AckWait: time.Second}, consumer{AckWait: time.Minute}, ""},
	} {
		c.weak.Durable, c.sound.Durable = "w", "w"
		if got := weakened(broker.ConsumerFields(c.sound, c.weak)); got != c.says {
			t.Errorf("%s weakens %q, want %q", c.about, got, c.says)
		}
	}
	moved := broker.ConsumerFields(consumer{Durable: "w", FilterSubject: "deploy.requested"}, consumer{Durable: "w", FilterSubject: "other.requested"})
	if got := weakened(moved); got != "filter_subject" {
		t.Errorf("another subject weakens %q", got)
	}
}

func weakened(fields []broker.Field) string {
	var names []string
	for _, f := range fields {
		if f.Weakens != "" {
			names = append(names, f.Name)
		}
	}
	return strings.Join(names, " ")
}

// Whatever can differ has its reason, on every stream and consumer.
func TestEveryDifferenceHasItsReason(t *testing.T) {
	t.Parallel()
	top := topology()
	for _, want := range top.Streams() {
		have := jetstream.StreamConfig{
			Name: want.Name, Retention: jetstream.InterestPolicy, Storage: jetstream.MemoryStorage, Replicas: 2, MaxAge: time.Second, MaxMsgSize: 7,
			MaxMsgsPerSubject: 7, Duplicates: time.Second, AllowDirect: true, AllowMsgTTL: !want.AllowMsgTTL, SubjectDeleteMarkerTTL: time.Second,
		}
		if fs := top.StreamFields(have, want); len(fs) != 12 {
			t.Errorf("%s: %d fields differ, want all", want.Name, len(fs))
		} else {
			reasons(t, want.Name, fs)
		}
	}
	differ := func(want jetstream.ConsumerConfig, fields func(have, want jetstream.ConsumerConfig) []broker.Field) {
		t.Helper()
		have := jetstream.ConsumerConfig{
			Durable: want.Durable, AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverNewPolicy, AckWait: 1, MaxDeliver: 1,
			MaxAckPending: 7, BackOff: []time.Duration{1}, FilterSubject: "x",
		}
		if fs := fields(have, want); len(fs) != 7 {
			t.Errorf("%s: %d fields differ, want all", want.Durable, len(fs))
		} else {
			reasons(t, want.Durable, fs)
		}
	}
	top.Readers = []string{"billing"}
	for _, want := range top.Consumers() {
		differ(want, broker.ConsumerFields)
	}
	for _, want := range top.ReaderConsumers() {
		differ(want, broker.ReaderFields)
	}
}

func reasons(t *testing.T, of string, fields []broker.Field) {
	t.Helper()
	for _, f := range fields {
		if f.Why == "" {
			t.Errorf("%s: %s has no reason", of, f.Name)
		}
	}
}

// What somebody made roomier stays, and is no difference.
func TestMoreThanWantedStays(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	top := topology()
	apply(t, top, js)
	s, err := js.Stream(t.Context(), "DEPLOY_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	events := s.CachedInfo().Config
	events.Duplicates = 48 * time.Hour
	if _, err := js.UpdateStream(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), "DEPLOY", "deploy-worker")
	if err != nil {
		t.Fatal(err)
	}
	roomy := c.CachedInfo().Config
	roomy.MaxAckPending = 2 * broker.MaxAckPending
	if _, err := js.UpdateConsumer(t.Context(), "DEPLOY", roomy); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all(broker.Keep), actions(t, top, js)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// A window longer than what is kept is none that the broker takes.
	events.Duplicates, events.MaxAge = time.Minute, 10*time.Minute
	if _, err := js.UpdateStream(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	apply(t, top, js)
	if s, err = js.Stream(t.Context(), "DEPLOY_EVENTS"); err != nil || s.CachedInfo().Config.Duplicates != 10*time.Minute {
		t.Errorf("window %s, %v", s.CachedInfo().Config.Duplicates, err)
	}
}

// The broker refuses some changes of what exists. The plan knows them before it
// is asked, and makes the others.
func TestWhatCannotBeChangedIsNamedAndLeft(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	top := topology()
	for _, made := range []jetstream.StreamConfig{
		{Name: "DEPLOY", Subjects: []string{"deploy.requested"}, MaxMsgSize: 7},
		{Name: "DEPLOY_EVENTS", Subjects: []string{"deploy.failed"}, Retention: jetstream.InterestPolicy},
		{Name: "DEPLOY_DEAD", Subjects: []string{"deploy.dead"}, Retention: jetstream.WorkQueuePolicy},
		{Name: "KV_deploy-ledger", Subjects: []string{"$KV.deploy-ledger.>"}, Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 1},
	} {
		if _, err := js.CreateStream(t.Context(), made); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := js.CreateConsumer(t.Context(), "DEPLOY", jetstream.ConsumerConfig{
		Durable: "deploy-worker", AckPolicy: jetstream.AckAllPolicy, DeliverPolicy: jetstream.DeliverNewPolicy, FilterSubject: "deploy.requested", MaxDeliver: 3,
	}); err != nil {
		t.Fatal(err)
	}
	fixed := func() (names []string, updates int) {
		plan, err := top.Plan(t.Context(), js)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range plan {
			for _, f := range c.Fields {
				if c.Action == broker.Update && f.Fixed == "" {
					updates++
				}
				if f.Fixed != "" {
					names = append(names, c.Name+" "+f.Name)
				}
			}
		}
		return names, updates
	}
	want := []string{"DEPLOY retention", "DEPLOY_DEAD retention", "deploy-ledger storage", "deploy-worker ack_policy", "deploy-worker deliver_policy"}
	got, updates := fixed()
	if diff := cmp.Diff(want, got); diff != "" || updates == 0 {
		t.Errorf("before, with %d updates (-want +got):\n%s", updates, diff)
	}
	apply(t, top, js)
	got, updates = fixed()
	if diff := cmp.Diff(want, got); diff != "" || updates != 0 {
		t.Errorf("after, with %d updates left (-want +got):\n%s", updates, diff)
	}
}
