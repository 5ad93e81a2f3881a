package brokertest

import (
	"fmt"
	"os"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
)

// runner is what [Main] needs of a *testing.M.
type runner interface {
	Run() int
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

func end() error {
	err := terminate(shared.container)

	shared.mu.Lock()
	defer shared.mu.Unlock()

	if inContainer() {
		fmt.Fprintf(os.Stderr, "brokertest: container lane: %d accounts of nats-server %s at %q used, %d tests skipped because they need a process of their own\n",
			shared.used, server.VERSION, shared.address, shared.skipped)
	}

	return err
}
