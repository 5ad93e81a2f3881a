package brokertest

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
	tclog "github.com/testcontainers/testcontainers-go/log"
	"go.uber.org/goleak"
)

// runner is what [Main] needs of a *testing.M.
type runner interface {
	Run() int
}

// ends holds what has to be undone when the test binary ends.
var ends struct {
	mu  sync.Mutex
	fns []func() error
}

func onEnd(fn func() error) {
	ends.mu.Lock()
	defer ends.mu.Unlock()

	ends.fns = append(ends.fns, fn)
}

// Main runs the tests of a package, ends the container if one was started, and
// then looks for goroutines that tests left running. The result is an exit
// code:
//
//	func TestMain(m *testing.M) { os.Exit(brokertest.Main(m)) }
//
// The ignores are for goroutines that a package starts once and never ends; a
// leak that a test causes is to be mended, not ignored.
func Main(m runner, ignores ...goleak.Option) int {
	setDefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	setDefault("TESTCONTAINERS_RYUK_DISABLED", "true")

	// Nine lines about every container hide the one that matters.
	tclog.SetDefault(tclog.NewNoopLogger())

	shared.mu.Lock()
	shared.managed = true
	shared.mu.Unlock()

	code := m.Run()

	err := end()
	if err != nil {
		fmt.Fprintln(os.Stderr, "brokertest:", err)
	}

	// A failed test may well have left something running; its failure is what
	// to look at first.
	if code == 0 && err == nil {
		err = goleak.Find(ignores...)
		if err != nil {
			fmt.Fprintln(os.Stderr, "brokertest: goroutines left running:", err)
		}
	}

	if code == 0 && err != nil {
		return 1
	}

	return code
}

// setDefault leaves alone what the caller has set. Without these two values
// testcontainers dials the default gateway when it runs in a container itself,
// and wants an image that is only to be had from a registry.
func setDefault(name, value string) {
	if _, ok := os.LookupEnv(name); !ok {
		if err := os.Setenv(name, value); err != nil {
			panic("brokertest: " + err.Error())
		}
	}
}

func end() error {
	ends.mu.Lock()
	defer ends.mu.Unlock()

	err := terminate(shared.container)

	for _, fn := range ends.fns {
		err = errors.Join(err, fn())
	}

	shared.mu.Lock()
	defer shared.mu.Unlock()

	if inContainer() {
		fmt.Fprintf(os.Stderr, "brokertest: container lane: %d accounts of nats-server %s at %q used, %d tests skipped because they need a process of their own\n",
			shared.used, server.VERSION, shared.address, shared.skipped)
	}

	return err
}
