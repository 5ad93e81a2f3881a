package charttest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

// What `helm lint --strict` says, for every set of values.
func TestLint(t *testing.T) {
	t.Parallel()
	for name, told := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			linter := lint.AllWithKubeVersion(chartDir, told, "orders", &kubernetes)
			for _, m := range linter.Messages {
				if m.Severity >= support.WarningSev {
					t.Error(m)
				}
			}
			if len(linter.Messages) == 0 {
				t.Error("the linter has not even missed the icon: it looked at nothing")
			}
		})
	}
}

// A wrong value is refused with its name, before anything reaches a cluster.
func TestWrongValuesAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		told values
		want string
	}{
		{set("drainTimeoutSeconds", 60), "drainTimeoutSeconds is 60 and must exceed hostup.createTimeoutSeconds, 60"},
		{set("drainTimeoutSeconds", "75s"), "drainTimeoutSeconds"},
		{set("terminationGracePeriodSeconds", 10), "terminationGracePeriodSeconds"},
		{set("hostup.tokenSecret.name", ""), "hostup/tokenSecret/name"},
		{set("hostup.token", "secret"), "token"},
		{set("hostup.url", "cloud.hostup.se"), "hostup/url"},
		{set("nats.url", "nats://user:password@nats:4222"), "nats/url"},
		{set("config.WORKER_CONCURENCY", 4), "WORKER_CONCURENCY"},
		{set("config.WORKER_CONCURRENCY", 0), "config/WORKER_CONCURRENCY"},
		{set("config.WORKER_DEADLINE", "one day"), "config/WORKER_DEADLINE"},
		{set("config.WORKER_LIMIT_POLICY", "maybe"), "config/WORKER_LIMIT_POLICY"},
		{set("config.HOSTUP_API_TOKEN", "secret"), "HOSTUP_API_TOKEN"},
		{set("jetstream.stream", "DEP.LOY"), "jetstream/stream"},
		{set("jetstream.replicas", 7), "jetstream/replicas"},
		{set("jetstream.ledgerTTL", "30d"), "jetstream/ledgerTTL"},
		{set("resources.limits.memory", "128"), "resources/limits/memory"},
		{set("networkPolicy.nats.peers", []any{}), "networkPolicy/nats/peers"},
		{set("keda", values{"enabled": true, "minReplicas": 5}), "keda.minReplicas is 5 and keda.maxReplicas 4"},
		{set("keda.monitoringEndpoint", "http://nats:8222"), "keda/monitoringEndpoint"},
		{set("image.digest", "latest"), "image/digest"},
	} {
		t.Run(c.want, func(t *testing.T) {
			t.Parallel()
			_, err := render(release, "orders", c.told)
			if err == nil {
				t.Fatalf("%v was taken", c.told)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: the message does not say %q:\n%v", c.told, c.want, err)
			}
		})
	}
}

// The set of everything has each variable that `config` takes: the worker's own
// tests then try whether it takes what the schema lets pass.
func TestEverythingHasEachVariable(t *testing.T) {
	t.Parallel()
	var schema map[string]any
	if err := json.Unmarshal([]byte(read(t, chartDir+"/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	taken := at(schema, "properties", "config", "properties").(map[string]any)
	told := at(valueSets(t)["everything"], "config").(map[string]any)
	for variable := range taken {
		if _, ok := told[variable]; !ok {
			t.Errorf("testdata/values/everything.yaml lacks %s: add it to config, and run `make deploy-render`", variable)
		}
	}
}

// The three commands after an installation, with this installation's names.
func TestNotes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		told values
		want []string
	}{
		"setup": {nil, []string{
			"kubectl -n orders create secret generic hostup-api --from-file=token=key.txt",
			"worker setup --nats-url URL --replicas 3 --stream DEPLOY ",
			"kubectl -n orders exec deploy/deploy-worker -- /usr/local/bin/worker doctor",
		}},
		"nack": {set("nack.enabled", true), []string{
			"kubectl -n orders create secret",
			"kubectl -n orders get streams.jetstream.nats.io,consumers.jetstream.nats.io",
			"worker doctor",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, err := render(release, "orders", c.told)
			if err != nil {
				t.Fatal(err)
			}
			rest := files["NOTES"]
			for i, want := range c.want {
				_, after, found := strings.Cut(rest, want)
				if !found || !strings.Contains(rest, fmt.Sprintf("\n%d. ", i+1)) {
					t.Fatalf("no %d. %q in, or not in this order:\n%s", i+1, want, files["NOTES"])
				}
				rest = after
			}
		})
	}
}

// What belongs to a release is named after it, so that two fit in one namespace,
// and the rules find both: they look for jobs with deploy-worker in the name.
func TestNamesFollowTheRelease(t *testing.T) {
	t.Parallel()
	told := valueSets(t)["everything"]
	for _, c := range []struct{ release, prefix string }{
		{"shop", "shop-deploy-worker"},
		{"deploy-worker-eu", "deploy-worker-eu"},
		{strings.Repeat("long", 13), strings.Repeat("long", 8) + "-deploy-worker"},
	} {
		for key, o := range made(t, c.release, "orders", told) {
			name, _ := at(o, "metadata", "name").(string)
			if !strings.HasPrefix(name, c.prefix) || len(name) > 63 {
				t.Errorf("release %s makes %s", c.release, key)
			}
		}
	}
}
