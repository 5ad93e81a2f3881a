package deploy

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

var (
	// all runs what needs more than Go.
	all = flag.Bool("deploy", false, "also run what needs systemd-analyze or builds releases, and a Docker engine if one answers")
	// thorough also builds for every platform and twice from nothing.
	thorough = flag.Bool("thorough", false, "with -deploy: build releases for every platform, the second time without a cache")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(brokertest.Main(m))
}

// root is the top of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func shipped(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// sh runs a command line in a directory, with more in the environment, and
// returns what it wrote.
func sh(ctx context.Context, t *testing.T, dir, line string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", line)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func must(t *testing.T, dir, line string, env ...string) string {
	t.Helper()
	out, err := sh(t.Context(), t, dir, line, env...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}
