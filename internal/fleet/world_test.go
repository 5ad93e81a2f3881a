package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/proctest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

const (
	// patience is how long something that has to happen may take before it is
	// taken never to happen.
	patience = 2 * time.Minute
	// commandPatience bounds a command of the worker that ends by itself.
	commandPatience = time.Minute

	requestSubject = "deploy.requested"
	batchSubject   = "deploy.requested.batch"
	token          = "sim-token"
)

// plenty is an account that is never full.
var plenty = simulator.Limits{CPUCores: 1e6, MemoryGB: 1e6, StorageGB: 1e8, Instances: 1e6}

// setup says what a world consists of.
type setup struct {
	replicas, concurrency int

	api simulator.Config
	env map[string]string // over the world's own
}

// slots is how many requests the fleet can have in work.
func (s setup) slots() int { return s.replicas * s.concurrency }

// world is a broker, an API and a fleet.
type world struct {
	setup

	bench *bench
	ctx   context.Context
	label string

	dir      string
	broker   *proctest.Broker
	sim      *simulator.Server
	server   *httptest.Server
	nc       *nats.Conn
	js       jetstream.JetStream
	witness  *witness
	replicas []*replica
}

func (w *world) judgef(ok bool, format string, args ...any) {
	w.bench.judgef(w.label, ok, format, args...)
}

// notef prints a figure without a goal.
func (w *world) notef(format string, args ...any) {
	w.bench.printf("        %-22s %s\n", w.label, fmt.Sprintf(format, args...))
}

func (w *world) must(err error, doing string) {
	if err != nil {
		panic(broken(doing + ": " + err.Error()))
	}
}

func (w *world) begin() {
	var err error
	w.dir, err = os.MkdirTemp(w.bench.dir, "world-")
	w.must(err, "make a directory")
	w.broker, err = proctest.StartBroker(&w.bench.children, w.bench.program("nats-server"), w.dir)
	w.must(err, "start the broker")
	if w.api.Limits == (simulator.Limits{}) {
		w.api.Limits = plenty
	}
	w.sim = simulator.New(w.api)
	w.server = httptest.NewServer(w.sim)
	w.nc, err = nats.Connect(w.broker.URL, nats.Timeout(patience), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1))
	w.must(err, "connect")
	w.js, err = jetstream.New(w.nc)
	w.must(err, "JetStream")
	if code, out := w.command("setup"); code != 0 {
		panic(broken(fmt.Sprintf("worker setup ended with %d: %s", code, out)))
	}
	w.witness, err = newWitness(w.ctx, w.js)
	w.must(err, "follow the events")
	for n := range w.setup.replicas {
		w.replicas = append(w.replicas, newReplica(w, n+1))
		w.replicas[n].start()
	}
	for _, r := range w.replicas {
		r.listening()
	}
}

// end leaves nothing behind, and after a failure shows what the workers
// complained of last.
func (w *world) end(failed bool) {
	for _, r := range w.replicas {
		r.kill()
		if last := lastLines(complaints(r.log.Tail()), 2); failed && last != "" {
			w.bench.printf("%s complained of\n%s\n", r.name, last)
		}
	}
	if w.witness != nil {
		w.witness.stop()
	}
	if w.nc != nil {
		w.nc.Close()
	}
	if w.broker != nil {
		w.broker.Stop()
	}
	if w.server != nil {
		_ = w.sim.Close()
		w.server.CloseClientConnections()
		w.server.Close()
	}
	_ = os.RemoveAll(w.dir)
}

