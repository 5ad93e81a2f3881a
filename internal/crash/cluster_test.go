package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// cluster is three nats-servers, workers and the simulated API, each in a
// container, on a network of their own.
type cluster struct {
	suite   *suite
	docker  *docker
	images  struct{ nats, worker string }
	nodes   []*box
	sim     *box
	workers []*box
	nc      *nats.Conn
	js      jetstream.JetStream
	api     *api
}

const (
	portNATS    = "4222"
	portMonitor = "8222"
	portAPI     = "8080"

	replicas           = 3
	workerConcurrency  = 32
	durableConsumer    = "deploy-worker"
	ledgerStream       = "KV_deploy-ledger"
	deadStream         = "DEPLOY_DEAD"
	clusterCreateLimit = time.Second
	// Longer than those of the rounds, for nobody hears whether the simulated API
	// stood still in its container.
	clusterSettleAnswered   = 4 * time.Second
	clusterSettleUnanswered = 6 * time.Second
)

// Programs in the worker's image: as it ships, and with failpoints.
const (
	shippedWorker  = "worker"
	carelessWorker = "worker-failpoints"
)

// nodeConfig is what one nats-server is told. Routes go by name, because that
// is what is left of a node that is away.
func nodeConfig(name string, all []string) string {
	var routes []string
	for _, n := range all {
		routes = append(routes, "nats://"+n+":6222")
	}
	return fmt.Sprintf(`server_name: %s
listen: 0.0.0.0:%s
http: 0.0.0.0:%s
jetstream { store_dir: /data, max_file_store: 1G, max_memory_store: 256M }
cluster { name: crash, listen: 0.0.0.0:6222, routes: [%s] }
`, name, portNATS, portMonitor, strings.Join(routes, ", "))
}

// workerEnv is that of the crash rounds, with times for a network and a
// broker that needs a majority.
func (c *cluster) workerEnv(unsafe string) map[string]string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, "nats://"+n.name+":"+portNATS)
	}
	env := map[string]string{
		"NATS_URL": strings.Join(urls, ","), "HOSTUP_API_URL": "http://" + c.sim.name + ":" + portAPI + "/api/v2",
		"HOSTUP_ALLOW_HTTP": "true", "HOSTUP_API_TOKEN": "sim-token",
		"HOSTUP_READ_TIMEOUT": "2s", "HOSTUP_CREATE_TIMEOUT": clusterCreateLimit.String(),
		"WORKER_CONCURRENCY": fmt.Sprint(workerConcurrency), "WORKER_PROVISION": "true", "WORKER_REPLICAS": fmt.Sprint(replicas),
		"WORKER_ACK_WAIT": "2s", "WORKER_DEADLINE": "1h", "WORKER_LIMITS_TTL": "1s",
		"WORKER_BACKOFF_INITIAL": "20ms", "WORKER_BACKOFF_MAX": "500ms",
		"WORKER_SETTLE_ANSWERED": clusterSettleAnswered.String(), "WORKER_SETTLE_UNANSWERED": clusterSettleUnanswered.String(),
		"WORKER_SETTLE_READS": "3", "WORKER_UNKNOWN_POLICY": "retry", "WORKER_BREAKER_UNKNOWNS": "0",
		"WORKER_DRAIN_TIMEOUT": "20s", "WORKER_LOG_FORMAT": "json",
	}
	if unsafe != "" {
		env["WORKER_FAILPOINTS_UNSAFE"] = unsafe
	}
	return env
}

// build makes the images. Only a full run needs the careless worker.
func (c *cluster) build(ctx context.Context, programs ...string) error {
	const path = "github.com/hostup/deploy-worker/cmd/worker"
	dir, err := os.MkdirTemp(c.suite.dir, "image-")
	if err != nil {
		return err
	}
	for _, name := range programs {
		var flags []string
		if name == carelessWorker {
			flags = []string{"-tags", "failpoints"}
		}
		if err := brokertest.Compile(ctx, filepath.Join(dir, name), path, flags...); err != nil {
			return err
		}
	}
	if c.images.nats, err = brokertest.NATSImage(ctx, c.docker.provider); err != nil {
		return err
	}
	c.images.worker = fmt.Sprintf("deploy-worker-crash:%d", os.Getpid())
	return c.docker.buildImage(ctx, c.images.worker, dir, programs...)
}

// start starts everything and returns when it is ready for work.
func (c *cluster) start(ctx context.Context, workers int) error {
	if err := c.startNodes(ctx); err != nil {
		return err
	}
	var err error
	c.sim, err = c.docker.run(ctx, boxSpec{
		name: "hostup", image: c.images.worker, ports: []string{portAPI}, ready: "simulated HostUp API on",
		args: []string{
			"simulate", "--listen=0.0.0.0:" + portAPI, fmt.Sprintf("--seed=%d", c.suite.seed), "--visibility-lag=200ms",
			"--max-cores=10000000", "--max-memory-gb=10000000", "--max-storage-gb=1000000000", "--max-instances=1000000",
		},
	})
	if err != nil {
		return err
	}
	c.api = &api{url: "http://" + c.sim.hosts[portAPI], client: &http.Client{Timeout: askPatience * 5}}
	if err := c.connect(); err != nil {
		return err
	}
	return c.startWorkers(ctx, workers, shippedWorker, "")
}

