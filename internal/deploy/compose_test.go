package deploy

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composed is what of the Compose file is used here.
type composed struct {
	Services map[string]*service  `yaml:"services"`
	Volumes  map[string]yaml.Node `yaml:"volumes"`
}

type service struct {
	Image       string            `yaml:"image"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Volumes     []string          `yaml:"volumes"`
	Ports       []string          `yaml:"ports"`
	DependsOn   yaml.Node         `yaml:"depends_on"`
	Profiles    []string          `yaml:"profiles"`
	ReadOnly    bool              `yaml:"read_only"`
	CapDrop     []string          `yaml:"cap_drop"`
	SecurityOpt []string          `yaml:"security_opt"`
	Healthcheck struct {
		Disable bool `yaml:"disable"`
	} `yaml:"healthcheck"`
	StopGracePeriod string `yaml:"stop_grace_period"`
}

var withDefault = regexp.MustCompile(`\$\{([A-Z_]+):-([^}]*)\}`)

// compose reads the Compose file as it is without any variable set.
func compose(t *testing.T) composed {
	t.Helper()
	var c composed
	text := withDefault.ReplaceAllString(shipped(t, "compose.yaml"), "$2")
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// The services of ours are as closed as the image allows, use a user of their
// own on the broker, and have the file that this user is in.
func TestCompose(t *testing.T) {
	t.Parallel()

	c := compose(t)
	users := regexp.MustCompile(`user: (\w+), password: \$(DEPLOY_NATS_\w+)`).FindAllStringSubmatch(shipped(t, "nats-accounts.conf"), -1)
	password := make(map[string]string)
	for _, u := range users {
		password[u[1]] = c.Services["nats"].Environment[u[2]]
		if password[u[1]] == "" {
			t.Errorf("nats has no %s", u[2])
		}
	}
	if len(users) != 5 {
		t.Errorf("%d users were found", len(users))
	}
	for name, user := range map[string]string{"worker": "worker", "setup": "operator"} {
		e := c.Services[name].Environment
		if e["NATS_USER"] != user || e["NATS_PASSWORD"] != password[user] || e["NATS_INBOX_PREFIX"] != "_INBOX_"+user {
			t.Errorf("%s connects with %v", name, e)
		}
	}
	if _, ok := c.Services["worker"].Environment["WORKER_PROVISION"]; ok {
		t.Error("the worker may not make streams, setup does")
	}
	for name, s := range c.Services {
		if s.Image != "deploy-worker" {
			continue
		}
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s is not closed: %+v", name, s)
		}
		if s.Healthcheck.Disable == (s.Command[0] == "run") {
			t.Errorf("%s: only a worker can be asked for its health", name)
		}
	}
	mounted := strings.Join(c.Services["nats"].Volumes, " ")
	for _, file := range included(shipped(t, "nats.conf")) {
		if !strings.Contains(mounted, "./"+file+":/etc/nats/"+file+":ro") {
			t.Errorf("nats has no %s", file)
		}
	}
}

// included lists the files that a configuration of nats-server includes.
func included(conf string) (files []string) {
	for _, m := range regexp.MustCompile(`(?m)^include (\S+)`).FindAllStringSubmatch(conf, -1) {
		files = append(files, m[1])
	}
	return files
}
