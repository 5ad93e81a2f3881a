package charttest

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// as reads an object into its type, and refuses a field that the type lacks.
func as[T any](t *testing.T, o map[string]any) *T {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	typed := new(T)
	if err := yaml.UnmarshalStrict(text, typed); err != nil {
		t.Errorf("%v: %v", o["kind"], err)
	}
	return typed
}

// Every object is one that its API takes, for every set of values.
func TestObjectsAreValid(t *testing.T) {
	t.Parallel()
	custom := customSchemas(t)
	for name, told := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for key, o := range made(t, release, "orders", told) {
				switch kind := o["apiVersion"].(string) + " " + o["kind"].(string); kind {
				case "apps/v1 Deployment":
					as[appsv1.Deployment](t, o)
				case "v1 Service":
					as[corev1.Service](t, o)
				case "v1 ServiceAccount":
					as[corev1.ServiceAccount](t, o)
				case "policy/v1 PodDisruptionBudget":
					as[policyv1.PodDisruptionBudget](t, o)
				case "networking.k8s.io/v1 NetworkPolicy":
					as[networkingv1.NetworkPolicy](t, o)
				default:
					schema := custom[kind]
					if schema == nil {
						t.Fatalf("%s: no schema for %s", key, kind)
					}
					if err := schema.Validate(o); err != nil {
						t.Errorf("%s: %v", key, err)
					}
				}
			}
		})
	}
}

// customSchemas compiles crds, closed: a field that is not in it is a mistake, and
// not, as in a cluster, silently gone.
func customSchemas(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	files, err := filepath.Glob("crds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no schemas: %v", err)
	}
	schemas := make(map[string]*jsonschema.Schema)
	for _, file := range files {
		var crd struct {
			Spec struct {
				Group    string
				Names    struct{ Kind string }
				Versions []struct {
					Name   string
					Schema struct{ OpenAPIV3Schema map[string]any }
				}
			}
		}
		if err := yaml.Unmarshal([]byte(read(t, file)), &crd); err != nil {
			t.Fatal(err)
		}
		for _, v := range crd.Spec.Versions {
			c := jsonschema.NewCompiler()
			if err := c.AddResource(file, closed(v.Schema.OpenAPIV3Schema)); err != nil {
				t.Fatal(err)
			}
			schema, err := c.Compile(file)
			if err != nil {
				t.Fatal(err)
			}
			schemas[crd.Spec.Group+"/"+v.Name+" "+crd.Spec.Names.Kind] = schema
		}
	}
	return schemas
}

func closed(schema any) any {
	switch s := schema.(type) {
	case map[string]any:
		if _, fields := s["properties"].(map[string]any); fields {
			s["additionalProperties"] = false
		}
		for _, inner := range s {
			closed(inner)
		}
	case []any:
		for _, inner := range s {
			closed(inner)
		}
	}
	return schema
}

func deployment(t *testing.T, told values) *appsv1.Deployment {
	t.Helper()
	d := made(t, release, "orders", told)["Deployment deploy-worker"]
	if d == nil {
		t.Fatal("no Deployment")
	}
	return as[appsv1.Deployment](t, d)
}

// The pod meets the strictest Pod Security Standard, as the cluster judges it.
func TestPodIsRestricted(t *testing.T) {
	t.Parallel()
	judge, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, told := range valueSets(t) {
		pod := deployment(t, told).Spec.Template
		level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
		verdict := policy.AggregateCheckResults(judge.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec))
		if !verdict.Allowed {
			t.Errorf("%s: %s", name, verdict.ForbiddenDetail())
		}
		c := pod.Spec.Containers[0].SecurityContext
		if c.ReadOnlyRootFilesystem == nil || !*c.ReadOnlyRootFilesystem {
			t.Errorf("%s: the root file system can be written", name)
		}
		if m := pod.Spec.AutomountServiceAccountToken; m == nil || *m {
			t.Errorf("%s: the pod has a token for the cluster's API", name)
		}
	}
}

