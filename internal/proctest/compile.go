package proctest

import (
	"context"
	"fmt"
	"os/exec"
)

// Compile builds the program of a package, static unless env says otherwise.
// env is added to the environment of this process, flags go to go build.
func Compile(ctx context.Context, env []string, program, pkg string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", program}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...) //nolint:gosec // tests name what is built
	cmd.Env = append(append(cmd.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}
