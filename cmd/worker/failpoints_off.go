//go:build !failpoints

package main

import (
	"fmt"
	"os"

	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/provision"
)

// failpoints are none: see failpoints.go for the build that has them.
type failpoints struct{}

// arm refuses to start a worker that is asked to fail on purpose: this build
// has no failpoints, and whoever asks must not believe that nothing went wrong.
func arm(*nats.Conn) (failpoints, error) {
	for _, name := range []string{"WORKER_FAILPOINTS", "WORKER_FAILPOINTS_UNSAFE"} {
		if value := os.Getenv(name); value != "" {
			return failpoints{}, usageError{fmt.Errorf("%s=%q: this build has no failpoints and refuses to arm any; unset the variable, or build with -tags failpoints to test", name, value)}
		}
	}
	return failpoints{}, nil
}

func (failpoints) ports(p provision.Ports) provision.Ports         { return p }
func (failpoints) input(p consumer.Ports) consumer.Ports           { return p }
func (failpoints) sweep(p consumer.SweepPorts) consumer.SweepPorts { return p }
func (failpoints) step(string, bool)                               {}
