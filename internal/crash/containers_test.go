package crash

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	tcnetwork "github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// containerPatience bounds what the Docker engine is asked for.
const containerPatience = 2 * time.Minute

// docker is the part of an engine that belongs to one run: a network, an image
// and containers, all of which end with it.
type docker struct {
	provider *testcontainers.DockerProvider
	api      client.APIClient
	labels   map[string]string
	network  *testcontainers.DockerNetwork
	subnet   netip.Prefix
	images   []string

	mu    sync.Mutex
	boxes []*box
}

// box is one container.
type box struct {
	docker *docker
	name   string // on the network
	id     string
	addr   netip.Addr        // on the network, where it stays the same; else not valid
	hosts  map[string]string // port -> host:port on this machine
}

// openDocker looks for an engine, removes what killed runs left on it and makes
// a network.
func openDocker(ctx context.Context) (*docker, error) {
	provider, err := brokertest.Engine(ctx)
	if err != nil {
		return nil, err
	}
	d := &docker{provider: provider, api: provider.Client()}
	if err = brokertest.Sweep(ctx, d.api); err == nil {
		d.labels, err = brokertest.Labels()
	}
	if err == nil {
		err = d.makeNetwork(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// makeNetwork lets the engine choose a free subnet and then asks for that one:
// addresses can only be kept over a disconnect on a subnet that was asked for.
func (d *docker) makeNetwork(ctx context.Context) (err error) {
	for range 5 {
		var first *testcontainers.DockerNetwork
		if first, err = tcnetwork.New(ctx, tcnetwork.WithLabels(d.labels)); err != nil {
			return err
		}
		seen, err := d.api.NetworkInspect(ctx, first.ID, client.NetworkInspectOptions{})
		if err := errors.Join(err, first.Remove(ctx)); err != nil {
			return err
		}
		d.subnet = seen.Network.IPAM.Config[0].Subnet
		d.network, err = tcnetwork.New(ctx, tcnetwork.WithLabels(d.labels), tcnetwork.WithIPAM(&network.IPAM{
			Config: []network.IPAMConfig{{Subnet: d.subnet}},
		}))
		if err == nil {
			return nil
		}
	}
	return err // somebody else was faster, again and again
}

// address is the nth of those that the engine does not give to anybody by
// itself before it has given out a hundred.
func (d *docker) address(n int) netip.Addr {
	b := d.subnet.Addr().As4()
	b[3] += byte(101 + n)
	return netip.AddrFrom4(b)
}

// buildImage makes an image from nothing but programs; it goes with the run.
func (d *docker) buildImage(ctx context.Context, name, dir string, programs ...string) error {
	d.images = append(d.images, name)
	return brokertest.Image(ctx, d.provider, name, dir, d.labels, programs...)
}

// boxSpec is what a container is made of.
type boxSpec struct {
	name, image string
	addr        netip.Addr
	ports       []string // to be reached from this machine
	entrypoint  string
	args        []string
	env         map[string]string
	files       map[string]string // path -> contents
	volume      string            // path that is no layer of an image, because those are slow
	ready       string            // what it says when it is ready
}

// run starts a container and waits until it says that it is ready. Its ports on
// this machine stay the same over a restart, so they are chosen here, and
// somebody else may take one meanwhile.
func (d *docker) run(ctx context.Context, spec boxSpec) (b *box, err error) {
	for range 3 {
		b = &box{docker: d, name: spec.name, addr: spec.addr, hosts: make(map[string]string)}
		if err = b.create(ctx, spec); err == nil || !strings.Contains(err.Error(), "address already in use") && !strings.Contains(err.Error(), "port is already allocated") {
			return b, err
		}
		_ = b.remove(ctx)
	}
	return b, err
}

func (b *box) create(ctx context.Context, spec boxSpec) error {
	bindings := make(network.PortMap)
	for _, port := range spec.ports {
		host, err := freePort()
		if err != nil {
			return err
		}
		b.hosts[port] = host.String()
		bindings[network.MustParsePort(port+"/tcp")] = []network.PortBinding{{HostIP: host.Addr(), HostPort: fmt.Sprint(host.Port())}}
	}
	opts := []testcontainers.ContainerCustomizer{
		testcontainers.WithLabels(b.docker.labels), testcontainers.WithEnv(spec.env), testcontainers.WithCmd(spec.args...),
		testcontainers.WithExposedPorts(spec.ports...), tcnetwork.WithNetwork([]string{spec.name}, b.docker.network),
		testcontainers.WithHostConfigModifier(func(c *container.HostConfig) { c.PortBindings = bindings }),
		testcontainers.WithEndpointSettingsModifier(func(all map[string]*network.EndpointSettings) {
			for _, e := range all {
				e.IPAMConfig = b.endpoint().IPAMConfig
			}
		}),
		testcontainers.WithWaitStrategyAndDeadline(containerPatience, wait.ForLog(spec.ready)),
	}
	if spec.entrypoint != "" {
		opts = append(opts, testcontainers.WithEntrypoint(spec.entrypoint))
	}
	if spec.volume != "" {
		opts = append(opts, testcontainers.WithConfigModifier(func(c *container.Config) { c.Volumes = map[string]struct{}{spec.volume: {}} }))
	}
	for path, text := range spec.files {
		opts = append(opts, testcontainers.WithFiles(testcontainers.ContainerFile{
			Reader: strings.NewReader(text), ContainerFilePath: path, FileMode: 0o644,
		}))
	}
	made, err := testcontainers.Run(ctx, spec.image, opts...)
	if made != nil {
		b.id = made.GetContainerID()
		b.docker.mu.Lock()
		b.docker.boxes = append(b.docker.boxes, b)
		b.docker.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("start %s: %w\n%s", spec.name, err, b.tail(20))
	}
	return nil
}

// freePort is a port of this machine that nobody listens on.
func freePort() (netip.AddrPort, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// endpoint is the place on the network that the container has, and gets back.
func (b *box) endpoint() *network.EndpointSettings {
	e := &network.EndpointSettings{Aliases: []string{b.name}}
	if b.addr.IsValid() {
		e.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: b.addr}
	}
	return e
}

// cut takes the container off the network; what it has connected to hears
// nothing, not even an end.
func (b *box) cut(ctx context.Context) error {
	_, err := b.docker.api.NetworkDisconnect(ctx, b.docker.network.ID, client.NetworkDisconnectOptions{Container: b.id, Force: true})
	return err
}

// join puts it back, under the same name and address.
func (b *box) join(ctx context.Context) error {
	_, err := b.docker.api.NetworkConnect(ctx, b.docker.network.ID, client.NetworkConnectOptions{Container: b.id, EndpointConfig: b.endpoint()})
	return err
}

func (b *box) pause(ctx context.Context) error {
	_, err := b.docker.api.ContainerPause(ctx, b.id, client.ContainerPauseOptions{})
	return err
}

func (b *box) unpause(ctx context.Context) error {
	_, err := b.docker.api.ContainerUnpause(ctx, b.id, client.ContainerUnpauseOptions{})
	return err
}

// kill ends its process with SIGKILL. Its files stay.
func (b *box) kill(ctx context.Context) error {
	_, err := b.docker.api.ContainerKill(ctx, b.id, client.ContainerKillOptions{Signal: "KILL"})
	return err
}

// stop ends its process with SIGTERM and waits for it.
func (b *box) stop(ctx context.Context) error {
	within := 60
	_, err := b.docker.api.ContainerStop(ctx, b.id, client.ContainerStopOptions{Timeout: &within})
	return err
}

// start starts its process again. The port it had may be the source port of
// somebody's connection for a moment.
func (b *box) start(ctx context.Context) (err error) {
	_ = until(ctx, 30*time.Second, func() bool {
		_, err = b.docker.api.ContainerStart(ctx, b.id, client.ContainerStartOptions{})
		return err == nil
	})
	return err
}

// state tells whether its process runs, and with which code it ended.
func (b *box) state(ctx context.Context) (running bool, code int, err error) {
	seen, err := b.docker.api.ContainerInspect(ctx, b.id, client.ContainerInspectOptions{})
	if err != nil {
		return false, 0, err
	}
	return seen.Container.State.Running, seen.Container.State.ExitCode, nil
}

// tail is the end of what its process said.
func (b *box) tail(lines int) string {
	if b.id == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), containerPatience)
	defer cancel()
	log, err := b.docker.api.ContainerLogs(ctx, b.id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: fmt.Sprint(lines)})
	if err != nil {
		return err.Error()
	}
	defer log.Close()
	var text strings.Builder
	if _, err := stdcopy.StdCopy(&text, &text, log); err != nil {
		return err.Error()
	}
	return text.String()
}

func (b *box) remove(ctx context.Context) error {
	if b.id == "" {
		return nil
	}
	_, err := b.docker.api.ContainerRemove(ctx, b.id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err == nil {
		b.id = ""
	}
	return err
}

// close removes everything. It has time of its own: a run that was interrupted
// has none left.
func (d *docker) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), containerPatience)
	defer cancel()
	var removing sync.WaitGroup
	failed := make([]error, len(d.boxes))
	for i, b := range d.boxes {
		removing.Go(func() { failed[i] = b.remove(ctx) })
	}
	removing.Wait()
	errs := []error{errors.Join(failed...)}
	if d.network != nil {
		errs = append(errs, d.network.Remove(ctx))
	}
	for _, name := range d.images {
		if _, err := d.api.ImageInspect(ctx, name); err == nil {
			_, err = d.api.ImageRemove(ctx, name, client.ImageRemoveOptions{Force: true, PruneChildren: true})
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, d.provider.Close())...)
}

// requireDocker is set where a run without an engine must not pass for one
// that went well.
func requireDocker() bool { return os.Getenv("REQUIRE_DOCKER") == "1" }

// until asks again and again, and reports whether it came true in time.
func until(ctx context.Context, within time.Duration, is func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for !is() {
		select {
		case <-again.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
