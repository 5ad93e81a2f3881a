package broker_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

func TestMain(m *testing.M) { os.Exit(brokertest.Main(m)) }

func topology() broker.Topology {
	return broker.Topology{
		Stream: "DEPLOY", Consumer: "deploy-worker", EventsStream: "DEPLOY_EVENTS", DeadStream: "DEPLOY_DEAD",
		Bucket: "deploy-ledger", Prefix: "deploy", Replicas: 1, AckWait: 30 * time.Second, LedgerTTL: 720 * time.Hour,
	}
}

func actions(t *testing.T, top broker.Topology, js jetstream.JetStream) map[string]broker.Action {
	t.Helper()
	plan, err := top.Plan(t.Context(), js)
	if err != nil {
		t.Fatalf("Plan: %v", err)
	}
	got := make(map[string]broker.Action)
	for _, c := range plan {
		got[c.Kind+" "+c.Name] = c.Action
	}
	return got
}

func apply(t *testing.T, top broker.Topology, js jetstream.JetStream) {
	t.Helper()
	plan, err := top.Plan(t.Context(), js)
	if err != nil {
		t.Fatalf("Plan: %v", err)
	}
	if err := broker.Apply(t.Context(), plan); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

func all(a broker.Action) map[string]broker.Action {
	return map[string]broker.Action{
		"stream DEPLOY": a, "stream DEPLOY_EVENTS": a, "stream DEPLOY_DEAD": a, "bucket deploy-ledger": a,
		"consumer deploy-worker": a, "consumer deploy-worker-batch": a,
	}
}

func TestPlanCreatesOnceAndThenKeeps(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	top := topology()
	if diff := cmp.Diff(all(broker.Create), actions(t, top, js)); diff != "" {
		t.Errorf("plan of an empty broker (-want +got):\n%s", diff)
	}
	if names := streamNames(t, js); len(names) != 0 {
		t.Errorf("planning made streams: %v", names)
	}
	apply(t, top, js)
	if diff := cmp.Diff(all(broker.Keep), actions(t, top, js)); diff != "" {
		t.Errorf("plan after apply (-want +got):\n%s", diff)
	}
	apply(t, top, js)
}

func streamNames(t *testing.T, js jetstream.JetStream) []string {
	t.Helper()
	var names []string
	for n := range js.StreamNames(t.Context()).Name() {
		names = append(names, n)
	}
	return names
}

// What the worker relies on is put right; what an operator chose stays.
func TestDriftIsNamedAndMendedAndChoicesStay(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	top := topology()
	apply(t, top, js)
	edit := func(name string, change func(*jetstream.StreamConfig)) {
		t.Helper()
		s, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.CachedInfo().Config
		change(&cfg)
		if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatalf("drift %s: %v", name, err)
		}
	}
	edit("DEPLOY", func(c *jetstream.StreamConfig) {
		c.Discard, c.MaxMsgs = jetstream.DiscardOld, 1000
		c.Subjects = append(c.Subjects, "somebody.else.>")
	})
	edit("DEPLOY_EVENTS", func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = 48*time.Hour, time.Minute })
	edit("KV_deploy-ledger", func(c *jetstream.StreamConfig) { c.AllowDirect, c.MaxAge = true, time.Hour })
	if _, err := js.UpdateConsumer(t.Context(), "DEPLOY", jetstream.ConsumerConfig{
		Durable: "deploy-worker", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "deploy.requested",
		MaxDeliver: 3, BackOff: []time.Duration{time.Second, 2 * time.Second}, Metadata: map[string]string{"owner": "ops"},
	}); err != nil {
		t.Fatal(err)
	}
	plan, err := top.Plan(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string][]string)
	for _, c := range plan {
		for _, f := range c.Fields {
			got[c.Name] = append(got[c.Name], f.Name+": "+f.Have+" -> "+f.Want)
		}
	}
	want := map[string][]string{
		"DEPLOY":        {"discard: DiscardOld -> DiscardNew"},
		"DEPLOY_EVENTS": {"duplicate_window: 1m0s -> 1h0m0s"},
		"deploy-ledger": {"max_age: 1h0m0s -> 720h0m0s", "allow_direct: true -> false"},
		"deploy-worker": {"ack_wait: 1s -> 30s", "max_deliver: 3 -> -1", "max_ack_pending: 1000 -> 100000", "backoff: [1s 2s] -> []"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
	apply(t, top, js)
	if diff := cmp.Diff(all(broker.Keep), actions(t, top, js)); diff != "" {
		t.Errorf("plan after mending (-want +got):\n%s", diff)
	}
	for name, check := range map[string]func(jetstream.StreamConfig) bool{
		"DEPLOY":        func(c jetstream.StreamConfig) bool { return c.MaxMsgs == 1000 && len(c.Subjects) == 3 },
		"DEPLOY_EVENTS": func(c jetstream.StreamConfig) bool { return c.MaxAge == 48*time.Hour },
	} {
		s, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if !check(s.CachedInfo().Config) {
			t.Errorf("%s: the operator's own setting was changed: %+v", name, s.CachedInfo().Config)
		}
	}
}

// A routine setup must not take redundancy away. One server cannot hold three
// replicas, so the plan is made from what a cluster would report.
func TestReplicasAndSubjectsAreNeverTakenAway(t *testing.T) {
	t.Parallel()
	have := jetstream.StreamConfig{Replicas: 3, Subjects: []string{"deploy.*", "other"}}
	want := jetstream.StreamConfig{Replicas: 1, Subjects: []string{"deploy.requested", "new"}}
	got := broker.Respecting(have, want)
	if got.Replicas != 3 {
		t.Errorf("replicas: %d", got.Replicas)
	}
	if diff := cmp.Diff([]string{"deploy.*", "other", "new"}, got.Subjects); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}
	if got := broker.Respecting(jetstream.StreamConfig{Replicas: 1}, jetstream.StreamConfig{Replicas: 3}); got.Replicas != 3 {
		t.Errorf("more replicas were asked for: %d", got.Replicas)
	}
}

