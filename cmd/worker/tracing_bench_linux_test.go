package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// Of BenchmarkTracing: how long one run of it takes turns, how many requests are
// in a turn, and how many rounds an interval needs to be one.
const (
	benchTime     = 4 * time.Minute
	benchRequests = 300
	fewestRounds  = 20
)

// untraced are the files of the worker that make spans or work under the
// requester's, and what stands in for each in a worker that does neither. That the
// trace context of a request is found in its event again is no tracing but a
// promise to whoever asks, and stays. A part that is left in a file beside these
// is a comparison with nil.
var untraced = map[string]string{
	"internal/consumer/span.go":  "consumer.go",
	"internal/provision/span.go": "provision.go",
	"internal/hostup/span.go":    "hostup.go",
	"internal/telemetry/logs.go": "telemetry.go",
}

// BenchmarkTracing prints what tracing costs of the throughput. Three modes take
// short turns in random order at requests that carry a sampled trace context:
//
//	untraced  built without the code that makes spans or works under the requester's
//	off       as it ships, nothing exported
//	sampled   as it ships, every span exported over OTLP
//
// Where a linker puts the functions alone can cost more than what is measured
// here, so each mode is two programs with different layouts, and what the two
// differ by tells what the figures are worth. Each worker is a process with
// streams, a ledger and an account of its own. The broker, the simulated API, the
// collector and the requester are this process and share its processors with the
// worker, so that all of them are busy and the throughput is what a request costs
// altogether.
//
// Each round of a mode is compared with that of untraced, which saw much the same
// of what else the machine did (see cost). It fails unless the whole interval is
// below the goal: a run that cannot tell has not shown it. A longer run
// (-benchtime 3x -timeout 30m) narrows the interval.
//
//	go test -run '^$' -bench Tracing -benchtime 1x ./cmd/worker
func BenchmarkTracing(b *testing.B) {
	collector := newCollector(b)
	exporting := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
	load := newTracingLoad(b)
	modes := []*tracingMode{{name: "untraced"}, {name: "off", goal: 2}, {name: "sampled", goal: 15}}
	var workers []*benchWorker
	for layout := range 2 {
		plain, traced := build(b, true, layout), build(b, false, layout)
		for i, w := range []*benchWorker{{exe: plain}, {exe: traced}, {exe: traced, env: exporting, spans: collector}} {
			w.name = fmt.Sprint(modes[i].name, "-", layout)
			w.start(b, load.url)
			load.turn(b, w)
			w.took, w.own, w.elsewhere, w.began = nil, 0, 0, w.allocated(b)
			modes[i].workers, workers = append(modes[i].workers, w), append(workers, w)
		}
	}
	for b.Loop() {
		for end := time.Now().Add(benchTime); time.Now().Before(end); {
			for _, i := range rand.Perm(len(workers)) {
				load.turn(b, workers[i])
			}
		}
	}
	if n := len(workers[0].took); n < fewestRounds {
		b.Fatalf("%d rounds say nothing: this machine needs a longer run", n)
	}
	for _, m := range modes {
		m.judge(b, modes[0])
	}
}

// TestUntracedCompiles: what the benchmark compares with goes on to fit the code
// beside it.
func TestUntracedCompiles(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-overlay", overlay(t, true), "../../internal/...")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0") // as everything else that is built
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go build: %v\n%s", err, out)
	}
}

