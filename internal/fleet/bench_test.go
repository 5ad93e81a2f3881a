package fleet

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/hostup/deploy-worker/internal/proctest"
)

// bench runs scenarios, prints their figures and remembers which were not met.
type bench struct {
	out   io.Writer
	short bool

	dir      string
	children proctest.Children
	started  time.Time
	judged   int
	failed   []string
}

// begin builds the worker as it ships and the nats-server that go.mod pins.
func (b *bench) begin(ctx context.Context) (err error) {
	b.started = time.Now()
	if b.dir, err = os.MkdirTemp("", "fleet-"); err != nil {
		return err
	}
	for name, path := range map[string]string{
		"worker": "github.com/hostup/deploy-worker/cmd/worker", "nats-server": "github.com/nats-io/nats-server/v2",
	} {
		if err := proctest.Compile(ctx, nil, b.program(name), path); err != nil {
			b.end()
			return err
		}
	}
	return nil
}

func (b *bench) end() {
	b.children.KillAll()
	_ = os.RemoveAll(b.dir)
}

func (b *bench) program(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) printf(format string, args ...any) { _, _ = fmt.Fprintf(b.out, format, args...) }

// judgef prints a figure that has a goal.
func (b *bench) judgef(label string, ok bool, format string, args ...any) {
	b.judged++
	mark, text := "ok", fmt.Sprintf(format, args...)
	if !ok {
		mark = "FAILED"
		b.failed = append(b.failed, label+": "+text)
	}
	b.printf("%-6s  %-22s %s\n", mark, label, text)
}

// verdict prints the sum and returns the exit code.
func (b *bench) verdict() int {
	b.printf("\nfleet: %d of %d figures met, in %s\n", b.judged-len(b.failed), b.judged, time.Since(b.started).Round(time.Second))
	if len(b.failed) > 0 {
		return 1
	}
	return 0
}

// broken ends a part of a scenario that cannot go on; it counts as a failure.
type broken string

// in plays one part of a scenario in a world of its own.
func (b *bench) in(ctx context.Context, label string, s setup, play func(*world)) {
	if ctx.Err() != nil {
		return
	}
	w := &world{bench: b, ctx: ctx, label: label, setup: s}
	failures := len(b.failed)
	defer func() {
		switch p := recover().(type) {
		case nil:
		case broken:
			w.judgef(false, "%s", string(p))
		default:
			w.judgef(false, "the suite itself failed: %v\n%s", p, debug.Stack())
		}
		w.end(len(b.failed) > failures)
	}()
	w.begin()
	play(w)
}
