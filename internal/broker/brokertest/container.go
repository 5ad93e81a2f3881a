package brokertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
	tcnats "github.com/testcontainers/testcontainers-go/modules/nats"
	"github.com/testcontainers/testcontainers-go/wait"
)

// accounts is how many Starts one test binary can do in the container lane.
const accounts = 512

// containerTimeout bounds building the image and starting the container. The
// first build on a machine compiles nats-server.
const containerTimeout = 8 * time.Minute

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
	case errors.Is(shared.err, ErrNoDocker) && os.Getenv("REQUIRE_DOCKER") != "1":
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
	docker, err := Engine(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, docker.Close()) }()

	if err := Sweep(ctx, docker.Client()); err != nil {
		return nil, fmt.Errorf("remove what killed runs left behind: %w", err)
	}

	image, err := NATSImage(ctx, docker)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}

	labels, err := Labels()
	if err != nil {
		return nil, err
	}

	ctr, err := tcnats.Run(ctx, image,
		testcontainers.WithLabels(labels),
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

func terminate(ctr *tcnats.NATSContainer) error {
	if ctr == nil || ctr.Container == nil {
		return nil
	}

	return testcontainers.TerminateContainer(ctr.Container, testcontainers.StopTimeout(0))
}
