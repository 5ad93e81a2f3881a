package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/proctest"
)

// process is a program with its output in a file: reading a pipe would cost the
// suite time that the program is then missing.
type process struct {
	*proctest.Child

	output string
	began  time.Time // just before it was started
}

// spawn starts a program with nothing of the caller's environment.
func (s *suite) spawn(output string, env []string, program string, args ...string) (*process, error) {
	f, err := os.Create(output)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, f, f
	p := &process{output: output, began: time.Now()}
	p.Child, err = s.children.Start(cmd, &proctest.LogBook{})
	return p, err
}

// itself starts this program in one of its other roles.
func (s *suite) itself(role string, task any) (*process, error) {
	text, err := json.Marshal(task)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return s.spawn(filepath.Join(s.dir, role+".log"), []string{"HOME=" + s.dir}, program, "-role="+role, "-task="+string(text))
}

var errGone = errors.New("the process has ended")

// says waits for a line of the output that is a JSON object with a member, and
// decodes it.
func (p *process) says(member string, into any) error {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		text, err := os.ReadFile(p.output)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, `"`+member+`":`) && json.Unmarshal([]byte(line), into) == nil {
				return nil
			}
		}
		select {
		case <-again.C:
		case <-p.Done:
			return fmt.Errorf("%w, and said\n%s", errGone, p.tail())
		case <-end.C:
			return fmt.Errorf("it does not say %q", member)
		}
	}
}

func (p *process) tail() string {
	text, _ := os.ReadFile(p.output)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// finish ends the process as an operator would.
func (p *process) finish() error {
	p.Signal(syscall.SIGTERM)
	if !p.Ended(patience) {
		p.Kill()
		return errors.New("it did not end after SIGTERM")
	}
	if code := p.Cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("it ended with %d, and said\n%s", code, p.tail())
	}
	return nil
}

// processorTime is what a process has used so far, on Linux to the nanosecond:
// the ticks of /proc/PID/stat are too coarse for a few requests. A thread that
// has ended is missing in it; Go's hardly ever do.
func processorTime(pid int) time.Duration {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	var sum time.Duration
	for _, file := range threads {
		if text, err := os.ReadFile(file); err == nil {
			sum += ran(string(text))
		}
	}
	return sum
}

// ran reads the first field of a schedstat.
func ran(text string) time.Duration {
	first, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	ns, _ := strconv.ParseInt(first, 10, 64)
	return time.Duration(ns)
}

// memory reads a field of /proc/PID/status: VmRSS, or VmHWM for the most that
// the process ever held. It is 0 where the kernel does not tell.
func memory(pid int, field string) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	return kibibytes(string(text), field)
}

func kibibytes(status, field string) int {
	for line := range strings.Lines(status) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == field+":" {
			n, _ := strconv.Atoi(words[1])
			return n << 10
		}
	}
	return 0
}

// sample finds one value in a page of metrics, 0 when it is not there.
func sample(page, name string) float64 {
	for line := range strings.Lines(page) {
		rest, found := strings.CutPrefix(line, name)
		if !found || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		words := strings.Fields(rest)
		v, _ := strconv.ParseFloat(words[len(words)-1], 64)
		return v
	}
	return 0
}

func TestKernelFiles(t *testing.T) {
	t.Parallel()
	if got := ran("7717392 17833258 3\n"); got != 7717392 {
		t.Errorf("ran %d", got)
	}
	status := "Name:\tworker\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n"
	if hwm, rss := kibibytes(status, "VmHWM"), kibibytes(status, "VmRSS"); hwm != 2<<20 || rss != 1<<20 {
		t.Errorf("VmHWM %d, VmRSS %d", hwm, rss)
	}
	if got := kibibytes(status, "Vm"); got != 0 {
		t.Errorf("a field that is not there is %d", got)
	}
}

func TestSample(t *testing.T) {
	t.Parallel()
	page := "# TYPE a_total counter\na_total_more 9\na_total{x=\"1 2\"} 4\nb 1.5e+06\n"
	for name, want := range map[string]float64{"a_total": 4, "b": 1.5e6, "c": 0} {
		if got := sample(page, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