// build compiles the program, both ways with the same flags.
func build(b *testing.B, without bool, layout int) string {
	b.Helper()
	exe := filepath.Join(b.TempDir(), "worker")
	cmd := exec.CommandContext(b.Context(), "go", "build", "-overlay", overlay(b, without), fmt.Sprint("-ldflags=-randlayout=", layout+1), "-o", exe, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	return exe
}

// overlay writes which files a build is to take for others.
func overlay(t testing.TB, without bool) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	must(t, err)
	replace := make(map[string]string)
	for path, by := range untraced {
		if without {
			replace[filepath.Join(root, path)] = filepath.Join(root, "cmd/worker/testdata/untraced", by)
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	must(t, err)
	file := filepath.Join(t.TempDir(), "overlay.json")
	must(t, os.WriteFile(file, text, 0o600))
	return file
}

// tracingMode is one way to run the worker.
type tracingMode struct {
	name string
	// goal is how many hundredths of the throughput it may cost.
	goal    float64
	workers []*benchWorker
}

// rounds returns how long each round took its workers.
func (m *tracingMode) rounds() []float64 {
	sums := make([]float64, len(m.workers[0].took))
	for _, w := range m.workers {
		for i, t := range w.took {
			sums[i] += t
		}
	}
	return sums
}

// judge prints what a mode costs beside another one, and holds it against its
// goal.
func (m *tracingMode) judge(b *testing.B, base *tracingMode) {
	b.Helper()
	took, own, all, made := m.rounds(), 0.0, 0.0, allocated{}
	n := float64(len(took) * len(m.workers) * benchRequests)
	for _, w := range m.workers {
		now := w.allocated(b)
		own, all = own+float64(w.own.Microseconds())/n, all+float64(w.elsewhere.Microseconds())/n
		made.objects, made.bytes = made.objects+(now.objects-w.began.objects)/n, made.bytes+(now.bytes-w.began.bytes)/n
	}
	rate := float64(len(m.workers)*benchRequests) / median(took)
	b.Logf("%-8s %5.0f requests/s; a request takes %4.0f µs of the worker's processor time, %4.0f µs elsewhere (%.1f of %d processors), %4.0f allocations, %5.1f kB",
		m.name, rate, own, all, rate*(own+all)/1e6, runtime.NumCPU(), made.objects, made.bytes/1e3)
	differ, low, high := cost(m.workers[1].took, m.workers[0].took)
	layouts := fmt.Sprintf("its two layouts differ by %.1f %% (%.1f to %.1f)", differ, low, high)
	if m == base {
		b.Logf("%-8s %s; %d rounds of %d requests for each", m.name, layouts, len(took), benchRequests)
		return
	}
	paid, low, high := cost(took, base.rounds())
	b.ReportMetric(paid, m.name+"-%")
	verdict, say := "below", b.Logf
	switch {
	case high < m.goal:
	case low < m.goal:
		verdict, say = "this run cannot tell whether that is below", b.Errorf
	default:
		verdict, say = "above", b.Errorf
	}
	say("%-8s costs %.1f %% of the throughput, with 95 %% from %.1f to %.1f %%: %s the goal of %.0f %%; %s", m.name, paid, low, high, verdict, m.goal, layouts)
}

// cost returns the hundredths of the throughput that are lost when rounds take
// as long as these and not as long as those, and the values between which the
// true one lies with 95 %: the estimate of Hodges and Lehmann, and what a
// signed-rank test of Wilcoxon does not exclude. It takes no shape of the noise
// for granted but that it is the same in both, since they take turns in random
// order: then their logarithms differ by as much upwards as downwards.
func cost(these, those []float64) (middle, low, high float64) {
	differ := make([]float64, len(these))
	for i := range differ {
		differ[i] = math.Log(these[i] / those[i])
	}
	var means []float64
	for i, a := range differ {
		for _, b := range differ[i:] {
			means = append(means, (a+b)/2)
		}
	}
	slices.Sort(means)
	n := float64(len(differ))
	rank := max(int(math.Floor(n*(n+1)/4-1.96*math.Sqrt(n*(n+1)*(2*n+1)/24))), 1)
	lost := func(d float64) float64 { return 100 * (1 - math.Exp(-d)) }
	return lost(median(means)), lost(means[rank-1]), lost(means[len(means)-rank])
}

// The interval holds the true cost about as often as it says, also of noise with
// a long tail.
func TestCost(t *testing.T) {
	t.Parallel()
	const cases, rounds, truth = 400, 60, 2.0
	r := rand.New(rand.NewPCG(1, 2))
	noise := func() float64 {
		d := math.Exp(0.1 * r.NormFloat64())
		if r.IntN(10) == 0 {
			d *= 1 + r.ExpFloat64()
		}
		return d
	}
	held, sum := 0, 0.0
	for range cases {
		these, those := make([]float64, rounds), make([]float64, rounds)
		for i := range rounds {
			these[i], those[i] = noise()/(1-truth/100), noise()
		}
		middle, low, high := cost(these, those)
		sum += middle
		if low <= truth && truth <= high {
			held++
		}
	}
	if mean := sum / cases; math.Abs(mean-truth) > 0.3 {
		t.Errorf("on average it is %.2f %%, and really %.2f", mean, truth)
	}
	if part := 100 * float64(held) / cases; part < 92 || part > 98 {
		t.Errorf("the interval holds the true cost %.1f times in a hundred", part)
	}
}

// benchWorker is a running worker.
type benchWorker struct {
	name string
	exe  string
	env  map[string]string
	// spans, if set, gets every span.
	spans *collector

	pid   int
	admin string
	turns int
	began allocated
	// took is the seconds of each turn; own and elsewhere are the processor time
	// that the worker and all else took for them.
	took           []float64
	own, elsewhere time.Duration
}

// start runs the process until the benchmark ends.
func (w *benchWorker) start(b *testing.B, natsURL string) {
	b.Helper()
	const plenty = 1 << 40
	sim := simulator.New(simulator.Config{Limits: simulator.Limits{CPUCores: plenty, MemoryGB: plenty, StorageGB: plenty, Instances: plenty}})
	api := httptest.NewServer(sim)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	w.admin = free.Addr().String()
	must(b, free.Close())
	env := map[string]string{
		"NATS_URL": natsURL, "HOSTUP_API_URL": api.URL + "/api/v2", "HOSTUP_API_TOKEN": testToken,
		"WORKER_SUBJECT_PREFIX": w.name, "WORKER_STREAM": w.name, "WORKER_EVENTS_STREAM": w.name + "-events",
		"WORKER_DEAD_STREAM": w.name + "-dead", "WORKER_LEDGER": w.name, "WORKER_CONSUMER": w.name,
		"WORKER_PROVISION": "true", "WORKER_ADMIN_ADDR": w.admin, "WORKER_LIMITS_TTL": "1h",
		"PATH": os.Getenv("PATH"), "HOME": b.TempDir(), "TMPDIR": os.TempDir(),
	}
	maps.Copy(env, w.env)
	cmd := exec.Command(w.exe, "run") // its log goes nowhere
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	must(b, cmd.Start())
	w.pid = cmd.Process.Pid
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			b.Errorf("%s: %v", w.name, err)
		}
		api.Close()
		_ = sim.Close()
	})
	eventually(b, w.name+" is ready", func() bool {
		status, _, err := w.get("/readyz")
		return err == nil && status == http.StatusOK
	})
}

