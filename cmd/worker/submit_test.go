package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// orderFile writes a CSV of so many orders, and returns its path.
func orderFile(t testing.TB, rows int) string {
	t.Helper()
	var text bytes.Buffer
	text.WriteString("name,cpuCores,memoryGb,storageGb,region,metadata.customer\n")
	for i := range rows {
		fmt.Fprintf(&text, "srv-%05d,1,1,50,stockholm,c-%d\n", i, i%7)
	}
	path := filepath.Join(t.TempDir(), "orders.csv")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// lastSequence is how many messages a stream has had.
func (w *world) lastSequence(stream string) uint64 {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), stream)
	if err != nil {
		w.t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// restream changes the stream of the requests.
func (w *world) restream(change func(*jetstream.StreamConfig)) {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), "DEPLOY")
	if err != nil {
		w.t.Fatal(err)
	}
	c := s.CachedInfo().Config
	change(&c)
	if _, err := w.js.UpdateStream(w.t.Context(), c); err != nil {
		w.t.Fatal(err)
	}
}

// forgetful makes the stream take a message twice that comes again later: so it
// shows when something is sent again.
func (w *world) forgetful() {
	w.t.Helper()
	w.restream(func(c *jetstream.StreamConfig) { c.Duplicates = 100 * time.Millisecond })
}

// What is sent for an order: its body, its id, its trace, its subject.
func TestSubmitSends(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.setup()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	env := w.with("TRACEPARENT="+trace, "WORKER_SUBMIT_METADATA=customer=c-17")
	args := []string{"submit", "--key=order-1", "--name=web-01", "--cpu-cores=2", "--memory-gb=4", "--storage-gb=80", "--region=stockholm", "--answer-by=2099-12-01T13:00:00+01:00"}
	for range 2 {
		equal(t, "exit code", command(t, env, args...).code, exitDone)
	}
	sent := w.stored("DEPLOY", 1)
	equal(t, "messages", len(sent), 2)
	for _, m := range sent {
		equal(t, "subject", m.Subject, "deploy.requested")
		equal(t, "traceparent", headerOf(m.Header, "traceparent"), trace)
		equal(t, "content type", headerOf(m.Header, "content-type"), "application/json")
		equal(t, "id", headerOf(m.Header, "Nats-Msg-Id"), keyHash("order-1")+"."+bodyHash(m.Data))
		var body map[string]any
		if err := json.Unmarshal(m.Data, &body); err != nil {
			t.Fatal(err)
		}
		equal(t, "mark", len(fmt.Sprint(body["submission"])), 16)
		delete(body, "submission")
		equal(t, "body", string(jsonOf(t, body)), `{"cpuCores":2,"deadline":"2099-12-01T12:00:00Z","idempotencyKey":"order-1","memoryGb":4,"metadata":{"customer":"c-17"},"name":"web-01","region":"stockholm","storageGb":80}`)
	}
	// Two submissions send two messages, whatever they say.
	if bytes.Equal(sent[0].Data, sent[1].Data) {
		t.Error("the second message is the first one")
	}
	equal(t, "exit code", command(t, w.env, "submit", "-f", orderFile(t, 2)).code, exitDone)
	equal(t, "subject of a batch", w.stored("DEPLOY", 3)[0].Subject, "deploy.requested.batch")
}

// A stream that takes no more says so; what it has taken is not sent again.
func TestSubmitToAFullStream(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.setup()
	w.forgetful()
	limit := func(most int64) { w.restream(func(c *jetstream.StreamConfig) { c.MaxMsgs = most }) }
	limit(7)
	path := orderFile(t, 20)
	r := command(t, w.env, "submit", "-f", path)
	equal(t, "exit code", r.code, exitPartly)
	for _, say := range []string{"the stream DEPLOY takes no more", "7 of 20 orders were sent", "--resume"} {
		if !strings.Contains(r.err, say) {
			t.Errorf("stderr lacks %q", say)
		}
	}
	limit(-1)
	equal(t, "exit code", command(t, w.env, "submit", "-f", path, "--resume").code, exitDone)
	equal(t, "messages", w.lastSequence("DEPLOY"), 20)
	if _, err := os.Stat(path + ".journal"); err == nil {
		t.Error("the journal is still there")
	}
}

