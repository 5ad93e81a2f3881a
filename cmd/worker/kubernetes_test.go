package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"go.yaml.in/yaml/v3"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// These tests read what deploy/charttest has rendered from the Helm chart, and hold
// it to the binary and the broker. They know nothing of Helm.

// rendered are the objects that the chart makes: with its defaults, for Kustomize,
// and with every value different.
func rendered(t *testing.T) map[string][]manifest {
	t.Helper()
	sets := make(map[string][]manifest)
	for set, patterns := range map[string][]string{
		"defaults":   {"kustomize/base/*.yaml", "kustomize/components/*/*.yaml"},
		"everything": {"charttest/testdata/everything.yaml"},
	} {
		for _, pattern := range patterns {
			files, err := filepath.Glob(filepath.Join("..", "..", "deploy", filepath.FromSlash(pattern)))
			if err != nil || len(files) == 0 {
				t.Fatalf("no file is %s: %v", pattern, err)
			}
			for _, file := range files {
				sets[set] = append(sets[set], manifests(t, file)...)
			}
		}
	}
	return sets
}

// manifest is what these tests read of a Kubernetes object.
type manifest struct {
	Kind string
	Spec map[string]any
}

func manifests(t *testing.T, file string) []manifest {
	t.Helper()
	text, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = text.Close() }()
	var all []manifest
	for d := yaml.NewDecoder(text); ; {
		var m manifest
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if m.Kind != "" {
			all = append(all, m)
		}
	}
}

// pod is what these tests read of a Deployment.
type pod struct {
	Template struct {
		Spec struct {
			Grace      int `yaml:"terminationGracePeriodSeconds"`
			Containers []struct {
				Args []string
				Env  []struct{ Name, Value string }
			}
		}
	}
}

func podOf(t *testing.T, all []manifest) pod {
	t.Helper()
	i := slices.IndexFunc(all, func(m manifest) bool { return m.Kind == "Deployment" })
	if i < 0 {
		t.Fatal("no Deployment")
	}
	text, err := yaml.Marshal(all[i].Spec)
	if err != nil {
		t.Fatal(err)
	}
	var p pod
	if err := yaml.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	if len(p.Template.Spec.Containers) != 1 {
		t.Fatalf("%d containers", len(p.Template.Spec.Containers))
	}
	return p
}

// settings are those that the worker has in the pod: its variables, and the
// binary's defaults for the rest.
func (p pod) settings(t *testing.T) workerSettings {
	t.Helper()
	container := p.Template.Spec.Containers[0]
	names := make(map[string]string)
	for _, f := range flags(t)["run"] {
		for _, variable := range f.Envs {
			names[variable] = f.Name
		}
	}
	args := container.Args
	for _, e := range container.Env {
		switch name, ours := names[e.Name]; {
		case ours && e.Value != "": // not from a Secret
			args = append(args, "--"+name+"="+e.Value)
		case !ours && e.Name != "GOMEMLIMIT" && !strings.HasPrefix(e.Name, "OTEL_"):
			t.Errorf("the pod sets %s, which the worker does not know", e.Name)
		}
	}
	var c cli
	parser, err := kong.New(&c, kong.Name("worker"), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		t.Fatalf("the worker refuses the pod's variables: %v", err)
	}
	return c.Run.workerSettings
}

func TestPodSettingsAreTaken(t *testing.T) {
	t.Parallel()
	for set, all := range rendered(t) {
		s := podOf(t, all).settings(t)
		if err := s.validate(); err != nil {
			t.Errorf("%s: %v", set, err)
		}
		if s.APITokenFile == "" || s.APIToken != "" || s.Provision {
			t.Errorf("%s: key file %q, key as a variable %t, provision %t", set, s.APITokenFile, s.APIToken != "", s.Provision)
		}
	}
}

// A pod that is told to end has time for the drain and the flush, and a drain has
// time for a create call: an answer that was paid for is never cut off.
func TestPodIsKilledAfterTheDrain(t *testing.T) {
	t.Parallel()
	for set, all := range rendered(t) {
		p := podOf(t, all)
		s, grace := p.settings(t), time.Duration(p.Template.Spec.Grace)*time.Second
		if grace <= s.DrainTimeout+flushTimeout {
			t.Errorf("%s: the pod is killed after %s, within the drain of %s and the flush of %s", set, grace, s.DrainTimeout, flushTimeout)
		}
		if s.DrainTimeout <= s.CreateTimeout {
			t.Errorf("%s: a drain of %s ends before a create call of %s", set, s.DrainTimeout, s.CreateTimeout)
		}
	}
}

