package provision_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

// world is everything outside the workers. It survives their deaths.
type world struct {
	t       testing.TB
	cfg     provision.Config
	journal *journal
	shelf   *shelf
	api     *api
	account *account
	events  *events
	workers int

	inventory *inventory
	// reads is HostUp's limit on reads, nil for none.
	reads *limiter
	// meter is the workers'.
	meter metric.Meter
	// decided counts a person's decisions to try again, wiped says of which
	// keys the ledger lost something; both by key.
	decided map[string]int
	wiped   map[string]bool
}

func config() provision.Config {
	return provision.Config{
		CreateTimeout: time.Minute, Deadline: 3 * time.Hour,
		BackoffInitial: time.Second, BackoffMax: time.Minute, InlineWait: 5 * time.Second,
		LimitsTTL: 10 * time.Second, StoreTimeout: 30 * time.Second, HeldPoll: time.Hour,
		SettleAnswered: 2 * time.Minute, SettleUnanswered: 10 * time.Minute, SettleReads: 4,
		AuthHold: true,
	}
}

func newWorld(t testing.TB) *world {
	j := &journal{}
	s := &shelf{under: ledger.NewMemory()}
	i := &inventory{journal: j}
	return &world{
		t: t, cfg: config(), journal: j, shelf: s,
		api:       &api{journal: j, shelf: s, inventory: i},
		account:   &account{journal: j, room: roomy()},
		events:    &events{journal: j, shelf: s},
		inventory: i, meter: noop.NewMeterProvider().Meter("test"), decided: make(map[string]int), wiped: make(map[string]bool),
	}
}

// entry is one effect, in the order in which the effects began.
type entry struct {
	At     time.Time
	Worker string
	Op     string
	Key    string
	What   string
}

func (e entry) String() string { return strings.TrimSpace(e.Op + " " + e.What) }

// journal is the one merged log of effects over all fakes.
type journal struct {
	mu      sync.Mutex
	entries []entry
}

func (j *journal) add(worker, op, key, what string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, entry{time.Now(), worker, op, key, what})
}

func (j *journal) all() []entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]entry(nil), j.entries...)
}

// lines are the effects as text, of the given operations or of all.
func (j *journal) lines(ops ...string) []string {
	var out []string
	for _, e := range j.all() {
		if len(ops) == 0 || strings.Contains(" "+strings.Join(ops, " ")+" ", " "+e.Op+" ") {
			out = append(out, e.String())
		}
	}
	return out
}

// life ends a process at its n-th effect: right before or right after it.
type life struct {
	mu    sync.Mutex
	n     int
	dieAt int
	after bool
	dead  bool
}

// around runs one effect of the process. In a dead process it does not return:
// the goroutine ends where it stands, as with kill -9.
func (l *life) around(effect func()) {
	l.mu.Lock()
	if !l.dead {
		l.n++
	}
	mine := !l.dead && l.n == l.dieAt
	if mine && !l.after {
		l.dead = true
	}
	dead := l.dead
	l.mu.Unlock()
	if dead {
		runtime.Goexit()
	}
	effect()
	l.mu.Lock()
	if mine && l.after {
		l.dead = true
	}
	dead = l.dead
	l.mu.Unlock()
	if dead {
		runtime.Goexit()
	}
}

func (l *life) effects() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

func (l *life) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

// worker is one process: a Provisioner with a gate of its own.
type worker struct {
	*provision.Provisioner
	w    *world
	gate *provision.Gate
	// turns are those of its reads, nil for a worker that has them all.
	turns *provision.ReadGate
	name  string
	life  *life
	logs  *logs
	// facts is the worker's own cache, see account.apart; asking is held by who
	// reads the account, got counts what it has read so far.
	facts  *admission.Facts
	asking chan struct{}
	got    int
}

// logs keeps what a worker logs.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (w *world) worker() *worker {
	w.t.Helper()
	return w.workerAt(provision.NewGate(), newRows(1))
}

