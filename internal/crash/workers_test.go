package crash

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hostup/deploy-worker/internal/proctest"
)

// Short forms of what a worker waits for. Nothing here is a deadline for the
// suite: a slow machine makes rounds longer, not wrong. The settle times must
// exceed the longest list lag and the latest effect of a plan, and the create
// timeout the time that a request may lie unread at the simulated API: room is
// what they leave to a machine that is busy.
const (
	createTimeout    = 800 * time.Millisecond
	settleAnswered   = time.Second
	settleUnanswered = 2 * time.Second

	longestLag   = 300 * time.Millisecond
	latestEffect = time.Second // of a create that was received in time

	room = min(createTimeout, createTimeout+settleUnanswered-latestEffect-longestLag)
)

func workerEnv(r *round) map[string]string {
	return map[string]string{
		"NATS_URL": r.broker.URL, "HOSTUP_API_URL": r.api.URL + "/api/v2", "HOSTUP_API_TOKEN": "sim-token",
		"HOSTUP_READ_TIMEOUT": "1s", "HOSTUP_CREATE_TIMEOUT": createTimeout.String(),
		"WORKER_CONCURRENCY": fmt.Sprint(r.plan.concurrency), "WORKER_INLINE_WAIT": r.plan.inlineWait.String(),
		"WORKER_PROVISION": "true", "WORKER_ACK_WAIT": "300ms", "WORKER_DEADLINE": "60s",
		"WORKER_BACKOFF_INITIAL": "10ms", "WORKER_BACKOFF_MAX": "50ms", "WORKER_LIMITS_TTL": "50ms",
		"WORKER_SETTLE_ANSWERED": settleAnswered.String(), "WORKER_SETTLE_UNANSWERED": settleUnanswered.String(),
		"WORKER_SETTLE_READS": "3", "WORKER_UNKNOWN_POLICY": "retry",
		"WORKER_BREAKER_UNKNOWNS": fmt.Sprint(r.plan.breaker), "WORKER_MAX_CREATES_PER_HOUR": fmt.Sprint(r.plan.cap),
		"WORKER_ADMIN_ADDR": "127.0.0.1:0", "WORKER_DRAIN_TIMEOUT": "20s", "WORKER_LOG_FORMAT": "json",
		"WORKER_FAILPOINTS_UNSAFE": r.unsafe,
		"PATH":                     os.Getenv("PATH"), "HOME": r.dir, "TMPDIR": r.dir, "GOMAXPROCS": "2",
		"GORACE": "atexit_sleep_ms=0 halt_on_error=1",
	}
}

// slot is the place of one worker: a process, and after its end the next one.
type slot struct {
	round *round
	name  string
	runs  []string // what the next processes have armed
	log   *proctest.LogBook

	mu        sync.Mutex
	proc      *proctest.Child
	finishing bool
	announced bool // the process in place said that it ends itself
	killed    bool // the suite killed it
	starts    int
}

// fired is the line with which a failpoint announces itself.
var fired = regexp.MustCompile(`^failpoint: (kill|stop|term|delay)(?::(\S+))? at (\S+):(\d+)$`)

func newSlot(r *round, n int, runs []string) *slot {
	s := &slot{round: r, name: fmt.Sprintf("worker %d", n+1), runs: runs}
	s.log = &proctest.LogBook{Listen: s.hear}
	return s
}

// hear listens to the worker's log for failpoints.
func (s *slot) hear(line string) {
	m := fired.FindStringSubmatch(line)
	if m == nil {
		if strings.Contains(line, "DATA RACE") || strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			s.round.violate(workerBroke, "", s.name+": "+line)
		}
		return
	}
	nth, err := strconv.Atoi(m[4])
	if err != nil {
		panic(err)
	}
	s.round.did(strike{m[3], m[1], nth})
	s.mu.Lock()
	proc := s.proc
	if m[1] == "kill" || m[1] == "term" {
		s.announced = true
	}
	s.mu.Unlock()
	if m[1] == "stop" {
		d, err := time.ParseDuration(m[2])
		if err != nil {
			panic(err)
		}
		s.round.background.Go(func() { wakeUp(proc, d) })
	}
}

// wakeUp continues a stopped process. It is told so more than once: the
// announcement comes before the stop.
func wakeUp(proc *proctest.Child, after time.Duration) {
	for _, d := range []time.Duration{after, 100 * time.Millisecond, time.Second, 5 * time.Second, 20 * time.Second} {
		if proc.Ended(d) {
			return
		}
		proc.Signal(syscall.SIGCONT)
	}
}

// start begins the next process. It returns nil when the round is finishing.
func (s *slot) start() (*proctest.Child, error) {
	// Held while the process starts: its first line may be heard before the
	// process is known otherwise.
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finishing {
		return nil, nil
	}
	env := workerEnv(s.round)
	if len(s.runs) > 0 {
		env["WORKER_FAILPOINTS"] = s.runs[0]
		s.runs = s.runs[1:]
	}
	cmd := exec.Command(s.round.suite.program("worker"), "run", "--provision")
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	s.announced, s.killed = false, false
	s.starts++
	var err error
	s.proc, err = s.round.suite.children.Start(cmd, s.log)
	return s.proc, err
}

// keep runs one process after the other until the round finishes.
func (s *slot) keep(ctx context.Context) {
	for ctx.Err() == nil {
		proc, err := s.start()
		if err != nil {
			s.round.violate(harnessBroke, "", err.Error())
			return
		}
		if proc == nil {
			return
		}
		select {
		case <-proc.Done:
		case <-ctx.Done():
			proc.Kill()
			return
		}
		s.judgeEnd(proc)
	}
}

// judgeEnd reports a process that ended for no reason. A broker that goes away
// while the streams are being made is one: the worker says so and ends, and
// whoever runs it starts it again.
func (s *slot) judgeEnd(proc *proctest.Child) {
	s.mu.Lock()
	killed, announced, finishing := s.killed, s.announced, s.finishing
	s.mu.Unlock()
	code, by := proc.Cmd.ProcessState.ExitCode(), proc.KilledBy()
	switch {
	case killed, announced && by == syscall.SIGKILL:
		return
	case (announced || finishing) && code == 0:
		return
	case announced && code == 130:
		// A second SIGTERM, of another failpoint or of the end of the round.
		return
	case finishing && by == syscall.SIGTERM:
		// It had only just begun and did not listen to signals yet.
		return
	}
	if len(s.round.plan.brokerKills) > 0 && code == 1 {
		s.round.gaveUp.Add(1)
		return
	}
	s.round.violate(workerBroke, "", fmt.Sprintf("%s ended by itself: %s", s.name, proc.Cmd.ProcessState))
}

// kill ends the process in place from outside.
func (s *slot) kill() {
	s.mu.Lock()
	proc := s.proc
	if proc != nil && !s.finishing {
		s.killed = true
		proc.Signal(syscall.SIGKILL)
	}
	s.mu.Unlock()
}

// finish ends the last process of the slot as an operator would.
func (s *slot) finish() {
	s.mu.Lock()
	s.finishing = true
	proc := s.proc
	s.mu.Unlock()
	if proc == nil {
		return
	}
	proc.Signal(syscall.SIGTERM)
	if !proc.Ended(roundPatience) {
		s.round.violate(workerBroke, "", s.name+" did not end after SIGTERM")
		proc.Kill()
	}
}
