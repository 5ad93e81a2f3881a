package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// update writes what the program prints into the scripts and the reference:
// go test ./cmd/worker -run 'TestScripts|TestReference' -update.
var update = flag.Bool("update", false, "write what the program prints into the scripts")

// TestScripts runs testdata/script/*.txtar: the program itself, with what it
// prints and how it exits. Each script has a broker and a simulated account of
// its own; $NATS_URL, $HOSTUP_API_URL and $HOSTUP_API_TOKEN name them, $SIM is
// the account's address for curl-like looks. Nothing else is started: a script
// that needs a worker says `exec worker run &run&`.
//
// Beside what testscript offers there are:
//
//	exits N worker …        runs it and wants this exit code
//	until REGEXP worker …   runs it again and again until stdout matches
//	plain FILE              writes stdout of the last command to FILE, with
//	                        times, ids and ports replaced by words, for cmp
//	account JSON            changes the simulated account (POST /_sim/config)
//	plant NAME              makes a server nobody ordered
//	billed NAME N           waits for N invoices for servers of that name and
//	                        wants no more
//	stream JSON             makes a stream on the broker, or changes it
func TestScripts(t *testing.T) {
	t.Parallel()

	scripts, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("%d scripts: %v", len(scripts), err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			runScript(t, script)
		})
	}
}

func runScript(t *testing.T, script string) {
	t.Helper()
	srv := brokertest.Start(t)
	sim := simulator.New(simulator.Config{Seed: 7})
	api := httptest.NewServer(sim)
	t.Cleanup(func() {
		_ = sim.Close()
		api.CloseClientConnections()
		api.Close()
	})
	testscript.Run(t, testscript.Params{
		Files: []string{script}, RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			// Not before: the script is a parallel test of its own by now. One that
			// held a slot while it waits to be let run, and others that run and wait
			// for a slot, would wait for ever.
			slots <- struct{}{}
			e.Defer(func() { <-slots })
			for name, value := range map[string]string{
				"NATS_URL": srv.URL, "HOSTUP_API_URL": api.URL + "/api/v2", "HOSTUP_API_TOKEN": testToken, "SIM": api.URL + "/_sim",
				"WORKER_ADMIN_ADDR": "127.0.0.1:0", "WORKER_PROVISION": "true", "WORKER_LOG_FORMAT": "json",
				"WORKER_BACKOFF_INITIAL": "20ms", "WORKER_BACKOFF_MAX": "200ms", "WORKER_LIMITS_TTL": "50ms",
				"WORKER_SETTLE_ANSWERED": "300ms", "WORKER_SETTLE_UNANSWERED": "600ms", "WORKER_SETTLE_READS": "2",
				"WORKER_ACK_WAIT": "2s", "GORACE": "atexit_sleep_ms=0 halt_on_error=1", "GOMAXPROCS": "2",
				"TZ": "UTC", "USER": "ops",
			} {
				e.Setenv(name, value)
			}
			return nil
		},
		Cmds: scriptCommands(sim),
	})
}

func scriptCommands(sim *simulator.Server) map[string]func(*testscript.TestScript, bool, []string) {
	commands := map[string]func(*testscript.TestScript, bool, []string){
		"exits": func(ts *testscript.TestScript, _ bool, args []string) {
			want, err := strconv.Atoi(args[0])
			ts.Check(err)
			if got := exitCode(ts, args[1:]); got != want {
				ts.Fatalf("%q exited with %d, want %d", args[1:], got, want)
			}
		},
		"until": func(ts *testscript.TestScript, _ bool, args []string) {
			again := time.NewTicker(50 * time.Millisecond)
			defer again.Stop()
			for end := time.Now().Add(patience); ; <-again.C {
				code := exitCode(ts, args[1:])
				out := ts.ReadFile("stdout")
				found, err := regexp.MatchString("(?m)"+args[0], out)
				ts.Check(err)
				if found {
					return
				}
				if time.Now().After(end) {
					ts.Fatalf("%q does not come to print %q; at last it exited with %d and printed\n%s%s", args[1:], args[0], code, out, ts.ReadFile("stderr"))
				}
			}
		},
		"plain": func(ts *testscript.TestScript, _ bool, args []string) {
			ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(plain(ts.ReadFile("stdout"))), 0o600))
		},
		"account": func(ts *testscript.TestScript, _ bool, args []string) {
			resp, err := client.Post(ts.Getenv("SIM")+"/config", "application/json", strings.NewReader(args[0]))
			ts.Check(err)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				ts.Fatalf("account %s: %s", args[0], resp.Status)
			}
		},
		"plant": func(ts *testscript.TestScript, _ bool, args []string) {
			_, err := sim.Plant(simulator.VPS{Name: args[0], IsPayg: true, Resources: simulator.Resources{CPUCores: 2, MemoryGB: 4, StorageGB: 80}, Region: "stockholm", CreatedAt: time.Now()})
			ts.Check(err)
		},
		"stream": func(ts *testscript.TestScript, _ bool, args []string) {
			var c jetstream.StreamConfig
			ts.Check(json.Unmarshal([]byte(args[0]), &c))
			onBroker(ts, func(ctx context.Context, js jetstream.JetStream) {
				_, err := js.CreateOrUpdateStream(ctx, c)
				ts.Check(err)
			})
		},
		"billed": func(ts *testscript.TestScript, _ bool, args []string) {
			want, err := strconv.Atoi(args[1])
			ts.Check(err)
			again := time.NewTicker(20 * time.Millisecond)
			defer again.Stop()
			var n int
			for end := time.Now().Add(patience); ; <-again.C {
				if n = invoices(sim, args[0]); n >= want || time.Now().After(end) {
					break
				}
			}
			if n != want {
				ts.Fatalf("%s was billed %d times, want %d", args[0], n, want)
			}
		},
	}
	maps.Copy(commands, readerCommands())
	return commands
}