// workerAt is a worker with a gate that it may share with others.
func (w *world) workerAt(gate *provision.Gate, controls provision.Controls) *worker {
	w.t.Helper()
	w.workers++
	wk := &worker{w: w, gate: gate, name: fmt.Sprintf("w%d", w.workers), life: &life{}, logs: &logs{}, asking: make(chan struct{}, 1)}
	ports := provision.Ports{
		Ledger: ledgerPort{wk}, Names: ledgerPort{wk}, API: apiPort{wk}, Account: accountPort{wk}, Inventory: inventoryPort{wk}, Events: eventsPort{wk}, Controls: controls,
	}
	p, err := provision.New(w.cfg, ports, wk.gate, slog.New(slog.NewTextHandler(wk.logs, nil)),
		provision.Telemetry{Meter: w.meter})
	if err != nil {
		w.t.Fatalf("New: %v", err)
	}
	wk.Provisioner = p
	return wk
}

// mortal is a worker that dies at its n-th effect.
func (w *world) mortal(n int, after bool) *worker {
	wk := w.worker()
	wk.life.dieAt, wk.life.after = n, after
	return wk
}

// deliver hands one message over; alive is false when the process died of it.
func (wk *worker) deliver(ctx context.Context, m provision.Message) (d provision.Disposition, alive bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		d = wk.Handle(ctx, m)
		alive = true
	}()
	<-done
	return d, alive
}

// once delivers to a worker that is expected to live.
func (wk *worker) once(m provision.Message) provision.Disposition {
	wk.w.t.Helper()
	d, alive := wk.deliver(context.Background(), m)
	if !alive {
		wk.w.t.Fatal("the worker died")
	}
	return d
}

// drive redelivers a message as the broker would, until it is acked, the
// worker dies or the time is up. It only works in a synctest bubble.
func (wk *worker) drive(m provision.Message, until time.Time) (d provision.Disposition, alive bool) {
	for time.Now().Before(until) {
		if d, alive = wk.deliver(context.Background(), m); !alive || d.Action != provision.Retry {
			return d, alive
		}
		m.Deliveries++
		pass(max(d.After, time.Millisecond))
	}
	return d, alive
}

// until drives a message until its record is in a state and has been announced
// in it, as far as that is announced.
func (wk *worker) until(m provision.Message, state string) {
	wk.w.t.Helper()
	for end := time.Now().Add(48 * time.Hour); time.Now().Before(end); m.Deliveries++ {
		d := wk.once(m)
		synctest.Wait()
		if wk.w.shelf.state(m.Request.Key) == state && d.Reason != provision.WaitPublish {
			return
		}
		pass(max(d.After, time.Millisecond))
	}
	wk.w.t.Fatalf("the record is %s, never %s\n%s", wk.w.shelf.state(m.Request.Key), state, strings.Join(wk.w.journal.lines(), "\n"))
}

// finish drives a message to its end within two days of the bubble's time.
func (wk *worker) finish(m provision.Message) provision.Disposition {
	wk.w.t.Helper()
	d, alive := wk.drive(m, time.Now().Add(48*time.Hour))
	synctest.Wait()
	if !alive || d.Action == provision.Retry {
		wk.w.t.Fatalf("the message never came to an end: alive %v, %+v\n%s", alive, d, strings.Join(wk.w.journal.lines(), "\n"))
	}
	return d
}

// record is what the ledger holds; it fails the test when there is none.
func (w *world) record(key string) *provision.Record {
	w.t.Helper()
	r := w.shelf.peek(key)
	if r == nil {
		w.t.Fatalf("no record of %q", key)
	}
	return r
}

// order is a sound message about the server web-<key>.
func order(key string) provision.Message {
	return provision.Message{
		Request: provision.Request{
			Key: key, Name: "web-" + key, CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm",
			Metadata: map[string]string{"customer": "c-17"},
		},
		BodyHash: "0123456789abcdef", Encoding: provision.JSON, CausationID: "cause-" + key,
		Stream: "DEPLOY", Sequence: 1, StoredAt: time.Now(), Deliveries: 1,
	}
}

// bubble runs a test under the fake clock, beside other tests.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d) // only in a synctest bubble
}

// newProvisioner is a bare Provisioner over ports of the test's own.
func newProvisioner(t testing.TB, w *world, ports provision.Ports) *provision.Provisioner {
	t.Helper()
	p, err := provision.New(w.cfg, ports, provision.NewGate(), slog.New(slog.DiscardHandler),
		provision.Telemetry{Meter: noop.NewMeterProvider().Meter("test")})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return p
}