// complaints are the lines of a log that are more than information.
func complaints(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"level":"INFO"`) && strings.HasPrefix(line, "{") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// variables are what the processes of the worker are given: short forms of what
// they wait for, and nothing of the caller's.
func (w *world) variables() []string {
	env := map[string]string{
		"NATS_URL": w.broker.URL, "HOSTUP_API_URL": w.server.URL + "/api/v2", "HOSTUP_API_TOKEN": token,
		"HOSTUP_READ_TIMEOUT": "5s", "HOSTUP_CREATE_TIMEOUT": "3s", "WORKER_DRAIN_TIMEOUT": "20s",
		"WORKER_CONCURRENCY": fmt.Sprint(w.concurrency), "WORKER_ACK_WAIT": "3s",
		"WORKER_BACKOFF_INITIAL": "200ms", "WORKER_BACKOFF_MAX": "2s",
		"WORKER_SETTLE_ANSWERED": "2s", "WORKER_SETTLE_UNANSWERED": "4s", "WORKER_SETTLE_READS": "3",
		"WORKER_ADMIN_ADDR": "127.0.0.1:0", "WORKER_LOG_FORMAT": "json",
		"PATH": os.Getenv("PATH"), "HOME": w.dir, "TMPDIR": w.dir, "GOMAXPROCS": "2",
	}
	maps.Copy(env, w.env)
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	return list
}

// command runs the worker's program to its end.
func (w *world) command(args ...string) (code int, out string) {
	ctx, cancel := context.WithTimeout(w.ctx, commandPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.bench.program("worker"), args...)
	cmd.Env = w.variables()
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		w.must(err, "run the worker")
	}
	return cmd.ProcessState.ExitCode(), lastLines(string(text), 1)
}

// until polls and reports whether the condition came about in time.
func (w *world) until(within time.Duration, ok func() bool) bool {
	end := time.NewTimer(within)
	defer end.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-end.C:
			return ok()
		case <-w.ctx.Done():
			panic(broken("interrupted"))
		}
	}
	return true
}

// await is until for what the rest depends on.
func (w *world) await(what string, ok func() bool) {
	if !w.until(patience, ok) {
		panic(broken("it did not come about in " + patience.String() + ": " + what))
	}
}

// watch lets time pass in which something must not happen.
func (w *world) watch(d time.Duration) { w.until(d, func() bool { return false }) }

func (w *world) update(change func(*simulator.Config)) {
	w.must(w.sim.Update(change), "change the simulator")
}

// order is a request whose key is its name.
type order struct {
	name     string
	cores    int
	deadline time.Time
}

func (o order) body() []byte {
	request := map[string]any{
		"idempotencyKey": o.name, "name": o.name, "cpuCores": max(1, o.cores), "memoryGb": 1, "storageGb": 50, "region": "stockholm",
	}
	if !o.deadline.IsZero() {
		request["deadline"] = o.deadline.Format(time.RFC3339Nano)
	}
	body, err := json.Marshal(request)
	if err != nil {
		panic(err)
	}
	return body
}

// orders are n requests of one size.
func orders(prefix string, n, cores int) []order {
	list := make([]order, n)
	for i := range list {
		list[i] = order{name: fmt.Sprintf("%s-%05d", prefix, i), cores: cores}
	}
	return list
}

// publish sends requests and returns when the broker has them all.
func (w *world) publish(subject string, list ...order) error {
	var pending []jetstream.PubAckFuture
	for _, o := range list {
		ack, err := w.js.PublishAsync(subject, o.body(), jetstream.WithStallWait(patience))
		if err != nil {
			return err
		}
		pending = append(pending, ack)
	}
	for _, ack := range pending {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return err
		case <-w.ctx.Done():
			return w.ctx.Err()
		}
	}
	return nil
}

func (w *world) place(list ...order) { w.must(w.publish(requestSubject, list...), "publish") }

// call does what another user of the account would do.
func (w *world) call(path string, body any) {
	raw, err := json.Marshal(body)
	w.must(err, "encode")
	req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, w.server.URL+"/api/v2"+path, bytes.NewReader(raw))
	w.must(err, path)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.server.Client().Do(req)
	w.must(err, path)
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	w.must(err, path)
	if resp.StatusCode >= 300 {
		w.must(errors.New(resp.Status+" "+string(answer)), path)
	}
}

// buy makes a server that no request asked for.
func (w *world) buy(name string) {
	w.call("/vps/payg/deployments", map[string]any{"name": name, "cpuCores": 1, "memoryGb": 1, "storageGb": 50, "region": "stockholm"})
}

// deleteAll cancels every live server.
func (w *world) deleteAll() {
	for _, v := range w.sim.Servers() {
		if v.Status == "active" || v.Status == "pending" {
			w.call("/vps/"+v.ID+"/actions/cancel", struct{}{})
		}
	}
}

// invoices counts what was sold under names that begin so.
func (w *world) invoices(prefix string) int {
	n := 0
	for _, i := range w.sim.Invoices() {
		if strings.HasPrefix(i.Name, prefix) {
			n++
		}
	}
	return n
}

// judgeOnce judges that no name was bought twice and no key has two outcomes.
func (w *world) judgeOnce() {
	bought := make(map[string]int)
	twice := 0
	for _, i := range w.sim.Invoices() {
		if bought[i.Name]++; bought[i.Name] == 2 {
			twice++
		}
	}
	two := w.witness.contradictions()
	w.judgef(twice == 0 && two == 0, "names billed twice %d, keys with two outcomes %d (goal 0)", twice, two)
}