func invoices(sim *simulator.Server, name string) (n int) {
	for _, i := range sim.Invoices() {
		if i.Name == name {
			n++
		}
	}
	return n
}

// exitCode runs a program and leaves its output for the script to look at.
func exitCode(ts *testscript.TestScript, args []string) int {
	err := ts.Exec(args[0], args[1:]...)
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	ts.Fatalf("%q: %v", args, err)
	return -1
}

// volatile is what differs from run to run, with the word that stands for it.
var volatile = []struct {
	is   *regexp.Regexp
	word string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z]+\b`), "CLOCK"},
	{regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d [A-Z]+$`), "DAY"},
	{regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\b`), "CLOCK"},
	{regexp.MustCompile(`│ (\d+(ms|s|m|h|d))+ +│`), "│ WHEN │"},
	{regexp.MustCompile(`\b(in )?(\d+(ms|s|m|h|d))+( ago)\b|\bin (\d+(ms|s|m|h|d))+\b`), "WHEN"},
	// The longest in its column, or not: in the last hour of a day, "in 3d" and no hours.
	{regexp.MustCompile(`(?m)^  WHEN +`), "  WHEN "},
	{regexp.MustCompile(`\b(vps|ord|inv|req)_[0-9a-z]+\b`), "${1}_ID"},
	{regexp.MustCompile(`\bu\d+:xxxxx@`), ""}, // the container lane has users
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "HOST"},
	{regexp.MustCompile(`nats-version +│ \d+\.\d+\.\d+`), "nats-version │ VERSION"},
	// An answer tells its time in whole seconds, and may have been on its way.
	{regexp.MustCompile(`differ by \d+s`), "differ by 0s"},
}

// plain replaces what differs from run to run. The spaces that fill a column
// and the lines of a table go with it: they depend on how long it was.
func plain(out string) string {
	for _, v := range volatile {
		out = v.is.ReplaceAllString(out, v.word)
	}
	out = regexp.MustCompile(`[─]+`).ReplaceAllString(out, "─")
	return regexp.MustCompile(`(?m)(\S) {2,}`).ReplaceAllString(out, "$1  ")
}

func TestPlain(t *testing.T) {
	t.Parallel()

	for in, want := range map[string]string{
		`{"at":"2026-11-26T03:04:05.123Z","vpsId":"vps_01hxa9"}`: `{"at":"TIME","vpsId":"vps_ID"}`,
		"│ a    │ 3m2s ago   │":                                  "│ a  │ WHEN  │",
		"it goes on in 12s":                                      "it goes on WHEN",
		"http://127.0.0.1:4711/x":                                "http://HOST/x",
		"╭─────┬──╮":                                             "╭─┬─╮",
		"2026-11-26 03:04:05 UTC":                                "CLOCK",
		"│ 3m2s │ a":                                             "│ WHEN │ a",
		"2026-11-26 UTC\n03:04:05  failed":                       "DAY\nCLOCK  failed",
		"nothing volatile":                                       "nothing volatile",
		"  in 9d3h Not answered":                                 "  WHEN Not answered",
		"  in 9d   Not answered":                                 "  WHEN Not answered",
	} {
		if got := plain(in); got != want {
			t.Errorf("plain(%q) = %q, want %q", in, got, want)
		}
	}
}