// Who may not publish is told so, at once.
func TestSubmitWithoutPermission(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)

	may := &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{"deploy.requested"}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}
	w := newWorld(t, simulator.Config{}, brokertest.WithServerOptions(func(o *server.Options) {
		o.Users = []*server.User{{Username: "all", Password: "x"}, {Username: "orders", Password: "x", Permissions: may}}
		o.NoAuthUser = "all"
	}))
	w.setup()
	env := w.with("NATS_USER=orders", "NATS_PASSWORD=x")
	order := []string{"submit", "--name=web-01", "--cpu-cores=2", "--memory-gb=4", "--storage-gb=80", "--region=stockholm"}
	// Publishing is all it takes.
	equal(t, "exit code", command(t, env, order...).code, exitDone)
	equal(t, "messages", w.lastSequence("DEPLOY"), 1)
	r := command(t, env, append(order, "--wait")...)
	equal(t, "exit code", r.code, exitFailed)
	if !strings.Contains(r.err, `Permissions Violation for Publish to "$JS.API.STREAM.INFO.DEPLOY_EVENTS"`) || !strings.Contains(r.err, "nothing was sent") {
		t.Error("it does not say what it may not do")
	}
	r = command(t, env, "submit", "-f", orderFile(t, 3))
	equal(t, "exit code", r.code, exitFailed)
	if !strings.Contains(r.err, "the NATS user may not publish to deploy.requested.batch") || !strings.Contains(r.err, "0 of 3 orders were sent") {
		t.Error("it does not say what it may not do")
	}
	equal(t, "messages", w.lastSequence("DEPLOY"), 1)
}

// Ctrl-C ends the waiting and no order, and says how to go on; then nothing is
// sent again.
func TestSubmitInterrupted(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.setup()
	w.forgetful()
	path := orderFile(t, 50)
	p := start(t, w.env, "submit", "-f", path, "--wait", "--csv-out", path+".done")
	eventually(t, "all is sent", func() bool { return w.lastSequence("DEPLOY") == 50 })
	p.signal(syscall.SIGINT)
	equal(t, "exit code", p.exit(), exitInterrupted)
	equal(t, "stdout", p.out.String(), "")
	for _, say := range []string{"50 of 50 orders were sent, and go on by themselves; 0 are answered", "to go on: worker submit -f " + path + " --csv-out " + path + ".done --wait --resume", "worker: interrupted"} {
		if !strings.Contains(p.err.String(), say) {
			t.Errorf("stderr lacks %q", say)
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("it leaves %v (%v)", left, err)
	}
	w.worker()
	r := command(t, w.env, "submit", "-f", path, "--wait", "--resume", "--csv-out", path+".done")
	equal(t, "exit code", r.code, exitDone)
	equal(t, "messages", w.lastSequence("DEPLOY"), 50)
	equal(t, "servers", len(w.sim.Invoices()), 50)
	equal(t, "outcomes", outcomes(t, path+".done")["provisioning"], 50)
}

// A process that is killed while it sends leaves a journal from which the next
// one goes on: every order once, and the journal's never again.
//
//nolint:tparallel // one try after the other
func TestSubmitKilled(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)

	killed(t, 5000, 20_000, 80_000)
}

// killed kills a submission of the first number of rows, and one of the next
// number if all were stored before that: how quick it is, is the machine's affair.
func killed(t *testing.T, numbers ...int) {
	t.Helper()
	for _, rows := range numbers {
		inTheMiddle := false
		t.Run(strconv.Itoa(rows), func(t *testing.T) { inTheMiddle = killedAtWork(t, rows) })
		if inTheMiddle || t.Failed() {
			return
		}
	}
	t.Error("no submission was killed while it sent")
}

// killedAtWork reports whether rows were left to send when it was killed.
func killedAtWork(t *testing.T, rows int) bool {
	t.Helper()
	w := newWorld(t, simulator.Config{})
	w.setup()
	path := orderFile(t, rows)
	p := start(t, w.env, "submit", "-f", path)
	eventually(t, "some are confirmed", func() bool {
		journal, err := os.ReadFile(path + ".journal")
		return err == nil && bytes.Count(journal, []byte("\n")) > 1 || !p.running()
	})
	// Without a broker it cannot come to its end.
	w.srv.Stop()
	if !p.running() {
		equal(t, "exit code", p.exit(), exitDone)
		return false
	}
	p.kill()
	w.restart()
	var before uint64
	eventually(t, "the broker is back", func() bool {
		s, err := w.js.Stream(t.Context(), "DEPLOY")
		if err == nil {
			before = s.CachedInfo().State.LastSeq
		}
		return err == nil
	})
	if before == uint64(rows) {
		return false
	}
	journal, err := os.ReadFile(path + ".journal")
	if err != nil {
		t.Fatal(err)
	}
	confirmed := bytes.Count(journal, []byte("\n")) - 1
	t.Logf("%d of %d stored and %d confirmed when it was killed", before, rows, confirmed)
	if uint64(confirmed) > before {
		t.Errorf("%d rows are noted as sent, %d are stored", confirmed, before)
	}
	equal(t, "exit code", command(t, w.env, "submit", "-f", path, "--resume").code, exitDone)
	// What was on the way is sent again and dropped by its id.
	equal(t, "messages", w.lastSequence("DEPLOY"), uint64(rows))
	return true
}

