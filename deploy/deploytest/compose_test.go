package deploytest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

func project(t *testing.T, environment, profiles []string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions(
		[]string{filepath.Join("..", "compose.yaml")},
		cli.WithEnv(environment), cli.WithProfiles(profiles), cli.WithName("deploy"), cli.WithResolvedPaths(true),
	)
	if err != nil {
		t.Fatal(err)
	}
	p, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// profile is what is started for those who want to look.
const profile = "observability"

// The file is sound Compose; without the profile it is what it always was, with it
// there is something to look at everything with.
func TestComposeProfiles(t *testing.T) {
	t.Parallel()
	plain := []string{"nats", "setup", "simulator", "worker"}
	if got := project(t, nil, nil).ServiceNames(); !slices.Equal(slices.Sorted(slices.Values(got)), plain) {
		t.Errorf("without a profile: %v, want %v", got, plain)
	}
	all := append(slices.Clone(plain), "collector", "grafana", "jaeger", "prometheus")
	slices.Sort(all)
	if got := project(t, nil, []string{profile}).ServiceNames(); !slices.Equal(slices.Sorted(slices.Values(got)), all) {
		t.Errorf("with the profile: %v, want %v", got, all)
	}
}

var pinned = regexp.MustCompile(`:v?\d+\.\d+\.\d+$`)

// Images are pinned, ports are on loopback and taken once, and what is mounted is
// there.
func TestComposeServices(t *testing.T) {
	t.Parallel()
	taken := make(map[string]string)
	for name, s := range project(t, nil, []string{profile}).Services {
		if s.Build == nil && !pinned.MatchString(s.Image) {
			t.Errorf("%s has the image %s, which is no exact version", name, s.Image)
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %s on %q, not on loopback only", name, p.Published, p.HostIP)
			}
			if other, ok := taken[p.Published]; ok {
				t.Errorf("%s and %s publish the same port %s", name, other, p.Published)
			}
			taken[p.Published] = name
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if !v.ReadOnly {
				t.Errorf("%s may write to %s", name, v.Source)
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s mounts what is not there: %v", name, err)
			}
		}
	}
}

// The worker exports nothing unless it is asked to, and then to a service that
// takes it.
func TestComposeTelemetry(t *testing.T) {
	t.Parallel()
	const variable = "OTEL_EXPORTER_OTLP_ENDPOINT"
	for _, want := range []string{"", "http://collector:4318"} {
		p := project(t, []string{variable + "=" + want}, []string{profile})
		if got := p.Services["worker"].Environment[variable]; got == nil || *got != want {
			t.Errorf("the worker's %s is %v, want %q", variable, got, want)
		}
	}
	var c struct {
		Receivers map[string]struct {
			Protocols map[string]struct {
				Endpoint string `yaml:"endpoint"`
			} `yaml:"protocols"`
		} `yaml:"receivers"`
		Processors map[string]yaml.Node `yaml:"processors"`
		Exporters  map[string]struct {
			Endpoint string `yaml:"endpoint"`
		} `yaml:"exporters"`
		Service struct {
			Pipelines map[string]struct {
				Receivers, Processors, Exporters []string
			} `yaml:"pipelines"`
		} `yaml:"service"`
	}
	if err := yaml.Unmarshal(read(t, "deploy", "observability", "collector.yaml"), &c); err != nil {
		t.Fatal(err)
	}
	if got := c.Receivers["otlp"].Protocols["http"].Endpoint; got != "0.0.0.0:4318" {
		t.Errorf("the collector takes OTLP on %q", got)
	}
	if len(c.Service.Pipelines["traces"].Exporters) == 0 {
		t.Error("nobody gets the traces")
	}
	services := project(t, nil, []string{profile}).Services
	for name, pipeline := range c.Service.Pipelines {
		for _, r := range pipeline.Receivers {
			if _, ok := c.Receivers[r]; !ok {
				t.Errorf("the pipeline %s has the receiver %s, which is not there", name, r)
			}
		}
		for _, p := range pipeline.Processors {
			if _, ok := c.Processors[p]; !ok {
				t.Errorf("the pipeline %s has the processor %s, which is not there", name, p)
			}
		}
		for _, e := range pipeline.Exporters {
			host, _, _ := strings.Cut(c.Exporters[e].Endpoint, ":")
			if _, ok := services[host]; !ok {
				t.Errorf("the pipeline %s exports to %q, which is no service", name, c.Exporters[e].Endpoint)
			}
		}
	}
}

// Prometheus scrapes the worker, and Grafana finds both data sources and the
// dashboard.
func TestComposeConfigurations(t *testing.T) {
	t.Parallel()
	services := project(t, nil, []string{profile}).Services
	var prometheus struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName string `yaml:"job_name"`
			DNS     []struct {
				Names []string `yaml:"names"`
				Port  int      `yaml:"port"`
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	var sources struct {
		Datasources []struct {
			UID, Type, URL string
		} `yaml:"datasources"`
	}
	for file, into := range map[string]any{
		"prometheus/prometheus.yaml":                        &prometheus,
		"grafana/provisioning/datasources/datasources.yaml": &sources,
	} {
		if err := yaml.Unmarshal(read(t, "deploy", file), into); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range prometheus.ScrapeConfigs {
		for _, d := range s.DNS {
			for _, name := range d.Names {
				if _, ok := services[name]; !ok || d.Port != 9090 {
					t.Errorf("%s scrapes %s:%d, which is not there", s.JobName, name, d.Port)
				}
			}
		}
	}
	mounted := func(service, target string) bool {
		return slices.ContainsFunc(services[service].Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == target })
	}
	for _, f := range prometheus.RuleFiles {
		if !mounted("prometheus", "/etc/prometheus/"+f) {
			t.Errorf("Prometheus has no %s", f)
		}
	}
	if len(prometheus.RuleFiles) == 0 || len(prometheus.ScrapeConfigs) == 0 {
		t.Error("Prometheus scrapes nothing, or has no rules")
	}
	for _, s := range sources.Datasources {
		host, _, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
		if _, ok := services[host]; !ok || s.UID != s.Type {
			t.Errorf("the data source %s at %s is not there", s.UID, s.URL)
		}
	}
	if len(sources.Datasources) != 2 || !mounted("grafana", "/var/lib/grafana/dashboards/deploy-worker.json") || !mounted("grafana", "/etc/grafana/provisioning") {
		t.Error("Grafana lacks a data source or the dashboard")
	}
}
