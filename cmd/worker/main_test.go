package main

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// beTheWorker makes this test binary the program under test: every test runs
// it as a process of its own, so that signals, exit codes and crashes are
// real, and with -race checked for races.
const beTheWorker = "DEPLOY_WORKER_TEST_MAIN"

func TestMain(m *testing.M) {
	switch os.Getenv(beTheWorker) {
	case "1":
		main()
	case beNATS:
		natsMain()
		return
	}
	// The scripts call the program by its name.
	testscript.Main(tests{m}, map[string]func(){"worker": main})
}

// tests are the tests of this package with what has to be looked at after them.
type tests struct{ m *testing.M }

// Run implements testscript.TestingM.
func (t tests) Run() int {
	// The tests wait far more than they work: more of them at once than there
	// are processors, unless somebody asked for a number.
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		_ = flag.Set("test.parallel", strconv.Itoa(max(cap(slots), runtime.GOMAXPROCS(0)))) // it is a flag and a number
	}
	return brokertest.Main(t.m)
}
