package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// diagnosis is what `worker doctor -o json` says, by check.
type diagnosis struct {
	code   int
	checks map[string]examination
}

func doctored(t *testing.T, w *world, changes ...string) diagnosis {
	t.Helper()
	r := command(t, w.with(changes...), "doctor", "-o", "json")
	var found []struct {
		Check  string  `json:"check"`
		Status string  `json:"status"`
		Detail *string `json:"detail"`
		Fix    *string `json:"fix"`
	}
	if err := json.Unmarshal([]byte(r.out), &found); err != nil {
		t.Fatalf("%v in %q", err, r.out)
	}
	d := diagnosis{code: r.code, checks: make(map[string]examination)}
	for _, f := range found {
		if f.Detail == nil || f.Fix == nil || *f.Detail == "" || f.Status != "ok" && f.Status != "warning" && f.Status != "failure" {
			t.Fatalf("%+v", f)
		}
		if (f.Status == checkOK) != (*f.Fix == "") {
			t.Errorf("%s is %s, and its fix is %q", f.Check, f.Status, *f.Fix)
		}
		if _, twice := d.checks[f.Check]; twice {
			t.Errorf("%s is there twice", f.Check)
		}
		d.checks[f.Check] = examination{f.Check, f.Status, *f.Detail, *f.Fix}
	}
	return d
}

// expect wants statuses, each with words of its detail behind a colon.
func (d diagnosis) expect(t *testing.T, about string, code int, want map[string]string) {
	t.Helper()
	equal(t, about+": exit code", d.code, code)
	for check, status := range want {
		status, words, _ := strings.Cut(status, ": ")
		got := d.checks[check]
		if got.Status != status || !strings.Contains(got.Detail+" -> "+got.Fix, words) {
			t.Errorf("%s: %s is %q: %s -> %s; want %s with %q", about, check, got.Status, got.Detail, got.Fix, status, words)
		}
	}
}