// Liveness must not ask what an outage of NATS or HostUp, or the brake, answers:
// a restart would mend none of them.
func TestProbes(t *testing.T) {
	t.Parallel()
	for name, told := range valueSets(t) {
		c := deployment(t, told).Spec.Template.Spec.Containers[0]
		for kind, p := range map[string]struct {
			probe *corev1.Probe
			path  string
		}{
			"startup": {c.StartupProbe, "/healthz"}, "liveness": {c.LivenessProbe, "/healthz"}, "readiness": {c.ReadinessProbe, "/readyz"},
		} {
			switch {
			case p.probe == nil || p.probe.HTTPGet == nil:
				t.Errorf("%s: no %s probe over HTTP", name, kind)
			case p.probe.HTTPGet.Path != p.path || p.probe.HTTPGet.Port.StrVal != "admin":
				t.Errorf("%s: the %s probe asks %s on port %s, not %s on the admin port", name, kind, p.probe.HTTPGet.Path, p.probe.HTTPGet.Port.String(), p.path)
			}
		}
	}
}

// GOMEMLIMIT is what is requested, which leaves room below the limit for what the
// garbage collector does not count.
func TestMemory(t *testing.T) {
	t.Parallel()
	for name, told := range valueSets(t) {
		c := deployment(t, told).Spec.Template.Spec.Containers[0]
		i := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "GOMEMLIMIT" })
		if i < 0 || c.Env[i].ValueFrom == nil || c.Env[i].ValueFrom.ResourceFieldRef == nil || c.Env[i].ValueFrom.ResourceFieldRef.Resource != "requests.memory" {
			t.Errorf("%s: GOMEMLIMIT is not requests.memory", name)
		}
		request, limit := c.Resources.Requests.Memory(), c.Resources.Limits.Memory()
		if request.IsZero() || request.Cmp(*limit) >= 0 {
			t.Errorf("%s: requests %s of memory and is limited to %s", name, request, limit)
		}
	}
}

// The API key is a file in a directory that the kubelet swaps as a whole. With
// subPath, or as a variable, a new key would never arrive.
func TestSecretsRotate(t *testing.T) {
	t.Parallel()
	for name, told := range valueSets(t) {
		spec := deployment(t, told).Spec.Template.Spec
		c := spec.Containers[0]
		for _, m := range c.VolumeMounts {
			if m.SubPath != "" || m.SubPathExpr != "" || !m.ReadOnly {
				t.Errorf("%s: the mount %s has a subPath or can be written", name, m.MountPath)
			}
		}
		files := make(map[string]bool)
		for _, source := range spec.Volumes[0].Projected.Sources {
			for _, item := range source.Secret.Items {
				files[c.VolumeMounts[0].MountPath+"/"+item.Path] = true
			}
		}
		for _, e := range c.Env {
			if e.Name == "HOSTUP_API_TOKEN" {
				t.Errorf("%s: the API key is a variable", name)
			}
			if strings.HasPrefix(e.Value, c.VolumeMounts[0].MountPath) && !files[e.Value] {
				t.Errorf("%s: %s is %s, which no Secret makes", name, e.Name, e.Value)
			}
			delete(files, e.Value)
		}
		if len(files) > 0 {
			t.Errorf("%s: no variable names %v", name, slices.Collect(maps.Keys(files)))
		}
	}
}

