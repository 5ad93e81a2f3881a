//go:build !failpoints

package main

import (
	"fmt"
	"os"

	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/provision"
)

// arm refuses to start a worker that is asked to fail on purpose: this build
// has no failpoints (see failpoints.go), and whoever asks must not believe
// that nothing went wrong.
func arm(ports provision.Ports) (provision.Ports, func(consumer.Handler) consumer.Handler, error) {
	for _, name := range []string{"WORKER_FAILPOINTS", "WORKER_FAILPOINTS_UNSAFE"} {
		if value := os.Getenv(name); value != "" {
			return ports, nil, usageError{fmt.Errorf("%s=%q: this build has no failpoints and refuses to arm any; unset the variable, or build with -tags failpoints to test", name, value)}
		}
	}
	return ports, func(h consumer.Handler) consumer.Handler { return h }, nil
}
