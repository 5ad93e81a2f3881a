package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// flags returns the flags of every command by its name, as the program has
// them.
func flags(t *testing.T) map[string][]*kong.Flag {
	t.Helper()
	parser, err := kong.New(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]*kong.Flag)
	for _, leaf := range parser.Model.Leaves(false) {
		for _, group := range leaf.AllFlags(false) {
			found[leaf.Path()] = append(found[leaf.Path()], group...)
		}
	}
	return found
}

func TestHelp(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	for name, fs := range flags(t) {
		args := append(strings.Fields(name), "--help")
		r := command(t, nil, args...)
		equal(t, "exit code of "+name+" --help", r.code, exitDone)
		for _, f := range fs {
			for _, variable := range f.Envs {
				if !strings.Contains(r.out, variable) {
					t.Errorf("%s --help does not mention %s", name, variable)
				}
			}
			if f.Name != "help" && len(f.Envs) == 0 {
				t.Errorf("%s --%s has no variable", name, f.Name)
			}
		}
		if r.err != "" {
			t.Errorf("%s --help writes to stderr: %s", name, r.err)
		}
	}
	for _, args := range [][]string{{"--help"}, {}} {
		r := command(t, nil, args...)
		equal(t, "exit code", r.code, exitDone)
		for name := range flags(t) {
			if !strings.Contains(r.out, name) {
				t.Errorf("the help does not mention the command %s", name)
			}
		}
	}
}

