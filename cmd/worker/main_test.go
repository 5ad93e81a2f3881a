package main

import (
	"os"
	"testing"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// beTheWorker makes this test binary the program under test: every test runs
// it as a process of its own, so that signals, exit codes and crashes are
// real, and with -race checked for races.
const beTheWorker = "DEPLOY_WORKER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(beTheWorker) == "1" {
		main()
	}
	os.Exit(brokertest.Main(m))
}
