package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hostup/deploy-worker/internal/proctest"
)

// replica is the place of one worker: a process, and after its end the next.
type replica struct {
	world *world
	name  string
	log   *proctest.LogBook
	proc  *proctest.Child

	mu    sync.Mutex
	admin string
}

func newReplica(w *world, n int) *replica {
	r := &replica{world: w, name: fmt.Sprintf("worker %d", n)}
	r.log = &proctest.LogBook{Listen: r.hear}
	return r
}

// hear learns where the process serves /readyz.
func (r *replica) hear(line string) {
	var entry struct {
		Msg   string `json:"msg"`
		Admin string `json:"admin"`
	}
	if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "worker started" {
		r.mu.Lock()
		r.admin = entry.Admin
		r.mu.Unlock()
	}
}

func (r *replica) address() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.admin
}

func (r *replica) start() {
	r.mu.Lock()
	r.admin = "" // of the process before
	r.mu.Unlock()
	cmd := exec.Command(r.world.bench.program("worker"), "run")
	cmd.Env = r.world.variables()
	var err error
	r.proc, err = r.world.bench.children.Start(cmd, r.log)
	r.world.must(err, "start "+r.name)
}

// listening waits until the process has come up.
func (r *replica) listening() {
	r.world.until(patience, func() bool { return r.address() != "" || !r.running() })
	if r.address() == "" || !r.running() {
		panic(broken(r.name + " does not come up: " + lastLines(r.log.Tail(), 3)))
	}
}

func (r *replica) running() bool {
	select {
	case <-r.proc.Done:
		return false
	default:
		return true
	}
}

func (r *replica) kill() {
	if r.proc != nil {
		r.proc.Kill()
	}
}

// finish ends the process as an operator would.
func (r *replica) finish() {
	r.proc.Signal(syscall.SIGTERM)
	if !r.proc.Ended(patience) {
		r.proc.Kill()
		panic(broken(r.name + " did not end after SIGTERM"))
	}
}

// readiness is what /readyz answers.
type readiness struct {
	status int
	// reasons are the details of the checks that are not ok.
	reasons []string
}

func (r *replica) readyz() (got readiness) {
	ctx, cancel := context.WithTimeout(r.world.ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.address()+"/readyz", nil)
	if err != nil {
		return got
	}
	resp, err := r.world.server.Client().Do(req)
	if err != nil {
		return got
	}
	defer resp.Body.Close()
	var page struct {
		Checks []struct {
			Name   string `json:"name"`
			OK     bool   `json:"ok"`
			Detail string `json:"detail"`
		} `json:"checks"`
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(body, &page) != nil {
		return got
	}
	got.status = resp.StatusCode
	for _, c := range page.Checks {
		if !c.OK {
			got.reasons = append(got.reasons, c.Name+": "+c.Detail)
		}
	}
	return got
}

// red counts the replicas that are not ready and say why.
func (w *world) red() (n int, why string) {
	for _, r := range w.replicas {
		if got := r.readyz(); got.status == http.StatusServiceUnavailable && len(got.reasons) > 0 {
			n++
			why = strings.Join(got.reasons, "; ")
		}
	}
	return n, why
}

// green counts the replicas that are ready.
func (w *world) green() int {
	n := 0
	for _, r := range w.replicas {
		if r.readyz().status == http.StatusOK {
			n++
		}
	}
	return n
}

// memory is what the process holds of the machine's memory, in bytes; 0 where
// the kernel does not tell.
func (r *replica) memory() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.proc.Cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kib, _ := strconv.Atoi(fields[1])
			return kib << 10
		}
	}
	return 0
}