func (c *cluster) startNodes(ctx context.Context) error {
	names := []string{"n1", "n2", "n3"}
	c.nodes = make([]*box, len(names))
	errs := make([]error, len(names))
	var starting sync.WaitGroup
	for i, name := range names {
		starting.Go(func() {
			c.nodes[i], errs[i] = c.docker.run(ctx, boxSpec{
				name: name, image: c.images.nats, addr: c.docker.address(i), ports: []string{portNATS, portMonitor},
				args: []string{"-c", "/nats.conf"}, files: map[string]string{"/nats.conf": nodeConfig(name, names)},
				volume: "/data", ready: "Server is ready",
			})
		})
	}
	starting.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	if !until(ctx, containerPatience, func() bool { return c.metaLeader(ctx) != nil }) {
		return fmt.Errorf("the cluster has no leader\n%s", c.nodes[0].tail(30))
	}
	return nil
}

// connect opens the connection of a requester, who knows all nodes from
// outside, and hears soon of one that is gone.
func (c *cluster) connect() (err error) {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, "nats://"+n.hosts[portNATS])
	}
	c.nc, err = nats.Connect(strings.Join(urls, ","), nats.IgnoreDiscoveredServers(), nats.MaxReconnects(-1),
		nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1), nats.Timeout(askPatience),
		nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		return err
	}
	c.js, err = jetstream.New(c.nc)
	return err
}

// startWorkers starts workers one after the other; the first one makes the
// streams.
func (c *cluster) startWorkers(ctx context.Context, n int, program, unsafe string) error {
	for i := range n {
		b, err := c.docker.run(ctx, boxSpec{
			name: fmt.Sprintf("%s-%d", program, i+1), image: c.images.worker, entrypoint: "/" + program,
			args: []string{"run"}, env: c.workerEnv(unsafe), ready: "worker started",
		})
		if err != nil {
			return err
		}
		c.workers = append(c.workers, b)
	}
	if !until(ctx, containerPatience, func() bool { return c.whole(ctx) }) {
		return fmt.Errorf("the streams are not there, or not on %d nodes\n%s", replicas, c.workers[0].tail(30))
	}
	return nil
}

// stopWorkers ends the workers as an operator would; each has to answer what it
// has in hand.
func (c *cluster) stopWorkers(ctx context.Context) error {
	defer func() { c.workers = nil }()
	for _, w := range c.workers {
		if err := w.stop(ctx); err != nil {
			return err
		}
		if _, code, err := w.state(ctx); err != nil || code != 0 {
			return fmt.Errorf("%s ended with code %d after SIGTERM: %w\n%s", w.name, code, err, w.tail(30))
		}
	}
	return nil
}

func (c *cluster) close() error {
	if c.nc != nil {
		c.nc.Close()
	}
	return c.docker.close()
}

// info asks the cluster about a stream, consumer or both; nil when there is no
// answer.
func (c *cluster) info(ctx context.Context, stream string) *jetstream.ClusterInfo {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	s, err := c.js.Stream(ctx, stream)
	if err != nil || s.CachedInfo().Config.Replicas != replicas {
		return nil
	}
	return s.CachedInfo().Cluster
}

// whole reports whether every stream and the consumer have a leader and
// followers that have everything.
func (c *cluster) whole(ctx context.Context) bool {
	var all []*jetstream.ClusterInfo
	for _, stream := range []string{requestStream, eventStream, deadStream, ledgerStream} {
		all = append(all, c.info(ctx, stream))
	}
	ask, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	consumer, err := c.js.Consumer(ask, requestStream, durableConsumer)
	if err != nil {
		return false
	}
	for _, info := range append(all, consumer.CachedInfo().Cluster) {
		if info == nil || info.Leader == "" || len(info.Replicas) != replicas-1 {
			return false
		}
		if slices.ContainsFunc(info.Replicas, func(p *jetstream.PeerInfo) bool { return !p.Current || p.Offline }) {
			return false
		}
	}
	return c.metaLeader(ctx) != nil
}

// leader is the node that leads a stream, nil when nobody is known to.
func (c *cluster) leader(ctx context.Context, stream string) *box {
	if info := c.info(ctx, stream); info != nil {
		return c.node(info.Leader)
	}
	return nil
}

func (c *cluster) node(name string) *box {
	if i := slices.IndexFunc(c.nodes, func(b *box) bool { return b.name == name }); i >= 0 {
		return c.nodes[i]
	}
	return nil
}

// metaLeader is the node that leads the cluster as all that answer see it.
func (c *cluster) metaLeader(ctx context.Context) *box {
	for _, n := range c.nodes {
		var seen struct {
			Meta struct {
				Leader string `json:"leader"`
			} `json:"meta_cluster"`
		}
		if err := n.monitor(ctx, "/jsz", &seen); err == nil && seen.Meta.Leader != "" {
			return c.node(seen.Meta.Leader)
		}
	}
	return nil
}

// busiest is the node to which most workers are connected, and how many.
func (c *cluster) busiest(ctx context.Context) (most *box, workers int) {
	most = c.nodes[0]
	for _, n := range c.nodes {
		var seen struct {
			Connections []struct {
				Name string `json:"name"`
			} `json:"connections"`
		}
		if err := n.monitor(ctx, "/connz", &seen); err != nil {
			continue
		}
		count := 0
		for _, conn := range seen.Connections {
			if conn.Name == "deploy-worker" {
				count++
			}
		}
		if count > workers {
			most, workers = n, count
		}
	}
	return most, workers
}

// monitor reads a page of the node's monitoring.
func (b *box) monitor(ctx context.Context, path string, into any) error {
	return getJSON(ctx, &http.Client{Timeout: askPatience}, "http://"+b.hosts[portMonitor]+path, into)
}

func getJSON(ctx context.Context, client *http.Client, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