// A broker that goes away for a moment costs time and no order.
func TestSubmitOutlivesTheBroker(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)

	const rows = 2000
	w := newWorld(t, simulator.Config{})
	w.setup()
	p := start(t, w.env, "submit", "-f", orderFile(t, rows))
	eventually(t, "some are sent", func() bool { return w.lastSequence("DEPLOY") > 20 || !p.running() })
	w.restart()
	equal(t, "exit code", p.exit(), exitDone)
	eventually(t, "all are there", func() bool {
		s, err := w.js.Stream(t.Context(), "DEPLOY")
		return err == nil && s.CachedInfo().State.Msgs == rows
	})
}

// outcomes counts the states of a CSV result.
func outcomes(t testing.TB, path string) map[string]int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	for _, row := range rows[1:] {
		for i, name := range rows[0] {
			if name == "state" {
				counts[row[i]]++
			}
		}
	}
	return counts
}

// submitMany lets `worker run --dev` carry out a file of so many orders, and
// judges by the invoices of the simulated account.
func submitMany(t testing.TB, rows int) time.Duration {
	t.Helper()
	takeSlot(t)
	env := map[string]string{
		"NATS_URL": "nats://127.0.0.1:0", "HOSTUP_API_URL": "http://127.0.0.1:0/api/v2", "WORKER_ADMIN_ADDR": "127.0.0.1:0",
		"WORKER_CONCURRENCY": "64", "WORKER_LOG_LEVEL": "warn", "WORKER_DEV_DIR": t.TempDir(),
	}
	dev := start(t, env, "run", "--dev")
	var place []string
	eventually(t, "the greeting", func() bool {
		place = regexp.MustCompile(`NATS +(\S+)\n +HostUp API +(\S+) `).FindStringSubmatch(dev.err.String())
		return place != nil
	})
	resp, err := client.Post(place[2]+"/_sim/config", "application/json", strings.NewReader(`{"limits":{"cpuCores":1000000,"memoryGb":1000000,"storageGb":100000000,"instanceCount":1000000}}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	equal(t, "raising the limits", resp.StatusCode, http.StatusOK)
	nc, err := nats.Connect(place[1], nats.Timeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the consumers", func() bool {
		_, err := js.Consumer(t.Context(), "DEPLOY", "deploy-worker-batch")
		return err == nil
	})
	path := orderFile(t, rows)
	began := time.Now()
	p := start(t, map[string]string{"NATS_URL": place[1]}, "submit", "-f", path, "--wait", "--csv-out", path+".done")
	<-p.done
	took := time.Since(began)
	equal(t, "exit code", p.code, exitDone)
	if want := fmt.Sprintf("%d provisioning, 0 failed, 0 held, 0 unanswered", rows); !strings.Contains(p.out.String(), want) {
		t.Errorf("stdout lacks %q", want)
	}
	equal(t, "outcomes", outcomes(t, path+".done")["provisioning"], rows)
	_, text := get(t, place[2]+"/_sim/invoices")
	var invoices []struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal([]byte(text), &invoices); err != nil {
		t.Fatal(err)
	}
	perName := make(map[string]int)
	for _, i := range invoices {
		perName[i.Name]++
	}
	equal(t, "invoices", len(invoices), rows)
	equal(t, "names on them", len(perName), rows)
	t.Logf("%d orders in %s, %.0f/s", rows, took.Round(time.Millisecond), float64(rows)/took.Seconds())
	// Once more, which orders nothing.
	again := command(t, map[string]string{"NATS_URL": place[1]}, "submit", "-f", path, "--wait")
	equal(t, "exit code of the same again", again.code, exitDone)
	if want := fmt.Sprintf("%d orders of %d had been placed before", rows, rows); !strings.Contains(again.out, want) {
		t.Errorf("stdout lacks %q", want)
	}
	_, text = get(t, place[2]+"/_sim/invoices")
	equal(t, "invoices after the same again", strings.Count(text, `"name"`), rows)
	return took
}

// Every order of a file becomes one server.
func TestSubmitFile(t *testing.T) {
	t.Parallel()

	submitMany(t, 200)
}

// BenchmarkSubmit10k is TestSubmitFile with 10 000 orders.
func BenchmarkSubmit10k(b *testing.B) {
	const rows = 10_000
	for b.Loop() {
		took := submitMany(b, rows)
		b.ReportMetric(rows/took.Seconds(), "orders/s")
	}
}
