package brokertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/testcontainers/testcontainers-go"
	tcnats "github.com/testcontainers/testcontainers-go/modules/nats"
	"github.com/testcontainers/testcontainers-go/wait"
)

// accounts is how many Starts one test binary can do in the container lane.
const accounts = 512

// containerTimeout bounds building the image and starting the container. The
// first build on a machine compiles nats-server.
const containerTimeout = 8 * time.Minute

// Labels of our containers, by which a later run finds what a killed one left.
const (
	labelTestcontainers = "org.testcontainers"
	labelOwn            = "se.hostup.deploy-worker.brokertest"
	labelHost           = labelOwn + ".host"
	labelPID            = labelOwn + ".pid"
)

// orphanAge is the age after which a container is left over whoever started it;
// no test binary runs that long.
const orphanAge = 3 * time.Hour

// errNoDocker says that no Docker engine answered.
var errNoDocker = errors.New("no Docker engine answers")

// shared is the container of this test binary.
var shared struct {
	once      sync.Once
	err       error
	container *tcnats.NATSContainer
	address   string // host:port

	mu      sync.Mutex
	managed bool // Main runs, so the container will be terminated
	used    int  // accounts handed out
	skipped int  // tests skipped by needsProcess
}

// needsProcess skips t. The words "needs a process of its own" are how the
// report of the test lanes tells these skips from unexpected ones.
func needsProcess(t testing.TB, reason string) {
	t.Helper()

	shared.mu.Lock()
	shared.skipped++
	shared.mu.Unlock()

	t.Skipf("brokertest: needs a process of its own: %s", reason)
}

// nextAccount returns a URL with the credentials of an account that nobody has
// used. Accounts are not handed out twice: a connection that some test forgot
// to close could otherwise reach into another.
func nextAccount(t testing.TB) string {
	t.Helper()

	shared.mu.Lock()
	managed := shared.managed
	shared.mu.Unlock()

	if !managed {
		t.Fatal("brokertest: the container lane needs a TestMain which calls brokertest.Main, or the container would stay behind")
	}

	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), containerTimeout)
		defer cancel()

		shared.container, shared.err = startContainer(ctx)
		if shared.err == nil {
			shared.address, shared.err = shared.container.PortEndpoint(ctx, "4222/tcp", "")
		}
	})

	switch {
	case errors.Is(shared.err, errNoDocker) && os.Getenv("REQUIRE_DOCKER") != "1":
		t.Skipf("brokertest: %v (REQUIRE_DOCKER=1 makes this a failure)", shared.err)
	case shared.err != nil:
		t.Fatalf("brokertest: container: %v", shared.err)
	}

	shared.mu.Lock()
	defer shared.mu.Unlock()

	if shared.used == accounts {
		t.Fatalf("brokertest: all %d accounts of the container are used", accounts)
	}

	n := shared.used
	shared.used++

	return fmt.Sprintf("nats://u%d:p%d@%s", n, n, shared.address)
}

// configuration of the server in the container: every account has a JetStream
// and one user.
func configuration() []byte {
	var b bytes.Buffer

	fmt.Fprintf(&b, "listen: 0.0.0.0:4222\n")
	fmt.Fprintf(&b, "max_payload: %d\n", DefaultMaxPayload)
	fmt.Fprintf(&b, "jetstream { store_dir: /data, max_file_store: %d, max_memory_store: %d }\n", int64(maxStore), int64(maxMemory))
	fmt.Fprintf(&b, "accounts {\n")

	for n := range accounts {
		fmt.Fprintf(&b, "  A%d { jetstream: enabled, users: [ { user: u%d, password: p%d } ] }\n", n, n, n)
	}

	fmt.Fprintf(&b, "}\n")

	return b.Bytes()
}