func TestURLsAreJudgedWithoutTheirSecrets(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"nats://127.0.0.1:4222", "127.0.0.1", "tls://u:p@a:1, b:2"} {
		if err := broker.ValidateURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "nats://", "nats://u:pa%ssword@h:1", "nats://u:p@h:port"} {
		if err := broker.ValidateURL(bad); err == nil || strings.Contains(err.Error(), "pa%ssword") {
			t.Errorf("%q: %v", bad, err)
		}
		if _, _, err := broker.Connect(broker.Options{URL: bad}); bad != "" && (err == nil || strings.Contains(err.Error(), "pa%ss")) {
			t.Errorf("Connect %q: %v", bad, err)
		}
	}
}

func TestMissingIsOnlyWhatDoesNotExist(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	top := topology()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "DEPLOY", Subjects: []string{"deploy.requested"}}); err != nil {
		t.Fatal(err)
	}
	plan, err := top.Plan(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.Apply(t.Context(), broker.Missing(plan)); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "DEPLOY")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().Config.Retention; got != jetstream.LimitsPolicy {
		t.Errorf("a stream that somebody else owns was changed to %s", got)
	}
	want := all(broker.Keep)
	want["stream DEPLOY"] = broker.Update
	// Its subject is not in the stream: the broker would refuse it.
	want["consumer deploy-worker-batch"] = broker.Create
	if diff := cmp.Diff(want, actions(t, top, js)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What an earlier version set up is completed by setup, and --provision leaves
// alone what it could only make after changing something.
func TestBatchesAreAddedToAnEarlierSetUp(t *testing.T) {
	t.Parallel()
	for name, earlier := range map[string]struct {
		subjects []string
		filter   string
		made     bool
	}{
		"earlier version":     {[]string{"deploy.requested"}, "deploy.requested", false},
		"a consumer of all":   {[]string{"deploy.requested", "deploy.requested.batch"}, "", false},
		"a pattern over both": {[]string{"deploy.requested.>", "deploy.requested"}, "deploy.requested", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, js := brokertest.Connect(t, brokertest.Start(t))
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "DEPLOY", Subjects: earlier.subjects, Retention: jetstream.WorkQueuePolicy}); err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateConsumer(t.Context(), "DEPLOY", jetstream.ConsumerConfig{
				Durable: "deploy-worker", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: earlier.filter, MaxAckPending: 10_000,
			}); err != nil {
				t.Fatal(err)
			}
			top := topology()
			plan, err := top.Plan(t.Context(), js)
			if err != nil {
				t.Fatal(err)
			}
			if err := broker.Apply(t.Context(), broker.Missing(plan)); err != nil {
				t.Fatalf("--provision: %v", err)
			}
			_, err = js.Consumer(t.Context(), "DEPLOY", "deploy-worker-batch")
			if made := err == nil; made != earlier.made {
				t.Errorf("--provision made the consumer of the batches: %t, %v", made, err)
			}
			if missing, err := top.MissingStores(t.Context(), js); err != nil || len(missing) > 0 {
				t.Errorf("missing: %q, %v", missing, err)
			}
			apply(t, top, js)
			if diff := cmp.Diff(all(broker.Keep), actions(t, top, js)); diff != "" {
				t.Errorf("plan after setup (-want +got):\n%s", diff)
			}
		})
	}
}

// Several workers may start with --provision at the same moment.
func TestProvisioningAtOnce(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	errs := make(chan error)
	const workers = 4
	for range workers {
		go func() {
			plan, err := topology().Plan(context.Background(), js)
			if err == nil {
				err = broker.Apply(context.Background(), broker.Missing(plan))
			}
			errs <- err
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestEmbeddedKeepsItsStreams(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i, want := range []int{0, 4} {
		e, err := broker.StartEmbedded(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		nc, js, err := broker.Connect(broker.Options{URL: e.URL()})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(streamNames(t, js)); got != want {
			t.Errorf("start %d: %d streams, want %d", i+1, got, want)
		}
		apply(t, topology(), js)
		if err := broker.Drain(t.Context(), nc); err != nil {
			t.Error(err)
		}
		e.Stop()
	}
}

func TestConnectFailsWithTheAddressAndNoSecret(t *testing.T) {
	t.Parallel()
	_, _, err := broker.Connect(broker.Options{URL: "nats://user:s3cret@127.0.0.1:1"})
	if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("Connect = %v", err)
	}
}

func TestRedactURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"nats://127.0.0.1:4222":              "nats://127.0.0.1:4222",
		"nats://u:p@h:1,tls://t0ken@h2:2":    "nats://u:xxxxx@h:1,tls://xxxxx@h2:2",
		"nats://h:1, nats://u:p@h:2":         "nats://h:1,nats://u:xxxxx@h:2",
		"://nonsense":                        "(unreadable URL)",
		"https://u:p@cloud.hostup.se/api/v2": "https://u:xxxxx@cloud.hostup.se/api/v2",
		"nats://user:p%zz@h":                 "(unreadable URL)",
	} {
		if got := broker.RedactURL(in); got != want {
			t.Errorf("RedactURL(%q) = %q, want %q", in, got, want)
		}
	}
}
