package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for something that has to happen. It is
// only reached when it does not.
const patience = 45 * time.Second

// slots bounds how many tests run processes at once.
var slots = make(chan struct{}, 4)

// takeSlot is called before a test starts its first process.
func takeSlot(t testing.TB) {
	t.Helper()
	slots <- struct{}{}
	t.Cleanup(func() { <-slots })
}

// process is one run of the program.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  output
	err  output
	done chan struct{}
	code int
	// admin is the base address of /healthz and so on, once known.
	admin string
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start runs the program with these variables and no others of the caller's
// that it reads.
func start(t testing.TB, env map[string]string, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(exe, args...), done: make(chan struct{})}
	p.cmd.Env = []string{
		beTheWorker + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
		"GORACE=atexit_sleep_ms=0 halt_on_error=1",
		"GOMAXPROCS=2",
	}
	if _, ok := env["TMPDIR"]; !ok {
		p.cmd.Env = append(p.cmd.Env, "TMPDIR="+os.TempDir())
	}
	for name, value := range env {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the exit code says it all
		p.code = p.cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		p.kill()
		if text := p.err.String(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "\ngoroutine ") || strings.Contains(text, "panicked") {
			t.Errorf("worker %s crashed or raced", args[0])
		}
		if t.Failed() {
			t.Logf("worker %v\nstdout:\n%s\nstderr:\n%s", args, tail(p.out.String()), tail(p.err.String()))
		}
	})
	return p
}

func tail(s string) string {
	const most = 12_000
	if len(s) > most {
		return "...\n" + s[len(s)-most:]
	}
	return s
}

// kill ends the process without a chance to do anything, as a crash does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %v: %v", s, err)
	}
}

// exit waits for the end of the process and returns its code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("worker %v did not end", p.cmd.Args[1:])
	}
	return p.code
}

// running reports whether the process has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// sees waits until the process has written text to stderr.
func (p *process) sees(text string) {
	p.t.Helper()
	eventually(p.t, "stderr has "+text, func() bool {
		if strings.Contains(p.err.String(), text) {
			return true
		}
		if !p.running() {
			p.t.Fatalf("the process ended with %d before it wrote %q", p.code, text)
		}
		return false
	})
}

// result is what a command that ends by itself gave.
type result struct {
	code     int
	out, err string
}

// command runs the program to its end.
func command(t testing.TB, env map[string]string, args ...string) result {
	t.Helper()
	p := start(t, env, args...)
	code := p.exit()
	return result{code, p.out.String(), p.err.String()}
}

// listening waits for the address of the admin server.
func (p *process) listening() *process {
	p.t.Helper()
	p.sees(`"msg":"worker started"`)
	for line := range strings.Lines(p.err.String()) {
		var entry struct {
			Msg   string `json:"msg"`
			Admin string `json:"admin"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "worker started" {
			p.admin = "http://" + entry.Admin
		}
	}
	if p.admin == "http://" || p.admin == "" {
		p.t.Fatal("the line \"worker started\" has no field admin")
	}
	return p
}

// client keeps no connections, so that no test leaves one behind.
var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get returns status and body of an admin page.
func (p *process) get(path string) (int, string) {
	p.t.Helper()
	return get(p.t, p.admin+path)
}

func get(t testing.TB, url string) (int, string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// ready waits until /readyz answers with this status.
func (p *process) ready(status int) string {
	p.t.Helper()
	var body string
	defer func() {
		if p.t.Failed() {
			p.t.Logf("/readyz said at last: %s", body)
		}
	}()
	eventually(p.t, "/readyz says "+http.StatusText(status), func() bool {
		var got int
		got, body = p.get("/readyz")
		return got == status
	})
	return body
}

// eventually looks again and again until ok, and fails the test when that
// takes too long.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.After(patience)
	again := time.NewTicker(15 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-end:
			t.Fatalf("it did not come about in %s: %s", patience, what)
		}
	}
}
