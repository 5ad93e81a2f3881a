//go:build !notop

package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tty is a terminal with a program on it.
type tty struct {
	t             *testing.T
	master, slave *os.File
	cmd           *exec.Cmd
	seen          output
	read          chan struct{}
	// found is how the program found the terminal, left how it left it.
	found, left unix.Termios
}

// onTerminal runs the program on a terminal of 80 columns and 24 lines.
func onTerminal(t *testing.T, env map[string]string, args ...string) *tty {
	t.Helper()
	takeSlot(t)
	c := &tty{t: t, read: make(chan struct{})}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	c.master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(err)
	t.Cleanup(func() { _ = c.master.Close() })
	must(unix.IoctlSetPointerInt(int(c.master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(c.master.Fd()), unix.TIOCGPTN)
	must(err)
	c.slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(err)
	must(unix.IoctlSetWinsize(int(c.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	exe, err := os.Executable()
	must(err)
	c.cmd = exec.Command(exe, args...)
	c.cmd.Env = []string{beTheWorker + "=1", "HOME=" + t.TempDir(), "TERM=xterm-256color", "NATS_URL=nats://127.0.0.1:1", "GORACE=atexit_sleep_ms=0 halt_on_error=1", "GOMAXPROCS=2"}
	for name, value := range env {
		c.cmd.Env = append(c.cmd.Env, name+"="+value)
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = c.slave, c.slave, c.slave
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	c.found = c.termios()
	must(c.cmd.Start())
	go func() {
		defer close(c.read)
		buf := make([]byte, 4096)
		for {
			n, err := c.master.Read(buf)
			_, _ = c.seen.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = c.slave.Close()
	})
	return c
}

func (c *tty) termios() unix.Termios {
	c.t.Helper()
	state, err := unix.IoctlGetTermios(int(c.slave.Fd()), unix.TCGETS)
	if err != nil {
		c.t.Fatal(err)
	}
	return *state
}

// until waits for words on the terminal.
func (c *tty) until(words string) {
	c.t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(patience); !strings.Contains(c.seen.String(), words); <-again.C {
		if time.Now().After(end) {
			c.t.Fatalf("%q is not on the terminal:\n%q", words, c.seen.String())
		}
	}
}

// typed gives the program a key.
func (c *tty) typed(keys string) {
	c.t.Helper()
	if _, err := c.master.WriteString(keys); err != nil {
		c.t.Fatal(err)
	}
}

// end waits for the program and returns its exit code and all that it wrote.
func (c *tty) end() (int, string) {
	c.t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); _ = c.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(patience):
		c.t.Fatalf("it does not end:\n%q", c.seen.String())
	}
	c.left = c.termios()
	_ = c.slave.Close()
	<-c.read // the end of the terminal: all was read
	return c.cmd.ProcessState.ExitCode(), c.seen.String()
}

// However it ends, the terminal is what it was: not raw, the first screen, the
// cursor shown.
func TestTopLeavesTheTerminalAsItWas(t *testing.T) {
	t.Parallel()

	for name, test := range map[string]struct {
		end  func(*tty)
		code int
	}{
		"q":      {func(c *tty) { c.typed("q") }, exitDone},
		"ctrl-c": {func(c *tty) { c.typed("\x03") }, exitDone},
		"help, then ctrl-c": {func(c *tty) {
			c.typed("?")
			c.until("any key goes back")
			c.typed("\x03")
		}, exitDone},
		"SIGTERM": {func(c *tty) { _ = c.cmd.Process.Signal(syscall.SIGTERM) }, exitInterrupted},
		"SIGINT":  {func(c *tty) { _ = c.cmd.Process.Signal(syscall.SIGINT) }, exitInterrupted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := onTerminal(t, nil, "top")
			c.until("\x1b[?1049h")
			c.until("AWAY") // nobody listens at NATS_URL
			if raw := c.termios(); raw == c.found {
				t.Error("the terminal is not raw while the screen is shown: this test looks at the wrong one")
			}
			test.end(c)
			code, seen := c.end()
			if c.left != c.found {
				t.Errorf("the terminal was %+v and is %+v", c.found, c.left)
			}
			equal(t, "exit code", code, test.code)
			for on, off := range map[string]string{"\x1b[?1049h": "\x1b[?1049l", "\x1b[?25l": "\x1b[?25h", "\x1b[?2004h": "\x1b[?2004l"} {
				if strings.LastIndex(seen, off) < strings.LastIndex(seen, on) {
					t.Errorf("%q was sent and not taken back by %q", on, off)
				}
			}
			if tail := seen[strings.LastIndex(seen, "\x1b[?1049l"):]; strings.Contains(tail, "goroutine") || strings.Contains(tail, "panic") {
				t.Errorf("it ended with %q", tail)
			}
		})
	}
}

func TestTopWantsATerminalThatCanBeDrawnOn(t *testing.T) {
	t.Parallel()

	code, seen := onTerminal(t, map[string]string{"TERM": "dumb"}, "top").end()
	equal(t, "exit code", code, exitUsage)
	if !strings.Contains(seen, `TERM="dumb"`) || strings.Contains(seen, "\x1b") {
		t.Errorf("it says %q", seen)
	}
}

func TestTopHonoursNoColor(t *testing.T) {
	t.Parallel()

	for _, noColour := range []string{"", "1"} {
		t.Run("NO_COLOR="+noColour, func(t *testing.T) {
			t.Parallel()
			c := onTerminal(t, map[string]string{"NO_COLOR": noColour}, "top")
			c.until("AWAY")
			c.typed("q")
			code, seen := c.end()
			equal(t, "exit code", code, exitDone)
			coloured := regexp.MustCompile(`\x1b\[[0-9;]*3[1-7]m`).MatchString(seen)
			if want := noColour == ""; coloured != want {
				t.Errorf("coloured %t\n%q", coloured, seen)
			}
		})
	}
}

// Nothing that worker top brings along may ask the terminal of another command
// anything, or change it.
func TestOthersLeaveTheTerminalAlone(t *testing.T) {
	t.Parallel()

	c := onTerminal(t, nil, "version")
	code, seen := c.end()
	equal(t, "exit code", code, exitDone)
	if !strings.HasPrefix(seen, "worker ") || strings.Contains(seen, "\x1b") || strings.Count(seen, "\n") != 1 {
		t.Errorf("on a terminal it writes %q", seen)
	}
	if c.found.Lflag&unix.ECHO == 0 {
		t.Error("the terminal does not echo: this test looks at the wrong one")
	}
}