// only wants these to be warnings, and everything else to be ok.
func (d diagnosis) only(t *testing.T, about string, warnings ...string) {
	t.Helper()
	equal(t, about+": exit code", d.code, exitDone)
	for _, e := range d.checks {
		wanted := false
		for _, name := range warnings {
			wanted = wanted || strings.HasPrefix(e.Check, name)
		}
		if status := map[bool]string{true: checkWarn, false: checkOK}[wanted]; e.Status != status {
			t.Errorf("%s: %+v, want %s", about, e, status)
		}
	}
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{})
	doctored(t, w).expect(t, "nothing set up", exitFailed, map[string]string{
		"nats": "ok", "nats-version": "ok", "jetstream": "ok", "permissions": "ok", "stream DEPLOY": "failure: worker setup", "bucket deploy-ledger": "failure",
		"consumer deploy-worker": "failure", "consumer deploy-worker-batch": "warning: deploy.requested.batch", "api": "ok", "api-key": "ok", "deploy-gate": "ok",
	})
	w.setup()
	healthy := doctored(t, w)
	healthy.only(t, "set up", "durability")
	healthy.expect(t, "set up", exitDone, map[string]string{
		"clock": "ok", "limits": "ok: 100 of 100 servers", "prices": "ok: 0.66 SEK", "look-up": "ok: no server to look for", "scope read:vm": "ok",
		"scope write:billing": "ok: only an order would prove it", "drain": "ok", "ledger-age": "ok", "brake": "ok", "gate": "ok", "deploy-gate": "ok: stockholm",
	})
	w.plant("web-1", nil)
	doctored(t, w).expect(t, "with a server", exitDone, map[string]string{"look-up": "ok: is found by its name"})

	command(t, w.env, "pause", "--reason", "test")
	doctored(t, w, "HOSTUP_API_TOKEN=wrong").expect(t, "paused, with a wrong key", exitFailed, map[string]string{
		"brake": "warning: test", "api": "ok", "api-key": "failure: read:vm and write:billing",
	})
	w.update(func(c *simulator.Config) { c.Scopes = []string{"write:billing"} })
	doctored(t, w).expect(t, "a key that may not read", exitFailed, map[string]string{"api-key": "ok", "scope read:vm": "failure", "limits": "failure: 403", "look-up": "failure: 403"})
	w.update(func(c *simulator.Config) {
		c.Scopes, c.Gate, c.Limits.Instances, c.Prices = nil, simulator.Gate{Closed: true, BlockerReasons: []string{"no_card_on_file"}}, 1, simulator.Prices{}
	})
	doctored(t, w, "WORKER_DRAIN_TIMEOUT=21s").expect(t, "an account that may not", exitDone, map[string]string{
		"deploy-gate": "warning: no_card_on_file", "limits": "warning: 0 of 1 servers", "prices": "warning", "drain": "warning: WORKER_DRAIN_TIMEOUT=30s",
	})
	doctored(t, w, "WORKER_MAX_HOURLY_COST=5").expect(t, "a cap that stops nothing", exitFailed, map[string]string{"prices": "failure: WORKER_MAX_HOURLY_COST"})

	key := file(t, "key", testToken)
	if err := os.Chmod(key, 0o604); err != nil {
		t.Fatal(err)
	}
	doctored(t, w, "HOSTUP_API_TOKEN=", "HOSTUP_API_TOKEN_FILE="+key).expect(t, "a key that everybody may read", exitDone, map[string]string{"file HOSTUP_API_TOKEN_FILE": "warning: chmod o= " + key})
	doctored(t, w, "HOSTUP_API_TOKEN=", "HOSTUP_API_TOKEN_FILE=/nowhere/key").expect(t, "no key file", exitFailed, map[string]string{"file HOSTUP_API_TOKEN_FILE": "failure", "api-key": "failure: /nowhere/key"})
	doctored(t, w, "NATS_URL=nats://127.0.0.1:9").expect(t, "no NATS", exitFailed, map[string]string{"nats": "failure: nats-server -js", "api": "ok", "drain": "ok"})
	doctored(t, w, "HOSTUP_API_URL=http://127.0.0.1:9").expect(t, "no HostUp", exitFailed, map[string]string{"api": "failure: HOSTUP_API_URL", "stream DEPLOY": "ok"})
	r := command(t, w.env, "doctor")
	if !strings.Contains(r.out, "-> worker resume") || !strings.Contains(r.out, "failures: 0") {
		t.Errorf("the table does not say what to do, or how it stands:\n%s", r.out)
	}
}

// Each unsafe setting is named with its reason.
func TestDoctorOfStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{})
	w.setup()
	change := func(name string, edit func(*jetstream.StreamConfig)) {
		t.Helper()
		s, err := w.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		c := s.CachedInfo().Config
		edit(&c)
		if _, err := w.js.UpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	change("DEPLOY", func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgSize = jetstream.DiscardOld, 1<<20 })
	change("DEPLOY_EVENTS", func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute })
	cons, err := w.js.Consumer(t.Context(), "DEPLOY", "deploy-worker")
	if err != nil {
		t.Fatal(err)
	}
	worse := cons.CachedInfo().Config
	worse.MaxDeliver = 3
	if _, err := w.js.UpdateConsumer(t.Context(), "DEPLOY", worse); err != nil {
		t.Fatal(err)
	}
	d := doctored(t, w, "WORKER_DEADLINE=1000h")
	d.expect(t, "changed by hand", exitFailed, map[string]string{
		"stream DEPLOY":          "failure: discard is DiscardOld, wanted DiscardNew: a full stream drops an order that nobody has answered",
		"stream DEPLOY_EVENTS":   "warning: duplicate_window is 1m0s, wanted 1h0m0s",
		"consumer deploy-worker": "failure: an order that waited often enough is never delivered again",
		"ledger-age":             "failure: a duplicate of it could buy again",
	})
	if !strings.Contains(d.checks["stream DEPLOY"].Detail, "max_msg_size") {
		t.Errorf("only one setting is named: %+v", d.checks["stream DEPLOY"])
	}
	// A stream of somebody else, which keeps what was answered.
	if err := w.js.DeleteStream(t.Context(), "DEPLOY"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "DEPLOY", Subjects: []string{"deploy.requested", "deploy.requested.batch"}, Discard: jetstream.DiscardNew, MaxMsgSize: 512 << 10, Storage: jetstream.MemoryStorage,
	}); err != nil {
		t.Fatal(err)
	}
	doctored(t, w).expect(t, "limits retention", exitFailed, map[string]string{
		"stream DEPLOY": "failure: retention: let the workers empty it", "ledger-age": "warning: for ever",
	})
	change("DEPLOY", func(c *jetstream.StreamConfig) { c.MaxAge = 1000 * time.Hour })
	doctored(t, w).expect(t, "requests older than the ledger", exitFailed, map[string]string{"ledger-age": "failure: requests stay in the stream for 1000h"})
	change("DEPLOY", func(c *jetstream.StreamConfig) { c.MaxAge = 48 * time.Hour })
	doctored(t, w).expect(t, "requests younger than the ledger", exitFailed, map[string]string{"ledger-age": "ok: requests for 48h"})
}