// Selectors find the pods, and names lead from one object to the next.
func TestObjectsFindEachOther(t *testing.T) {
	t.Parallel()
	for name, told := range valueSets(t) {
		all := made(t, release, "orders", told)
		pod := deployment(t, told).Spec.Template
		for key, selector := range map[string]any{
			"Deployment":          at(all["Deployment deploy-worker"], "spec", "selector", "matchLabels"),
			"Service":             at(all["Service deploy-worker"], "spec", "selector"),
			"PodDisruptionBudget": at(all["PodDisruptionBudget deploy-worker"], "spec", "selector", "matchLabels"),
			"NetworkPolicy":       at(all["NetworkPolicy deploy-worker"], "spec", "podSelector", "matchLabels"),
			"ServiceMonitor":      at(all["ServiceMonitor deploy-worker"], "spec", "selector", "matchLabels"),
		} {
			if all[key+" deploy-worker"] == nil {
				continue // switched off; which objects there are is for TestKustomize and the golden file
			}
			labels, _ := selector.(map[string]any)
			if len(labels) == 0 {
				t.Errorf("%s: %s selects everything", name, key)
			}
			for label, value := range labels {
				if pod.Labels[label] != value {
					t.Errorf("%s: %s selects %s=%v, and the pod has %q", name, key, label, value, pod.Labels[label])
				}
			}
		}
		if pod.Spec.ServiceAccountName != "deploy-worker" || all["ServiceAccount deploy-worker"] == nil {
			t.Errorf("%s: the pod's account %q does not exist", name, pod.Spec.ServiceAccountName)
		}
		if s := all["ScaledObject deploy-worker"]; s != nil {
			if at(s, "spec", "scaleTargetRef", "name") != "deploy-worker" {
				t.Errorf("%s: KEDA scales %v", name, at(s, "spec", "scaleTargetRef"))
			}
			if at(all["Deployment deploy-worker"], "spec", "replicas") != nil {
				t.Errorf("%s: KEDA and the chart both set the replicas", name)
			}
		}
	}
}

// The network policy opens what the worker calls and nothing else.
func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	p := as[networkingv1.NetworkPolicy](t, made(t, release, "orders", nil)["NetworkPolicy deploy-worker"])
	if !slices.Equal(p.Spec.PolicyTypes, []networkingv1.PolicyType{"Ingress", "Egress"}) {
		t.Errorf("it covers %v", p.Spec.PolicyTypes)
	}
	if in := p.Spec.Ingress; len(in) != 1 || len(in[0].From) != 1 || len(in[0].Ports) != 1 || in[0].Ports[0].Port.StrVal != "admin" {
		t.Errorf("lets in %+v: only monitoring may, on the admin port", in)
	}
	var ports []string
	for _, rule := range p.Spec.Egress {
		if len(rule.To) == 0 {
			t.Errorf("%+v goes anywhere", rule.Ports)
		}
		for _, port := range rule.Ports {
			ports = append(ports, port.Port.String()+"/"+string(*port.Protocol))
		}
	}
	if want := []string{"53/UDP", "53/TCP", "4222/TCP", "443/TCP"}; !slices.Equal(ports, want) {
		t.Errorf("lets out %v, wanted %v", ports, want)
	}
	// No peers would mean everybody.
	p = as[networkingv1.NetworkPolicy](t, made(t, release, "orders", set("networkPolicy.monitoring", []any{}))["NetworkPolicy deploy-worker"])
	if len(p.Spec.Ingress) != 0 {
		t.Errorf("without peers it lets in %+v", p.Spec.Ingress)
	}
}

// KEDA watches both consumers, and keeps a replica unless told otherwise.
func TestScaling(t *testing.T) {
	t.Parallel()
	s := made(t, release, "orders", set("keda.enabled", true))["ScaledObject deploy-worker"]
	if least := at(s, "spec", "minReplicaCount"); least != 1.0 {
		t.Errorf("keeps %v replicas", least)
	}
	var consumers []any
	for _, trigger := range at(s, "spec", "triggers").([]any) {
		if at(trigger, "type") != "nats-jetstream" || at(trigger, "metadata", "stream") != "DEPLOY" || at(trigger, "metadata", "account") != "$G" {
			t.Errorf("trigger %v", trigger)
		}
		consumers = append(consumers, at(trigger, "metadata", "consumer"))
	}
	if !slices.Equal(consumers, []any{"deploy-worker", "deploy-worker-batch"}) {
		t.Errorf("watches %v", consumers)
	}
}