// startContainer starts the server of this binary and returns when it takes
// connections.
func startContainer(ctx context.Context) (_ *tcnats.NATSContainer, err error) {
	docker, err := engine(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoDocker, err)
	}
	defer func() { err = errors.Join(err, docker.Close()) }()

	if err := sweep(ctx, docker.Client()); err != nil {
		return nil, fmt.Errorf("remove what killed runs left behind: %w", err)
	}

	img, err := image(ctx, docker.Client())
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}

	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}

	ctr, err := tcnats.Run(ctx, img.name,
		img.build,
		testcontainers.WithLabels(map[string]string{
			labelOwn:  "true",
			labelHost: host,
			labelPID:  strconv.Itoa(os.Getpid()),
		}),
		// Replaces the module's arguments: they log every message.
		testcontainers.WithCmd(),
		tcnats.WithConfigFile(bytes.NewReader(configuration())),
		// The port alone proves nothing: Docker's proxy listens before the
		// server does.
		testcontainers.WithWaitStrategyAndDeadline(time.Minute, wait.ForLog("Server is ready")),
	)
	if err != nil {
		// Run may return a container with an error, and it is ours to end.
		return nil, errors.Join(err, terminate(ctr))
	}

	return ctr, nil
}

// engine returns a client for a Docker engine that answers. The library panics
// where it finds none to talk to.
func engine(ctx context.Context) (docker *testcontainers.DockerProvider, err error) {
	defer func() {
		if r := recover(); r != nil {
			docker, err = nil, fmt.Errorf("%v", r)
		}
	}()

	docker, err = testcontainers.NewDockerProvider()
	if err != nil {
		return nil, err
	}

	if err := docker.Health(ctx); err != nil {
		return nil, errors.Join(err, docker.Close())
	}

	return docker, nil
}

// source says where the image of the container comes from. Name is empty if
// build builds it.
type source struct {
	name  string
	build testcontainers.CustomizeRequestOption
}

// image chooses the image: the one that TEST_NATS_IMAGE names, one kept from an
// earlier build of the same nats-server version, or a new build. It is kept
// afterwards, for the next test binary.
func image(ctx context.Context, docker client.APIClient) (source, error) {
	const repository = "deploy-worker-test-nats"

	asIs := func(*testcontainers.GenericContainerRequest) error { return nil }

	if name := os.Getenv("TEST_NATS_IMAGE"); name != "" {
		return source{name: name, build: asIs}, nil
	}

	name := repository + ":" + server.VERSION
	if _, err := docker.ImageInspect(ctx, name); err == nil {
		return source{name: name, build: asIs}, nil
	}

	dir, err := buildContext(ctx)
	if err != nil {
		return source{}, err
	}

	return source{build: testcontainers.WithDockerfile(testcontainers.FromDockerfile{
		Context:   dir,
		Repo:      repository,
		Tag:       server.VERSION,
		KeepImage: true,
	})}, nil
}

const dockerfile = `FROM scratch
COPY nats-server /nats-server
ENTRYPOINT ["/nats-server"]
`

// buildContext compiles the nats-server that go.mod pins into a directory with a
// Dockerfile. Main removes it.
func buildContext(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "brokertest-*")
	if err != nil {
		return "", err
	}

	onEnd(func() error { return os.RemoveAll(dir) })

	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		return "", err
	}

	cmd := exec.CommandContext(ctx, "go", "build", //nolint:gosec // the only variable is a directory we made
		"-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "nats-server"), "github.com/nats-io/nats-server/v2")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")

	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build nats-server: %w\n%s", err, out)
	}

	return dir, nil
}

// sweep removes the containers of this package whose test binary is gone:
// nothing else does so when a run was killed.
func sweep(ctx context.Context, docker client.APIClient) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}

	list, err := docker.ContainerList(ctx, client.ContainerListOptions{
		All: true,
		Filters: make(client.Filters).
			Add("label", labelTestcontainers+"=true").
			Add("label", labelOwn+"=true"),
	})
	if err != nil {
		return err
	}

	for _, ctr := range list.Items {
		pid, err := strconv.Atoi(ctr.Labels[labelPID])
		gone := err != nil || ctr.Labels[labelHost] == host && !alive(pid)

		if !gone && time.Since(time.Unix(ctr.Created, 0)) < orphanAge {
			continue
		}

		fmt.Fprintf(os.Stderr, "brokertest: removing container %.12s of a run that is gone\n", ctr.ID)

		// It is no failure if another test binary was faster.
		_, _ = docker.ContainerRemove(ctx, ctr.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	}

	return nil
}

// alive tells whether the process is there; not being allowed to signal it means
// that it is.
func alive(pid int) bool {
	return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func terminate(ctr *tcnats.NATSContainer) error {
	if ctr == nil || ctr.Container == nil {
		return nil
	}

	return testcontainers.TerminateContainer(ctr.Container, testcontainers.StopTimeout(0))
}