// Permissions are tried: what is refused is named, and what cannot be looked at
// because of it is no failure of its own.
func TestDoctorOfPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, brokertest.WithServerOptions(func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "all", Password: "p"},
			{Username: "some", Password: "p", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Deny: []string{"deploy.held", "$JS.ACK.>", "$JS.API.STREAM.INFO.>", "$JS.API.INFO"}},
				Subscribe: &server.SubjectPermission{Allow: []string{">"}},
			}},
			{Username: "deaf", Password: "p", Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}}}},
		}
		o.NoAuthUser = "all"
	}))
	w.setup()
	of := func(user string) []string { return []string{"NATS_USER=" + user, "NATS_PASSWORD=p"} }
	closed := brokertest.Start(t, brokertest.WithServerOptions(func(o *server.Options) { o.Username, o.Password = "u", "p" }))
	doctored(t, w, "NATS_URL="+closed.URL).expect(t, "no credentials", exitFailed, map[string]string{"nats": "failure: the server wants other credentials; none are given", "api": "ok"})
	doctored(t, w, "NATS_USER=all", "NATS_PASSWORD=wrong").expect(t, "a wrong password", exitFailed, map[string]string{"nats": "failure: they come from NATS_USER"})
	doctored(t, w, "NATS_CREDS=/nowhere/creds").expect(t, "no credentials file", exitFailed, map[string]string{"nats": "failure: NATS_CREDS", "file NATS_CREDS": "failure"})
	doctored(t, w, of("all")...).only(t, "everything is permitted", "durability")
	d := doctored(t, w, of("some")...)
	d.expect(t, "some is not", exitFailed, map[string]string{
		"permissions": "ok: of 22 things", "permission deploy.held": `failure: allow this user to publish on "deploy.held"`,
		"permission $JS.API.INFO": "warning: run does without", "permission $JS.API.STREAM.INFO.KV_deploy-ledger": "warning", "permission $JS.API.STREAM.INFO.DEPLOY": "failure",
		"consumer deploy-worker": "ok", "brake": "ok", "gate": "ok",
	})
	acks := 0
	for check := range d.checks {
		if strings.HasPrefix(check, "permission $JS.ACK.DEPLOY.deploy-worker") {
			acks++
		}
		if strings.HasPrefix(check, "stream ") || strings.HasPrefix(check, "bucket ") {
			t.Errorf("%s was judged without being seen", check)
		}
	}
	equal(t, "acks that are denied", acks, 2)
	doctored(t, w, of("deaf")...).expect(t, "no answers", exitFailed, map[string]string{"permissions": "failure: _INBOX.>"})
}