//nolint:paralleltest,tparallel // one process at a time is enough
func TestUsageErrors(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	const nowhere = "nats://127.0.0.1:1"
	unknownKeys := file(t, "config.yaml", "WORKER_STREAM: X\nworker_strem: Y\ncolour: blue\n")
	noYAML := file(t, "config.yaml", "{: nope")
	badValues := file(t, "config.yaml", "concurrency: many\nWORKER_BACKOFF_MAX: 3\n")
	for _, test := range []struct {
		about string
		env   map[string]string
		args  []string
		code  int
		says  []string
	}{
		{"unknown command", nil, []string{"deploy"}, exitUsage, []string{"deploy", "--help"}},
		{"unknown flag", nil, []string{"run", "--colour"}, exitUsage, []string{"--colour"}},
		{"too many words", nil, []string{"version", "please"}, exitUsage, []string{"please"}},
		{"no key", map[string]string{"NATS_URL": nowhere}, []string{"run"}, exitUsage, []string{"HOSTUP_API_TOKEN", "HOSTUP_API_TOKEN_FILE", "--dev"}},
		{"two keys", map[string]string{"HOSTUP_API_TOKEN": "a", "HOSTUP_API_TOKEN_FILE": "b"}, []string{"run"}, exitUsage, []string{"HOSTUP_API_TOKEN", "HOSTUP_API_TOKEN_FILE"}},
		{"a key file that is not there", map[string]string{"HOSTUP_API_TOKEN_FILE": "/nowhere/key"}, []string{"run"}, exitUsage, []string{"HOSTUP_API_TOKEN_FILE", "/nowhere/key"}},
		{"plain http to elsewhere", map[string]string{"HOSTUP_API_TOKEN": "a", "HOSTUP_API_URL": "http://cloud.hostup.se/api/v2", "NATS_URL": nowhere}, []string{"run"}, exitUsage, []string{"HOSTUP_API_URL", "http"}},
		{"a password in the address", map[string]string{"HOSTUP_API_TOKEN": "a", "HOSTUP_API_URL": "https://someone:pa55word@example.com/api/v2"}, []string{"config"}, exitUsage, []string{"HOSTUP_API_URL"}},
		{"everything that cannot be read, at once", map[string]string{
			"WORKER_CONCURRENCY": "several", "WORKER_ACK_WAIT": "soon", "HOSTUP_CREATE_TIMEOUT": "60", "WORKER_PROVISION": "perhaps", "WORKER_REPLICAS": "1.5", "HOSTUP_API_TOKEN": "a",
		}, []string{"run"}, exitUsage, []string{"WORKER_CONCURRENCY", "several", "WORKER_ACK_WAIT", "soon", "HOSTUP_CREATE_TIMEOUT", `"60"`, "WORKER_PROVISION", "perhaps", "WORKER_REPLICAS", "1.5"}},
		{"everything that cannot work, at once", map[string]string{
			"WORKER_CONCURRENCY": "0", "WORKER_STREAM": "a.b", "WORKER_SUBJECT_PREFIX": "deploy.>", "WORKER_REPLICAS": "6", "WORKER_ACK_WAIT": "-1s", "WORKER_LEDGER_TTL": "0s",
			"WORKER_INLINE_WAIT": "-1s", "WORKER_BACKOFF_INITIAL": "2m", "WORKER_DRAIN_TIMEOUT": "10s", "WORKER_LIMIT_POLICY": "never", "WORKER_AUTH_POLICY": "shrug",
			"WORKER_LOG_LEVEL": "loud", "WORKER_LOG_FORMAT": "poem", "HOSTUP_READ_TIMEOUT": "0s", "HOSTUP_API_TOKEN": "a",
			"WORKER_SETTLE_ANSWERED": "0s", "WORKER_SETTLE_UNANSWERED": "-2m", "WORKER_SETTLE_READS": "0", "WORKER_UNKNOWN_POLICY": "guess", "WORKER_AUDIT_EVERY": "-1h",
		}, []string{"run"}, exitUsage, []string{
			"WORKER_SETTLE_ANSWERED=0s", "WORKER_SETTLE_UNANSWERED=-2m", "WORKER_SETTLE_READS=0", "WORKER_UNKNOWN_POLICY", "guess", "WORKER_AUDIT_EVERY=-1h",
			"WORKER_CONCURRENCY=0", "WORKER_STREAM", "a.b", "WORKER_SUBJECT_PREFIX", "deploy.>", "WORKER_REPLICAS=6", "WORKER_ACK_WAIT=-1s", "WORKER_LEDGER_TTL",
			"WORKER_INLINE_WAIT", "WORKER_BACKOFF_MAX", "WORKER_DRAIN_TIMEOUT=10s", "HOSTUP_CREATE_TIMEOUT", "WORKER_LIMIT_POLICY", "never", "WORKER_AUTH_POLICY", "shrug",
			"WORKER_LOG_LEVEL", "loud", "WORKER_LOG_FORMAT", "poem", "HOSTUP_READ_TIMEOUT",
		}},
		{"the same of config", map[string]string{"WORKER_CONCURRENCY": "0", "WORKER_LOG_LEVEL": "loud"}, []string{"config"}, exitUsage, []string{"WORKER_CONCURRENCY", "WORKER_LOG_LEVEL"}},
		{"the same of setup", map[string]string{"WORKER_STREAM": "", "WORKER_LEDGER": "*", "WORKER_REPLICAS": "0"}, []string{"setup"}, exitUsage, []string{"WORKER_LEDGER", "WORKER_REPLICAS"}},
		{"the same by flags", nil, []string{"setup", "--stream=a b", "--replicas=9"}, exitUsage, []string{"WORKER_STREAM", "a b", "WORKER_REPLICAS=9"}},
		{
			"bad values of the file and the environment",
			map[string]string{"WORKER_CONFIG_FILE": badValues, "WORKER_ACK_WAIT": "soon"},
			[]string{"config"},
			exitUsage,
			[]string{"WORKER_CONCURRENCY", "many", "WORKER_BACKOFF_MAX", `"3"`, "WORKER_ACK_WAIT", "soon", "file"},
		},
		{"unknown keys of a file", nil, []string{"config", "--config-file", unknownKeys}, exitUsage, []string{unknownKeys, "worker_strem", "colour"}},
		{"a file that is no YAML", map[string]string{"WORKER_CONFIG_FILE": noYAML}, []string{"config"}, exitUsage, []string{noYAML}},
		{"a file that is not there", map[string]string{"WORKER_CONFIG_FILE": "/nowhere/c.yaml"}, []string{"config"}, exitUsage, []string{"/nowhere/c.yaml"}},
		{"an output that is none", nil, []string{"config", "-o", "xml"}, exitUsage, []string{"xml"}},
		{"a fault that is none", map[string]string{"SIMULATE_FAULTS": "explode"}, []string{"simulate"}, exitUsage, []string{"SIMULATE_FAULTS", "explode"}},
		{"resolve without a key", map[string]string{"HOSTUP_API_TOKEN": "a"}, []string{"resolve", "--abandon", "--reason", "x"}, exitUsage, []string{"<key>"}},
		{"resolve without a reason", map[string]string{"HOSTUP_API_TOKEN": "a"}, []string{"resolve", "k", "--abandon"}, exitUsage, []string{"--reason"}},
		{"resolve with an empty reason", map[string]string{"HOSTUP_API_TOKEN": "a"}, []string{"resolve", "k", "--abandon", "--reason="}, exitUsage, []string{"--reason"}},
		{"resolve without a decision", map[string]string{"HOSTUP_API_TOKEN": "a"}, []string{"resolve", "k", "--reason", "x"}, exitUsage, []string{"--adopt", "--not-created", "--abandon"}},
		{"resolve with two decisions", map[string]string{"HOSTUP_API_TOKEN": "a"}, []string{"resolve", "k", "--adopt", "vps_1", "--abandon", "--reason", "x"}, exitUsage, []string{"exactly one"}},
		{"resolve without a price", map[string]string{"HOSTUP_API_TOKEN": "a"}, []string{"resolve", "k", "--abandon", "--billed", "perhaps", "--reason", "x"}, exitUsage, []string{"perhaps"}},
		{"resolve without an API key", nil, []string{"resolve", "k", "--abandon", "--reason", "x"}, exitUsage, []string{"HOSTUP_API_TOKEN"}},
		{"resolve without a broker", map[string]string{"HOSTUP_API_TOKEN": "a", "NATS_URL": nowhere}, []string{"resolve", "k", "--abandon", "--reason", "x"}, exitFailed, []string{"127.0.0.1:1", "NATS_URL"}},
		{"audit without an API key", nil, []string{"audit"}, exitUsage, []string{"HOSTUP_API_TOKEN"}},
		{"audit as what is none", map[string]string{"HOSTUP_API_TOKEN": "a"}, []string{"audit", "-o", "csv"}, exitUsage, []string{"csv"}},
		{"audit without a broker", map[string]string{"HOSTUP_API_TOKEN": "a", "NATS_URL": nowhere}, []string{"audit"}, exitFailed, []string{"127.0.0.1:1", "NATS_URL"}},
		{"pause without a reason", nil, []string{"pause"}, exitUsage, []string{"--reason"}},
		{"pause with an empty reason", nil, []string{"pause", "--reason="}, exitUsage, []string{"--reason"}},
		{"pause with an empty reason in the environment", map[string]string{"WORKER_BRAKE_REASON": ""}, []string{"pause"}, exitUsage, []string{"--reason"}},
		{"pause as what is none", nil, []string{"pause", "--reason", "x", "-o", "xml"}, exitUsage, []string{"xml"}},
		{"pause of no ledger", map[string]string{"WORKER_LEDGER": "*"}, []string{"pause", "--reason", "x"}, exitUsage, []string{"WORKER_LEDGER"}},
		{"pause without a broker", map[string]string{"NATS_URL": "nats://someone:pa55word@127.0.0.1:1"}, []string{"pause", "--reason", "x"}, exitFailed, []string{"127.0.0.1:1", "NATS_URL"}},
		{"resume without a reason", nil, []string{"resume"}, exitUsage, []string{"--reason"}},
		{"resume with an empty reason", nil, []string{"resume", "--reason", ""}, exitUsage, []string{"--reason"}},
		{"resume without a broker", map[string]string{"NATS_URL": nowhere}, []string{"resume", "--reason", "x"}, exitFailed, []string{"127.0.0.1:1", "NATS_URL"}},
		{
			"bad bounds",
			map[string]string{"HOSTUP_API_TOKEN": "a", "WORKER_BREAKER_UNKNOWNS": "-1", "WORKER_MAX_CREATES_PER_HOUR": "-20", "WORKER_MAX_HOURLY_COST": "-0.01"},
			[]string{"run"},
			exitUsage,
			[]string{"WORKER_BREAKER_UNKNOWNS=-1", "WORKER_MAX_CREATES_PER_HOUR=-20", "WORKER_MAX_HOURLY_COST=-0.01"},
		},
		{
			"bounds that are no numbers",
			map[string]string{"HOSTUP_API_TOKEN": "a", "WORKER_BREAKER_UNKNOWNS": "some", "WORKER_MAX_CREATES_PER_HOUR": "2.5", "WORKER_MAX_HOURLY_COST": "12 SEK"},
			[]string{"run"},
			exitUsage,
			[]string{"WORKER_BREAKER_UNKNOWNS", "some", "WORKER_MAX_CREATES_PER_HOUR", "2.5", "WORKER_MAX_HOURLY_COST", "12 SEK"},
		},
		{"a cost that is not a number", map[string]string{"HOSTUP_API_TOKEN": "a", "WORKER_MAX_HOURLY_COST": "NaN"}, []string{"run"}, exitUsage, []string{"WORKER_MAX_HOURLY_COST=NaN"}},
		{"a cost without a bound", map[string]string{"HOSTUP_API_TOKEN": "a", "WORKER_MAX_HOURLY_COST": "inf"}, []string{"config"}, exitUsage, []string{"WORKER_MAX_HOURLY_COST=+Inf"}},
		{"failpoints in a build without", map[string]string{"HOSTUP_API_TOKEN": "a", "NATS_URL": nowhere, "WORKER_FAILPOINTS": "create.after:1=kill"}, []string{"run"}, exitUsage, []string{"WORKER_FAILPOINTS"}},
		{"setup without a broker", map[string]string{"NATS_URL": "nats://someone:pa55word@127.0.0.1:1"}, []string{"setup"}, exitFailed, []string{"127.0.0.1:1", "nats-server -js", "NATS_URL"}},
		{"version", nil, []string{"version"}, exitDone, nil},
	} {
		t.Run(test.about, func(t *testing.T) {
			r := command(t, test.env, test.args...)
			equal(t, "exit code", r.code, test.code)
			for _, want := range test.says {
				if !strings.Contains(r.err, want) {
					t.Errorf("the message does not say %q:\n%s", want, r.err)
				}
			}
			if test.code != exitDone && r.out != "" {
				t.Errorf("stdout has %q", r.out)
			}
			if strings.Contains(r.out+r.err, "pa55word") {
				t.Error("the password is printed")
			}
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	r := command(t, nil, "version")
	equal(t, "exit code", r.code, exitDone)
	for _, want := range []string{"worker ", "commit ", "go1."} {
		if !strings.Contains(r.out, want) {
			t.Errorf("version prints %q, want %q in it", r.out, want)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	const token, password = "hu_SECRET_TOKEN", "S3CRET"
	config := file(t, "config.yaml", "WORKER_STREAM: FROM_FILE\nconsumer: from-file\nevents-stream: FROM_FILE\nWORKER_CONCURRENCY: 7\nprovision: true\nack-wait: 11s\n")
	env := map[string]string{
		"WORKER_CONFIG_FILE": config, "WORKER_CONSUMER": "from-env", "WORKER_EVENTS_STREAM": "FROM_ENV",
		"HOSTUP_API_TOKEN": token, "NATS_PASSWORD": password, "NATS_URL": "nats://u:" + password + "@127.0.0.1:4222",
		"HOSTUP_API_URL": "https://example.com/api/v2",
	}
	args := []string{"config", "--events-stream", "FROM_FLAG"}
	want := map[string]string{
		"WORKER_STREAM": "FROM_FILE", "WORKER_CONSUMER": "from-env", "WORKER_EVENTS_STREAM": "FROM_FLAG", "WORKER_DEAD_STREAM": "DEPLOY_DEAD",
		"WORKER_CONCURRENCY": "7", "WORKER_PROVISION": "true", "WORKER_ACK_WAIT": "11s", "WORKER_DEADLINE": "24h",
		"HOSTUP_API_TOKEN": redacted, "NATS_PASSWORD": redacted, "HOSTUP_API_TOKEN_FILE": "",
	}
	outputs := make(map[string]string)
	for _, format := range []string{"table", "json", "jsonl"} {
		r := command(t, env, append(slices.Clone(args), "-o", format)...)
		equal(t, "exit code", r.code, exitDone)
		outputs[format] = r.out
		if strings.Contains(r.out+r.err, token) || strings.Contains(r.out+r.err, password) {
			t.Errorf("-o %s prints a secret:\n%s", format, r.out)
		}
		if format == "table" {
			for name, value := range want {
				if !strings.Contains(r.out, name) || !strings.Contains(r.out, value) {
					t.Errorf("the table lacks %s %s", name, value)
				}
			}
			continue
		}
		var got map[string]string
		if err := json.Unmarshal([]byte(r.out), &got); err != nil {
			t.Fatalf("-o %s: %v", format, err)
		}
		for name, value := range want {
			equal(t, name, got[name], value)
		}
		for name, fs := range flags(t) {
			for _, f := range fs {
				for _, variable := range f.Envs {
					if _, ok := got[variable]; name == "run" && !ok && !strings.HasPrefix(variable, "WORKER_DEV") && variable != "WORKER_CONFIG_FILE" {
						t.Errorf("-o %s lacks %s", format, variable)
					}
				}
			}
		}
	}
	equal(t, "lines of jsonl", strings.Count(outputs["jsonl"], "\n"), 1)

	// The flag for the file wins over the variable, an empty file is none.
	r := command(t, env, "config", "-o", "json", "--config-file", file(t, "empty.yaml", ""))
	if !strings.Contains(r.out, `"WORKER_STREAM": "DEPLOY"`) {
		t.Errorf("--config-file does not win:\n%s", r.out)
	}
	// A secret in the file is one too.
	r = command(t, nil, "config", "--config-file", file(t, "secret.yaml", "hostup-api-token: "+token+"\n"))
	equal(t, "exit code", r.code, exitDone)
	if strings.Contains(r.out+r.err, token) || !strings.Contains(r.out, redacted) {
		t.Errorf("the key of the file is not redacted:\n%s", r.out)
	}
}

func TestSetup(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	streams := []string{"DEPLOY", "DEPLOY_EVENTS", "DEPLOY_DEAD", "KV_deploy-ledger"}
	exist := func() (n int) {
		for _, name := range streams {
			if _, err := w.js.Stream(t.Context(), name); err == nil {
				n++
			}
		}
		return n
	}
	dry := command(t, w.env, "setup", "--dry-run")
	equal(t, "exit code", dry.code, exitDone)
	equal(t, "streams after a dry run", exist(), 0)
	for _, want := range []string{"create", "DEPLOY", "DEPLOY_EVENTS", "DEPLOY_DEAD", "deploy-ledger", "deploy-worker"} {
		if !strings.Contains(dry.out, want) {
			t.Errorf("the dry run does not name %s", want)
		}
	}
	r := command(t, w.env, "setup")
	equal(t, "exit code", r.code, exitDone)
	equal(t, "streams after setup", exist(), len(streams))
	s, err := w.js.Stream(t.Context(), "DEPLOY")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "largest message", s.CachedInfo().Config.MaxMsgSize, 512<<10)

	again := command(t, w.env, "setup")
	equal(t, "exit code", again.code, exitDone)
	if strings.Contains(again.out, "create ") || strings.Contains(again.out, "update ") || !strings.Contains(again.out, "nothing to do") {
		t.Errorf("the second setup does not say that there is nothing to do:\n%s", again.out)
	}

	// Somebody changes a setting that the worker relies on, and one that it does not.
	cfg := s.CachedInfo().Config
	cfg.MaxMsgSize, cfg.Description, cfg.MaxMsgs = 1<<20, "ours", 1_000_000
	if _, err := w.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	c, err := w.js.Consumer(t.Context(), "DEPLOY", "deploy-worker")
	if err != nil {
		t.Fatal(err)
	}
	consumer := c.CachedInfo().Config
	consumer.MaxAckPending = 1
	if _, err := w.js.UpdateConsumer(t.Context(), "DEPLOY", consumer); err != nil {
		t.Fatal(err)
	}
	dry = command(t, w.env, "setup", "--dry-run")
	for _, want := range []string{"update", "max_msg_size", "1048576 -> 524288", "max_ack_pending", "1 -> 100000"} {
		if !strings.Contains(dry.out, want) {
			t.Errorf("the dry run does not say %q:\n%s", want, dry.out)
		}
	}
	now := func() jetstream.StreamConfig {
		s, err := w.js.Stream(t.Context(), "DEPLOY")
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().Config
	}
	equal(t, "after the dry run", now().MaxMsgSize, 1<<20)
	// In JSON, and nothing else on stdout.
	r = command(t, w.env, "setup", "-o", "json")
	equal(t, "exit code", r.code, exitDone)
	var plan []struct {
		Action string `json:"action"`
	}
	if err := json.Unmarshal([]byte(r.out), &plan); err != nil {
		t.Errorf("setup -o json: %v:\n%s", err, r.out)
	}
	updates := 0
	for _, change := range plan {
		if change.Action == "update" {
			updates++
		}
	}
	equal(t, "updates in JSON", updates, 2)
	equal(t, "after setup", now().MaxMsgSize, 512<<10)
	equal(t, "what is not ours", now().Description+fmt.Sprint(now().MaxMsgs), "ours1000000")
	if c, err = w.js.Consumer(t.Context(), "DEPLOY", "deploy-worker"); err != nil {
		t.Fatal(err)
	}
	equal(t, "max ack pending", c.CachedInfo().Config.MaxAckPending, 100_000)
}

// The simulator as a process answers what is documented.
func TestSimulate(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	p := start(t, map[string]string{"SIMULATE_LISTEN": "127.0.0.1:0", "SIMULATE_TOKEN": "t", "SIMULATE_FAULTS": "web-9*/409;limits/503*1", "SIMULATE_MAX_CORES": "5"},
		"simulate", "--seed", "7", "--regions", "stockholm,falkenberg", "--rate-limit", "1000", "--rate-quiet")
	p.sees("simulated HostUp API on ")
	_, rest, _ := strings.Cut(p.err.String(), "simulated HostUp API on ")
	api, _, _ := strings.Cut(rest, ",")
	base := strings.TrimSuffix(api, "/api/v2")
	call := func(method, path, token, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, api+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(got)
	}
	body := func(name, region string, cores int) string {
		return fmt.Sprintf(`{"name":%q,"cpuCores":%d,"memoryGb":2,"storageGb":50,"region":%q}`, name, cores, region)
	}
	var vps string
	for _, test := range []struct {
		about, method, path, token, body string
		status                           int
		says                             string
	}{
		{"wrong key", "GET", "/vps", "x", "", 401, "unauthorized"},
		{"fault of a read", "GET", "/vps/payg/limits", "t", "", 503, "upstream_unavailable"},
		{"limits", "GET", "/vps/payg/limits", "t", "", 200, `"remaining":`},
		{"options", "GET", "/vps/payg/deployments", "t", "", 200, `"canDeploy"`},
		{"create", "POST", "/vps/payg/deployments", "t", body("web-1", "falkenberg", 4), 201, `"status":"provisioning"`},
		{"create beyond the limit", "POST", "/vps/payg/deployments", "t", body("web-2", "stockholm", 2), 403, "limit_exceeded"},
		{"bad create", "POST", "/vps/payg/deployments", "t", body("web-2", "mars", 99), 400, `"pointer"`},
		{"fault of a create", "POST", "/vps/payg/deployments", "t", body("web-9", "stockholm", 1), 409, "cooldown_active"},
		{"list", "GET", "/vps", "t", "", 200, "web-1"},
		{"one", "GET", "/vps/VPS", "t", "", 200, "web-1"},
		{"details", "GET", "/vps/VPS/details", "t", "", 200, "web-1"},
		{"status", "GET", "/vps/VPS/status", "t", "", 200, ""},
		{"no such server", "GET", "/vps/vps_x", "t", "", 404, "not_found"},
		{"cancel", "POST", "/vps/VPS/actions/cancel", "t", `{}`, 0, ""},
	} {
		status, got := call(test.method, strings.Replace(test.path, "VPS", vps, 1), test.token, test.body)
		if (test.status != 0 && status != test.status) || !strings.Contains(got, test.says) || status >= 500 && test.status < 500 {
			t.Errorf("%s: %d %s, want %d with %q", test.about, status, got, test.status, test.says)
		}
		if test.about == "create" {
			var created struct {
				VPSID string `json:"vpsId"`
			}
			if err := json.Unmarshal([]byte(got), &created); err != nil || created.VPSID == "" {
				t.Fatalf("create answers %s", got)
			}
			vps = created.VPSID
		}
	}
	for _, path := range []string{"invoices", "creates", "servers", "windows", "stats", "config"} {
		status, got := get(t, base+"/_sim/"+path)
		if status != http.StatusOK || !json.Valid([]byte(got)) {
			t.Errorf("/_sim/%s: %d %s", path, status, got)
		}
		if path == "config" && !strings.Contains(got, `"quiet":true`) {
			t.Errorf("--rate-quiet is not in %s", got)
		}
	}
	p.signal(syscall.SIGINT)
	equal(t, "exit code", p.exit(), exitDone)
	if !strings.Contains(p.err.String(), "1 servers were billed") {
		t.Error("the end does not say what was billed")
	}
	if strings.Contains(p.out.String(), "worker:") {
		t.Error("progress is on stdout")
	}
}

// `worker simulate` and `worker run` are two processes of the documented
// example.
func TestRunAgainstSimulate(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	sim := start(t, map[string]string{"SIMULATE_LISTEN": "127.0.0.1:0"}, "simulate")
	sim.sees("simulated HostUp API on ")
	_, rest, _ := strings.Cut(sim.err.String(), "simulated HostUp API on ")
	api, _, _ := strings.Cut(rest, ",")
	w.worker("HOSTUP_API_URL="+api, "HOSTUP_API_TOKEN=sim-token")
	w.place(order("two-processes", "two-processes"))
	e := w.created("two-processes")
	if _, invoices := get(t, strings.TrimSuffix(api, "/api/v2")+"/_sim/invoices"); !strings.Contains(invoices, e.text("vpsId")) {
		t.Errorf("%s is not among the invoices: %s", e.text("vpsId"), invoices)
	}
}

// An interrupted demo ends with 130 and takes its directory with it.
func TestInterruptedDemo(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	// A demo that is done before the signal reaches it was too short.
	for _, requests := range []string{"5", "100", "1000"} {
		p := start(t, map[string]string{"TMPDIR": t.TempDir()}, "demo", "--requests", requests)
		p.sees("provisioning")
		_ = p.cmd.Process.Signal(syscall.SIGINT) // it may have ended
		if p.exit() != exitDone {
			equal(t, "exit code", p.code, exitInterrupted)
			return
		}
	}
	t.Error("no demo was interrupted")
}