// The chart's `config` takes what `run` takes, but for what the chart sets itself
// and for secrets.
func TestChartTakesTheVariables(t *testing.T) {
	t.Parallel()
	var schema struct {
		Properties struct {
			Config struct {
				Properties map[string]any `json:"properties"`
			} `json:"config"`
		} `json:"properties"`
	}
	if err := json.Unmarshal([]byte(document(t, "deploy/helm/deploy-worker/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	taken := schema.Properties.Config.Properties
	// Where the configuration comes from, secrets, and what is for development.
	left := []string{"WORKER_CONFIG_FILE", "NATS_CONTEXT", "NATS_PASSWORD", "HOSTUP_API_TOKEN", "WORKER_DEV", "WORKER_DEV_DIR"}
	// What other values say.
	left = append(left, "NATS_URL", "NATS_CREDS", "NATS_NKEY", "NATS_CA", "NATS_CERT", "NATS_KEY",
		"HOSTUP_API_URL", "HOSTUP_API_TOKEN_FILE", "HOSTUP_CREATE_TIMEOUT", "WORKER_DRAIN_TIMEOUT", "WORKER_ADMIN_ADDR",
		"WORKER_STREAM", "WORKER_CONSUMER", "WORKER_EVENTS_STREAM", "WORKER_DEAD_STREAM", "WORKER_LEDGER", "WORKER_SUBJECT_PREFIX",
		"WORKER_REPLICAS", "WORKER_ACK_WAIT", "WORKER_LEDGER_TTL")
	known := make(map[string]bool)
	for _, f := range flags(t)["run"] {
		for _, variable := range f.Envs {
			known[variable] = true
			_, ok := taken[variable]
			switch elsewhere := slices.Contains(left, variable); {
			case ok && elsewhere:
				t.Errorf("`config` takes %s, which another value of the chart says, or which is a secret", variable)
			case !ok && !elsewhere:
				t.Errorf("nothing in the chart says %s: give `config` in values.schema.json a property for it", variable)
			}
		}
	}
	for variable := range taken {
		if !known[variable] {
			t.Errorf("values.schema.json takes %s, which `run` does not know", variable)
		}
	}
}

// NACK's objects are what `worker setup` would make with the pod's variables,
// field by field. The broker has the last word: where they are in place, setup
// finds nothing to do.
func TestNACKMakesWhatSetupMakes(t *testing.T) {
	t.Parallel()
	for set, all := range rendered(t) {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			topology := podOf(t, all).settings(t).topology()
			streams, consumers := nackObjects(t, all)

			want := topology.Streams()
			for i := range want {
				want[i].MaxConsumers = -1 // to the broker the same as 0
				for _, have := range streams {
					if have.Name == want[i].Name && (have.Name == topology.EventsStream || have.Name == topology.DeadStream) {
						want[i].MaxAge = have.MaxAge // the operator's choice, for setup, too
					}
				}
			}
			byName := func(a, b jetstream.StreamConfig) int { return cmp.Compare(a.Name, b.Name) }
			slices.SortFunc(want, byName)
			slices.SortFunc(streams, byName)
			if diff := gocmp.Diff(want, streams); diff != "" {
				t.Errorf("streams: -setup +NACK\n%s", diff)
			}
			wantConsumers := topology.Consumers()
			byDurable := func(a, b jetstream.ConsumerConfig) int { return cmp.Compare(a.Durable, b.Durable) }
			slices.SortFunc(wantConsumers, byDurable)
			slices.SortFunc(consumers, byDurable)
			if diff := gocmp.Diff(wantConsumers, consumers); diff != "" {
				t.Errorf("consumers: -setup +NACK\n%s", diff)
			}

			_, js := brokertest.Connect(t, brokertest.Start(t))
			topology.Replicas = 1 // a single server has no room for more
			for _, s := range streams {
				s.Replicas = topology.Replicas
				if _, err := js.CreateStream(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range consumers {
				if _, err := js.CreateConsumer(t.Context(), topology.Stream, c); err != nil {
					t.Fatal(err)
				}
			}
			plan, err := topology.Plan(t.Context(), js)
			if err != nil {
				t.Fatal(err)
			}
			if len(plan) != len(streams)+len(consumers) {
				t.Errorf("setup looks at %d objects", len(plan))
			}
			for _, c := range plan {
				if c.Action != broker.Keep {
					t.Errorf("setup would %s %s %s: %+v", c.Action, c.Kind, c.Name, c.Fields)
				}
			}
		})
	}
}

// nackObjects reads NACK's objects as its controller does. What the worker relies
// on must be said: the defaults of NACK are others than the broker's, such as
// memory for storage, no acks, and an age of a year.
func nackObjects(t *testing.T, all []manifest) (streams []jetstream.StreamConfig, consumers []jetstream.ConsumerConfig) {
	t.Helper()
	for _, m := range all {
		spec := nackSpec{t, m.Spec}
		switch m.Kind {
		case "Stream":
			s := jetstream.StreamConfig{
				Name: spec.text("name"), Description: spec.text("description"),
				MaxAge: spec.duration("maxAge"), Duplicates: spec.duration("duplicateWindow"),
				Replicas: spec.number("replicas"), MaxConsumers: spec.number("maxConsumers"),
				MaxMsgs: int64(spec.number("maxMsgs")), MaxBytes: int64(spec.number("maxBytes")),
				MaxMsgSize: int32(spec.number("maxMsgSize")), MaxMsgsPerSubject: int64(spec.number("maxMsgsPerSubject")),
				AllowDirect: spec.take("allowDirect") == true,
				// NACK leaves these off unless they are there.
				AllowRollup: spec.maybe("allowRollup") == true, DenyDelete: spec.maybe("denyDelete") == true,
				AllowMsgTTL: spec.maybe("allowMsgTtl") == true,
			}
			for _, subject := range spec.take("subjects").([]any) {
				s.Subjects = append(s.Subjects, subject.(string))
			}
			if _, ok := spec.is["subjectDeleteMarkerTtl"]; ok {
				s.SubjectDeleteMarkerTTL = spec.duration("subjectDeleteMarkerTtl")
			}
			spec.policy("storage", &s.Storage)
			spec.policy("retention", &s.Retention)
			spec.policy("discard", &s.Discard)
			streams = append(streams, s)
		case "Consumer":
			if have := spec.text("streamName"); len(streams) > 0 && !slices.ContainsFunc(streams, func(s jetstream.StreamConfig) bool { return s.Name == have }) {
				t.Errorf("a consumer of the stream %q, which is not made", have)
			}
			c := jetstream.ConsumerConfig{
				Durable: spec.text("durableName"), Description: spec.text("description"), FilterSubject: spec.text("filterSubject"),
				AckWait: spec.duration("ackWait"), MaxDeliver: spec.number("maxDeliver"), MaxAckPending: spec.number("maxAckPending"),
			}
			spec.policy("ackPolicy", &c.AckPolicy)
			spec.policy("deliverPolicy", &c.DeliverPolicy)
			consumers = append(consumers, c)
		default:
			continue
		}
		if spec.take("preventDelete") != true {
			t.Errorf("%s: who deletes the object deletes the orders", m.Kind)
		}
		spec.maybe("account")
		for key := range spec.is {
			t.Errorf("%s: %s is not compared", m.Kind, key)
		}
	}
	return streams, consumers
}

// nackSpec is the spec of one of NACK's objects, from which each member is taken
// once, so that what is left was not looked at.
type nackSpec struct {
	t  *testing.T
	is map[string]any
}

func (s nackSpec) maybe(key string) any {
	v := s.is[key]
	delete(s.is, key)
	return v
}

func (s nackSpec) take(key string) any {
	s.t.Helper()
	if _, ok := s.is[key]; !ok {
		s.t.Fatalf("%s is left to NACK", key)
	}
	return s.maybe(key)
}

func (s nackSpec) text(key string) string { s.t.Helper(); return s.take(key).(string) }

func (s nackSpec) number(key string) int { s.t.Helper(); return s.take(key).(int) }

func (s nackSpec) duration(key string) time.Duration {
	s.t.Helper()
	d, err := time.ParseDuration(s.text(key))
	if err != nil {
		s.t.Errorf("%s: %v", key, err)
	}
	return d
}

// policy reads a word that the broker has a type for.
func (s nackSpec) policy(key string, into json.Unmarshaler) {
	s.t.Helper()
	if err := into.UnmarshalJSON([]byte(`"` + s.text(key) + `"`)); err != nil {
		s.t.Errorf("%s: %v", key, err)
	}
}