// HostUp's clock is judged by the Date of its answers.
func TestDoctorOfClocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{})
	w.setup()
	for _, tc := range []struct {
		ahead time.Duration
		want  string
	}{
		{0, "ok"},
		{-time.Minute, "warning: from 2m on"},
		{time.Minute, "warning"},
		{-3 * time.Minute, "failure: timedatectl"},
		{time.Hour, "failure"},
	} {
		w.answering(func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Date", time.Now().Add(tc.ahead).UTC().Format(http.TimeFormat))
			return false
		})
		code := exitDone
		if strings.HasPrefix(tc.want, checkFail) {
			code = exitFailed
		}
		doctored(t, w).expect(t, tc.ahead.String(), code, map[string]string{"clock": tc.want})
	}
	w.answering(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header()["Date"] = nil // or net/http writes one
		return false
	})
	doctored(t, w).expect(t, "no date", exitDone, map[string]string{"clock": "warning: have no Date"})
}

// A look-up that does not find what exists would take a lost server for one
// that was never bought.
func TestDoctorOfLookUps(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{})
	w.setup()
	w.plant("web-1", nil)
	w.plant("web-2", nil)
	list := func(change func(*http.Request)) {
		w.answering(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/vps") {
				change(r)
			}
			return false
		})
	}
	list(func(r *http.Request) {
		q := r.URL.Query()
		q.Del("name")
		r.URL.RawQuery = q.Encode()
	})
	doctored(t, w).expect(t, "the filter does nothing", exitDone, map[string]string{"look-up": "warning: 2 servers were listed"})
	list(func(r *http.Request) {
		q := r.URL.Query()
		if q.Get("name") != "" {
			q.Set("name", "another")
		}
		r.URL.RawQuery = q.Encode()
	})
	doctored(t, w).expect(t, "the filter finds nothing", exitFailed, map[string]string{"look-up": "failure: worker pause"})
	w.answering(func(rw http.ResponseWriter, r *http.Request) bool {
		rest, details := strings.CutSuffix(r.URL.Path, "/details")
		if details {
			_, _ = rw.Write(jsonOf(t, map[string]string{"id": rest[strings.LastIndex(rest, "/")+1:]}))
		}
		return details
	})
	doctored(t, w).expect(t, "servers without a date", exitDone, map[string]string{"look-up": "warning: no creation time"})
}

// Nobody who listens takes a try for an event.
func TestDoctorIsNoEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{})
	w.setup()
	heard := make(chan *nats.Msg, 16)
	sub, err := w.nc.ChanSubscribe("deploy.>", heard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := w.nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	doctored(t, w).only(t, "with a listener", "durability")
	for range 4 {
		m := <-heard
		if len(m.Data) != 0 || headerOf(m.Header, "deploy-doctor") != "true" {
			t.Errorf("%s: %q %v", m.Subject, m.Data, m.Header)
		}
	}
	equal(t, "events", len(w.stored("DEPLOY_EVENTS", 1)), 0)
	equal(t, "dead letters", len(w.stored("DEPLOY_DEAD", 1)), 0)
}

// How soon the servers bring to the disk what they confirmed is read from their
// monitoring.
func TestDoctorReadsSyncInterval(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)
	for _, test := range []struct {
		always bool
		expect map[string]string
	}{
		{false, map[string]string{"sync-interval n1": "ok: 2m0s", "durability DEPLOY": "warning: --nats-monitor"}},
		{true, map[string]string{"sync-interval n1": "ok: always", "durability DEPLOY": "ok: at once"}},
	} {
		t.Run(strconv.FormatBool(test.always), func(t *testing.T) {
			t.Parallel()
			monitor := make(chan string, 1)
			w := newWorld(t, simulator.Config{}, brokertest.WithServerOptions(func(o *server.Options) {
				o.ServerName, o.HTTPHost, o.HTTPPort, o.SyncAlways = "n1", "127.0.0.1", freePort(t), test.always
				monitor <- fmt.Sprintf("http://127.0.0.1:%d", o.HTTPPort)
			}))
			w.setup()
			address := <-monitor
			doctored(t, w, "WORKER_NATS_MONITOR="+address).expect(t, "one server", exitDone, test.expect)
			doctored(t, w, "WORKER_NATS_MONITOR="+address+",http://127.0.0.1:1").expect(t, "one that is not there", exitDone, map[string]string{
				"sync-interval": "warning: -m 8222", "durability DEPLOY": "warning: worker setup --replicas 3",
			})
		})
	}
}

// freePort is a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}