func (w *benchWorker) get(path string) (status int, text string, err error) {
	client := http.Client{Timeout: patience}
	resp, err := client.Get("http://" + w.admin + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// allocated is what a worker says that it has allocated so far.
type allocated struct{ objects, bytes float64 }

func (w *benchWorker) allocated(b *testing.B) (a allocated) {
	b.Helper()
	_, text, err := w.get("/metrics")
	must(b, err)
	for name, into := range map[string]*float64{"go_memstats_mallocs_total": &a.objects, "go_memstats_alloc_bytes_total": &a.bytes} {
		_, rest, found := strings.Cut(text, "\n"+name+" ")
		value, _, _ := strings.Cut(rest, "\n")
		if *into, err = strconv.ParseFloat(value, 64); err != nil || !found {
			b.Fatalf("%s of %s: %q", name, w.name, value)
		}
	}
	return a
}

// processorTime is what the threads of the worker have used so far.
func (w *benchWorker) processorTime(b *testing.B) (sum time.Duration) {
	b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", w.pid))
	must(b, err)
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		must(b, err)
		used, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(used, 10, 64)
		must(b, err)
		sum += time.Duration(n)
	}
	return sum
}

func median(of []float64) float64 {
	of = slices.Sorted(slices.Values(of))
	return (of[len(of)/2] + of[(len(of)-1)/2]) / 2
}

// tracingLoad is the broker, and a requester that waits for the events.
type tracingLoad struct {
	url string
	nc  *nats.Conn
	js  jetstream.JetStream
}

func newTracingLoad(b *testing.B) *tracingLoad {
	b.Helper()
	srv := brokertest.Start(b)
	l := &tracingLoad{url: srv.URL}
	l.nc, l.js = brokertest.Connect(b, srv)
	return l
}

// turn makes a worker handle requests that are there at once.
func (l *tracingLoad) turn(b *testing.B, w *benchWorker) {
	b.Helper()
	w.turns++
	answered := make(chan *nats.Msg, benchRequests)
	sub, err := l.nc.ChanSubscribe(w.name+".provisioning", answered)
	must(b, err)
	must(b, l.nc.Flush())
	runtime.GC() // the garbage of the turn before is not this one's
	used, own, began := processorTime(), w.processorTime(b), time.Now()
	for n := range benchRequests {
		l.place(b, w.name, fmt.Sprintf("%s-%d-%d", w.name, w.turns, n))
	}
	late := time.After(patience)
	for n := range benchRequests {
		select {
		case <-answered:
		case <-late:
			b.Fatalf("%s: %d of %d requests after %s", w.name, n, benchRequests, patience)
		}
	}
	w.took = append(w.took, time.Since(began).Seconds())
	w.own, w.elsewhere = w.own+w.processorTime(b)-own, w.elsewhere+processorTime()-used
	must(b, sub.Unsubscribe())
	if w.spans != nil {
		w.spans.await(b, benchRequests)
	}
}

func (l *tracingLoad) place(b *testing.B, prefix, key string) {
	b.Helper()
	msg := nats.NewMsg(prefix + ".requested")
	msg.Data = []byte(fmt.Sprintf(`{"idempotencyKey":%q,"name":%q,"cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm"}`, key, key))
	msg.Header.Set("traceparent", "00-"+strings.Repeat("0", 16)+fmt.Sprintf("%016x", rand.Uint64()|1)+"-"+orderSpan+"-01")
	_, err := l.js.PublishMsgAsync(msg)
	must(b, err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
