package crash

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/proctest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// roundPatience is how long a round may take before what has not ended is
// taken never to end. Nothing else depends on time.
const roundPatience = 120 * time.Second

// round is one world: a broker, an API, workers, and what comes of the plan.
type round struct {
	suite  *suite
	plan   *plan
	unsafe string
	began  time.Time

	dir     string
	broker  *proctest.Broker
	sim     *simulator.Server
	api     *httptest.Server
	nc      *nats.Conn
	witness *witness
	slots   []*slot
	// script is what the round does by its plan, background what follows from
	// it.
	script, background sync.WaitGroup

	mu          sync.Mutex
	violations  []violation
	done        map[strike]int
	brokerKills int
	resumed     int
	gaveUp      atomic.Int64
	facts       *facts
}

func newRound(s *suite, p *plan, unsafe string) *round {
	return &round{suite: s, plan: p, unsafe: unsafe, began: time.Now(), done: make(map[strike]int)}
}

func (r *round) violate(kind breach, key, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = append(r.violations, violation{kind, key, text})
}

func (r *round) did(what strike) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done[what]++
}

func (r *round) has(what strike) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done[what] > 0
}

// play runs the round from nothing to its judgement.
func (r *round) play(ctx context.Context) {
	if err := r.begin(); err != nil {
		r.violate(harnessBroke, "", err.Error())
		return
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	var keeping sync.WaitGroup
	for _, s := range r.slots {
		keeping.Go(func() { s.keep(working) })
	}
	patience, cancel := context.WithTimeout(ctx, roundPatience)
	defer cancel()
	operating, rest := context.WithCancel(patience)
	r.background.Go(func() { r.operate(operating) })
	r.runScript(patience)
	r.await(patience)
	r.linger(patience)
	rest()
	var finishing sync.WaitGroup
	for _, s := range r.slots {
		finishing.Go(s.finish)
	}
	finishing.Wait()
	keeping.Wait()
	r.background.Wait()
	r.testify(ctx)
}

// begin makes the world without workers.
func (r *round) begin() (err error) {
	if r.dir, err = os.MkdirTemp(r.suite.dir, "round-"); err != nil {
		return err
	}
	if r.broker, err = proctest.StartBroker(&r.suite.children, r.suite.program("nats-server"), r.dir); err != nil {
		return err
	}
	r.sim = simulator.New(simulator.Config{Seed: r.plan.seed, VisibilityLag: r.plan.lag, Faults: r.plan.rules})
	r.api = httptest.NewServer(r.sim)
	for _, o := range r.plan.orders {
		if v, is := o.plant(time.Now()); is {
			if _, err := r.sim.Plant(v); err != nil {
				return err
			}
		}
	}
	r.nc, err = nats.Connect(r.broker.URL, nats.Timeout(roundPatience), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		return err
	}
	if r.witness, err = newWitness(r.nc); err != nil {
		return err
	}
	for n, runs := range r.plan.armed {
		r.slots = append(r.slots, newSlot(r, n, runs))
	}
	return nil
}

// end leaves nothing behind.
func (r *round) end() {
	for _, s := range r.slots {
		s.mu.Lock()
		s.finishing = true
		proc := s.proc
		s.mu.Unlock()
		if proc != nil {
			proc.Kill()
		}
	}
	if r.nc != nil {
		r.nc.Close()
	}
	if r.broker != nil {
		r.broker.Stop()
	}
	if r.api != nil {
		_ = r.sim.Close()
		r.api.CloseClientConnections()
		r.api.Close()
	}
	if r.dir != "" {
		_ = os.RemoveAll(r.dir)
	}
}

// runScript sends the requests and kills what the plan says, each at its time.
func (r *round) runScript(ctx context.Context) {
	start := time.Now()
	at := func(when time.Duration, do func()) {
		r.script.Go(func() {
			t := time.NewTimer(time.Until(start.Add(when)))
			defer t.Stop()
			select {
			case <-t.C:
				do()
			case <-ctx.Done():
			}
		})
	}
	for _, o := range r.plan.orders {
		for _, when := range o.published {
			at(when, func() { r.publish(ctx, o) })
		}
	}
	for n, when := range r.plan.letters {
		at(when, func() { r.witness.send(ctx, letter(n), 20*time.Millisecond) })
	}
	for _, m := range r.plan.workerKills {
		at(m.at, r.slots[m.slot].kill)
	}
	for _, m := range r.plan.brokerKills {
		at(m.at, func() { r.crashBroker(m.away) })
	}
	r.script.Wait()
}

func (r *round) crashBroker(away time.Duration) {
	if err := r.broker.Crash(away); err != nil {
		r.violate(harnessBroke, "", "restart the broker: "+err.Error())
	}
	r.mu.Lock()
	r.brokerKills++
	r.mu.Unlock()
}

// letter is the body of a message that nobody can read; it has no key.
func letter(n int) []byte { return fmt.Appendf(nil, "\x00 unreadable %d", n) }

// operate takes the brake off whenever it is on, as a person would.
func (r *round) operate(ctx context.Context) {
	if r.plan.cap != lowCap {
		return
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
		if !r.witness.braked(ctx) {
			continue
		}
		cmd := exec.CommandContext(ctx, r.suite.program("shipped"), "resume", "--reason", "the round goes on")
		cmd.Env = []string{"NATS_URL=" + r.broker.URL, "HOME=" + r.dir}
		if cmd.Run() == nil { // else the broker is away, and it is on still
			r.mu.Lock()
			r.resumed++
			r.mu.Unlock()
		}
	}
}

// lingerPatience is how long a round goes on for what only a sweep can reach:
// sweeps are ten ack waits apart.
const lingerPatience = 10 * time.Second

// linger lets the workers run on where the round is about their sweeps.
func (r *round) linger(ctx context.Context) {
	if !r.plan.about("mend") {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lingerPatience)
	defer cancel()
	again := time.NewTicker(40 * time.Millisecond)
	defer again.Stop()
	for !r.has(r.plan.main) {
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// publish sends a copy of a request until the broker has it.
func (r *round) publish(ctx context.Context, o order) {
	r.witness.send(ctx, o.request(), 20*time.Millisecond)
}

// await waits until every key has ended and every copy of a request has been
// answered.
func (r *round) await(ctx context.Context) {
	again := time.NewTicker(40 * time.Millisecond)
	defer again.Stop()
	for {
		r.witness.poll(ctx)
		if open := unended(r.plan.orders, r.witness.events, r.suite.allowHeld); len(open) == 0 {
			// The messages of what is held stay in the stream, nothing else.
			waiting := len(r.plan.orders) - len(outcomes(r.witness.events))
			if left, err := r.witness.requestsLeft(ctx); err == nil && left <= waiting {
				return
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			left, err := r.witness.requestsLeft(context.WithoutCancel(ctx))
			r.violate(notEnded, "", fmt.Sprintf("after %s: %d messages are left in the request stream (%v)", roundPatience, left, err))
			return
		}
	}
}

// testify collects what is known from outside once all is quiet, and judges.
func (r *round) testify(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	if err := r.witness.poll(ctx); err != nil {
		r.violate(harnessBroke, "", "read the events: "+err.Error())
		return
	}
	r.facts = &facts{
		orders: r.plan.orders, events: r.witness.events, allowHeld: r.suite.allowHeld,
		creates: r.sim.Creates(), invoices: r.sim.Invoices(),
	}
	dead, err := r.witness.buried(ctx)
	if err != nil {
		r.violate(harnessBroke, "", "read the dead letters: "+err.Error())
		return
	}
	for n := range r.plan.letters {
		r.facts.letters = append(r.facts.letters, string(letter(n)))
	}
	r.facts.buried = dead
	for _, v := range r.facts.judge() {
		r.violate(v.kind, v.key, v.text)
	}
}

// flags are those that this round needs to be drawn and judged the same again.
func (r *round) flags() string {
	var flags []string
	if r.suite.allowHeld {
		flags = append(flags, "-allow-held")
	}
	if r.unsafe != "" {
		flags = append(flags, "-unsafe="+r.unsafe)
	}
	if flags == nil {
		return ""
	}
	return fmt.Sprintf(" CRASH_FLAGS=%q", strings.Join(flags, " "))
}

// report prints a round with violations: what was drawn, and what is known of
// the keys concerned.
func (r *round) report(out io.Writer) {
	if len(r.violations) == 0 {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n=== round %d of seed %d: %d violations; again: make crash SEED=%d FIRST=%d ROUNDS=1%s\n",
		r.plan.round, r.plan.seed, len(r.violations), r.plan.seed, r.plan.round, r.flags())
	keys := make(map[string]bool)
	for _, v := range r.violations {
		fmt.Fprintf(&b, "VIOLATION %s: %s %s\n", v.kind, v.key, v.text)
		keys[v.key] = true
	}
	if worst := r.suite.pulse.worst(r.began); worst > room {
		fmt.Fprintf(&b, "this machine kept the simulated API from running for %s, and the times have room for %s: run the round again before you believe it\n", worst.Round(time.Millisecond), room)
	}
	b.WriteString(r.plan.String())
	for p, n := range r.done {
		fmt.Fprintf(&b, "did %s at %s:%d %d times\n", p.action, p.point, p.nth, n)
	}
	if r.facts != nil {
		r.facts.tell(&b, keys)
	}
	for _, s := range r.slots {
		fmt.Fprintf(&b, "--- the end of the log of %s, %d processes\n%s\n", s.name, s.starts, s.log.Tail())
	}
	if r.brokerKills > 0 {
		fmt.Fprintf(&b, "--- the end of the log of the broker\n%s\n", r.broker.Tail())
	}
	_, _ = io.WriteString(out, b.String())
}
