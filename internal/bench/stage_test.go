package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/proctest"
)

// The contract's default names, which the worker gets by default and the floor
// uses as well.
const (
	requestStream  = "DEPLOY"
	eventStream    = "DEPLOY_EVENTS"
	deadStream     = "DEPLOY_DEAD"
	ledgerName     = "deploy-ledger"
	consumerName   = "deploy-worker"
	requestSubject = "deploy.requested"
	outcomeSubject = "deploy.provisioning"
	token          = "sim-token"
	region         = "stockholm"
)

// stage is what all turns of a scenario play on: a broker, whose streams are
// made anew for each of them, and an answerer.
type stage struct {
	suite    *suite
	ctx      context.Context
	dir      string
	broker   *proctest.Broker
	answerer *process
	api      string // without the path
	nc       *nats.Conn
	js       jetstream.JetStream
	client   *http.Client
	turns    int
	refused  int // publishes that the broker did not take
}

// stage begins one. end ends it.
func (s *suite) stage(ctx context.Context) *stage {
	g := &stage{suite: s, ctx: ctx, client: &http.Client{Timeout: patience}}
	var err error
	g.dir, err = os.MkdirTemp(s.dir, "stage-")
	must(err, "make a directory")
	g.broker, err = proctest.StartBroker(&s.children, s.program("nats-server"), g.dir)
	must(err, "start the broker")
	g.answerer, err = s.itself("answerer", nil)
	must(err, "start the answerer")
	var said struct {
		Address string `json:"address"`
	}
	must(g.answerer.says("address", &said), "the answerer")
	g.api = said.Address
	g.nc, err = nats.Connect(g.broker.URL)
	must(err, "connect")
	g.js, err = jetstream.New(g.nc, jetstream.WithPublishAsyncMaxPending(4096),
		jetstream.WithPublishAsyncErrHandler(func(jetstream.JetStream, *nats.Msg, error) { g.refused++ }))
	must(err, "JetStream")
	return g
}

func (g *stage) end() {
	if g.nc != nil {
		g.nc.Close()
	}
	if g.answerer != nil {
		g.answerer.Kill()
	}
	if g.broker != nil {
		g.broker.Stop()
	}
	_ = os.RemoveAll(g.dir)
}

// variables are those of the worker's processes. All else has its default, with
// which the worker ships.
func (g *stage) variables(concurrency int) []string {
	return []string{
		"NATS_URL=" + g.broker.URL, "HOSTUP_API_URL=" + g.api + "/api/v2", "HOSTUP_API_TOKEN=" + token,
		"WORKER_CONCURRENCY=" + strconv.Itoa(concurrency), "WORKER_ADMIN_ADDR=127.0.0.1:0", "WORKER_LOG_FORMAT=json",
		"HOME=" + g.dir, "TMPDIR=" + g.dir, profileVariable + "=" + g.suite.profiles,
	}
}

// clear makes the streams anew with `worker setup`, and the answerer forget.
func (g *stage) clear(latency time.Duration) {
	for _, name := range []string{requestStream, eventStream, deadStream, "KV_" + ledgerName} {
		if err := g.js.DeleteStream(g.ctx, name); err != nil && !g.fresh() {
			must(err, "delete "+name)
		}
	}
	g.turns++
	cmd := exec.CommandContext(g.ctx, g.suite.program("worker"), "setup")
	cmd.Env = g.variables(1)
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(broken(fmt.Sprintf("worker setup: %v\n%s", err, out)))
	}
	g.call(http.MethodPost, "/reset?latency="+latency.String())
}

// fresh says that nothing has been made on the broker yet.
func (g *stage) fresh() bool { return g.turns == 0 }

func (g *stage) call(method, path string) []byte {
	req, err := http.NewRequestWithContext(g.ctx, method, g.api+path, nil)
	must(err, path)
	resp, err := g.client.Do(req)
	must(err, path)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(err, path)
	return body
}

// seen is what the answerer has seen since the streams were made anew.
func (g *stage) seen() (a account) {
	must(json.Unmarshal(g.call(http.MethodGet, "/report"), &a), "read the report")
	return a
}

// stored is how many messages a stream holds.
func (g *stage) stored(stream string) int {
	s, err := g.js.Stream(g.ctx, stream)
	must(err, "look at "+stream)
	return int(s.CachedInfo().State.Msgs)
}

// kind is one of the programs that are compared.
type kind string

const (
	kindFloor  kind = "floor"
	kindFresh  kind = "floor, fresh"
	kindWorker kind = "worker"
)

// kindOther is the worker of -beside.
const kindOther kind = "worker, other"

var kinds = []kind{kindFloor, kindFresh, kindWorker}

func (k kind) worker() bool { return k == kindWorker || k == kindOther }

// start begins a program with so many requests in work at once.
func (g *stage) start(k kind, concurrency int) *process {
	var p *process
	var err error
	if k.worker() {
		program := g.suite.program("worker")
		if k == kindOther {
			program = g.suite.beside
		}
		p, err = g.suite.spawn(filepath.Join(g.dir, "worker.log"), g.variables(concurrency), program, "run")
	} else {
		p, err = g.suite.itself("floor", floorTask{NATS: g.broker.URL, API: g.api + "/api/v2", Concurrency: concurrency, Fresh: k == kindFresh})
	}
	must(err, "start the "+string(k))
	return p
}

// usage reads how much a program has allocated, and ends it. The worker tells on
// its page of metrics, the floor at its end.
func (g *stage) usage(k kind, p *process) (u floorUsage) {
	if k.worker() {
		page := g.metrics(p)
		if k == kindWorker && g.suite.profiles != "" {
			p.Signal(syscall.SIGUSR1)
			must(p.says("profiled", new(struct{})), "the worker's profiles")
		}
		u = floorUsage{Mallocs: uint64(sample(page, "go_memstats_mallocs_total")), Bytes: uint64(sample(page, "go_memstats_alloc_bytes_total"))}
	}
	must(p.finish(), "end the "+string(k))
	if !k.worker() {
		text, err := os.ReadFile(p.output)
		must(err, "read what the floor said")
		lines := len(text) // its last line is the usage
		for lines > 1 && text[lines-2] != '\n' {
			lines--
		}
		must(json.Unmarshal(text[lines-1:], &u), "read the floor's usage")
	}
	return u
}

func (g *stage) metrics(worker *process) string {
	var said struct {
		Admin string `json:"admin"`
	}
	must(worker.says("admin", &said), "the worker")
	resp, err := g.client.Get("http://" + said.Admin + "/metrics")
	must(err, "read the metrics")
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	must(err, "read the metrics")
	return string(page)
}
