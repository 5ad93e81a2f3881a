package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/provision"
)

func TestMain(m *testing.M) { os.Exit(brokertest.Main(m)) }

// The subjects of single orders and of batches.
const (
	subject = "deploy.requested"
	batches = "deploy.requested.batch"
)

// patience bounds waiting for what must happen; reaching it is a failure. It is
// longer than the ack wait of most tests: what was on its way while a process stood
// still comes again.
const patience = 2 * time.Minute

// handler answers deliveries with a function and records them.
type handler struct {
	mu    sync.Mutex
	seen  []provision.Message
	reply func(ctx context.Context, m provision.Message) provision.Disposition
}

func (h *handler) Handle(ctx context.Context, m provision.Message) provision.Disposition {
	h.mu.Lock()
	h.seen = append(h.seen, m)
	h.mu.Unlock()
	return h.reply(ctx, m)
}

func (h *handler) deliveries(key string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, m := range h.seen {
		if m.Request.Key == key {
			n++
		}
	}
	return n
}

// gate remembers until when each wait was to last that was not ended earlier.
type gate struct {
	*provision.Gate

	mu   sync.Mutex
	ends []time.Time
}

func (g *gate) Wait(ctx context.Context) error {
	err := g.Gate.Wait(ctx)
	end, bounded := ctx.Deadline()
	if bounded && errors.Is(err, context.DeadlineExceeded) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.ends = append(g.ends, end)
	}
	return err
}

func (g *gate) waits() []time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.ends)
}

// rig is a broker with the worker's streams and one consumer on it.
type rig struct {
	t    testing.TB
	srv  *brokertest.Server
	js   jetstream.JetStream
	gate *gate
	h    *handler
	logs *logs
	c    *consumer.Consumer
}

func newRig(t testing.TB, ackWait time.Duration, concurrency int, opts ...brokertest.Option) *rig {
	t.Helper()
	srv := brokertest.Start(t, opts...)
	_, js := brokertest.Connect(t, srv)
	r := &rig{t: t, srv: srv, js: js, gate: &gate{Gate: provision.NewGate()}, h: &handler{}, logs: &logs{}}
	r.h.reply = func(context.Context, provision.Message) provision.Disposition { return provision.Disposition{} }
	for _, s := range []jetstream.StreamConfig{
		{Name: "DEPLOY", Subjects: []string{subject, batches}, Retention: jetstream.WorkQueuePolicy},
		{Name: "DEPLOY_DEAD", Subjects: []string{"deploy.dead"}, Duplicates: time.Hour},
	} {
		if _, err := js.CreateStream(t.Context(), s); err != nil {
			t.Fatalf("create %s: %v", s.Name, err)
		}
	}
	r.makeConsumer("worker", ackWait, subject)
	r.c = r.consumer(concurrency, patience, r.h)
	return r
}

// consumer is the one under test.
func (r *rig) consumer(concurrency int, drain time.Duration, h consumer.Handler) *consumer.Consumer {
	r.t.Helper()
	c, err := consumer.New(consumer.Config{
		Stream: "DEPLOY", Consumer: "worker", Batches: "worker-batch", DeadSubject: "deploy.dead", DeadStream: "DEPLOY_DEAD",
		Concurrency: concurrency, DrainTimeout: drain,
	}, consumer.Ports{
		JetStream: r.js, Handler: h, Gate: r.gate, Log: slog.New(slog.NewTextHandler(r.logs, nil)),
		Tracer: noop.NewTracerProvider().Tracer(""), Meter: noopmetric.NewMeterProvider().Meter(""),
		Decode: func(_ nats.Header, data []byte) provision.Message {
			if string(data) == "decoder panics" {
				panic("no such luck")
			}
			return provision.Message{Request: provision.Request{Key: string(data[:min(len(data), 64)])}}
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// logs keeps what the consumer logs.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// makeConsumer makes a durable with room for all that a test lets wait.
func (r *rig) makeConsumer(name string, ackWait time.Duration, subjects ...string) {
	r.t.Helper()
	if _, err := r.js.CreateConsumer(context.Background(), "DEPLOY", jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1,
		FilterSubjects: subjects, MaxAckPending: 100_000,
	}); err != nil {
		r.t.Fatalf("create the consumer: %v", err)
	}
}

// start runs the consumer until stop is called, which returns Run's error.
func (r *rig) start() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.c.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			err = <-ended
		})
		return err
	}
	r.t.Cleanup(func() { _ = stop() })
	return stop
}

func (r *rig) publish(bodies ...string) {
	r.t.Helper()
	r.publishTo(subject, bodies...)
}

func (r *rig) publishTo(subject string, bodies ...string) {
	r.t.Helper()
	for _, b := range bodies {
		if _, err := r.js.PublishAsync(subject, []byte(b)); err != nil {
			r.t.Fatalf("publish: %v", err)
		}
	}
	<-r.js.PublishAsyncComplete()
}

// eventually polls until ok or patience ends.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("waited %s in vain for: %s", patience, what)
		}
	}
}

func (r *rig) queued() uint64 {
	r.t.Helper()
	s, err := r.js.Stream(context.Background(), "DEPLOY")
	if err != nil {
		r.t.Fatalf("look at the stream: %v", err)
	}
	return s.CachedInfo().State.Msgs
}

func (r *rig) dead() []*jetstream.RawStreamMsg {
	r.t.Helper()
	s, err := r.js.Stream(context.Background(), "DEPLOY_DEAD")
	if err != nil {
		r.t.Fatalf("look at the dead letters: %v", err)
	}
	var all []*jetstream.RawStreamMsg
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(context.Background(), seq)
		if err != nil {
			r.t.Fatalf("read dead letter %d: %v", seq, err)
		}
		all = append(all, m)
	}
	return all
}

func TestDoneIsAcked(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 4)
	r.start()
	r.publish("a", "b", "c")
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
	for _, key := range []string{"a", "b", "c"} {
		if n := r.h.deliveries(key); n != 1 {
			t.Errorf("%s was delivered %d times", key, n)
		}
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	if m := r.h.seen[0]; m.Stream != "DEPLOY" || m.Sequence == 0 || m.StoredAt.IsZero() || m.Deliveries != 1 {
		t.Errorf("the message lacks what the broker knows: %+v", m)
	}
}

func TestRetryComesBackNotBeforeItsTime(t *testing.T) {
	t.Parallel()
	const after = 300 * time.Millisecond
	r := newRig(t, time.Minute, 1)
	var first, second time.Time
	r.h.reply = func(context.Context, provision.Message) provision.Disposition {
		if first.IsZero() {
			first = time.Now()
			return provision.Disposition{Action: provision.Retry, After: after}
		}
		second = time.Now()
		return provision.Disposition{}
	}
	stop := r.start()
	r.publish("a")
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// The broker's timers are coarse downwards by a few milliseconds.
	if waited := second.Sub(first); waited < after-50*time.Millisecond {
		t.Errorf("came back after %s, asked for %s", waited, after)
	}
}

func TestNeverMoreInWorkThanSlots(t *testing.T) {
	t.Parallel()
	const slots, messages = 3, 12
	r := newRig(t, time.Minute, slots)
	var working, most atomic.Int64
	r.h.reply = func(context.Context, provision.Message) provision.Disposition {
		n := working.Add(1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		<-time.After(50 * time.Millisecond)
		working.Add(-1)
		return provision.Disposition{}
	}
	r.start()
	for i := range messages {
		r.publish(fmt.Sprint(i))
	}
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
	if m := most.Load(); m > slots {
		t.Errorf("%d messages in work with %d slots", m, slots)
	}
}

// Only the heartbeat keeps what takes longer than the ack wait from coming again,
// single orders as batches. A process that stands still for as long has no
// heartbeat, so it is tried three times before that is a fault.
func TestNoRedeliveryWhileInWork(t *testing.T) {
	t.Parallel()
	const ackWait = time.Second
	for range 3 {
		r := newRigs(t, ackWait, 4)
		r.h.reply = func(context.Context, provision.Message) provision.Disposition {
			<-time.After(3 * ackWait)
			return provision.Disposition{}
		}
		stop := r.start()
		r.publish("single")
		r.publishBatch(1)
		eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
		if err := stop(); err != nil {
			t.Error(err)
		}
		if r.h.deliveries("single") == 1 && r.h.deliveries("batch-0") == 1 {
			return
		}
	}
	t.Error("what was in work was delivered again")
}

// A deadline or an outcome must be served behind a closed gate too, so it slows
// pulling down and does not stop it: each message has a whole wait before it. It
// is counted in waits, since a handler may begin late on a busy machine.
func TestClosedGateSlowsPullingDown(t *testing.T) {
	t.Parallel()
	const pause = 100 * time.Millisecond // for one slot
	r := newRig(t, time.Minute, 1)
	r.gate.Hold("test")
	var waited []int
	r.h.reply = func(context.Context, provision.Message) provision.Disposition {
		waited = append(waited, len(r.gate.waits()))
		return provision.Disposition{}
	}
	last := time.Now()
	stop := r.start()
	r.publish("a", "b", "c")
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for i, n := range waited {
		if n <= i {
			t.Errorf("behind a closed gate message %d was handled after %d waits", i+1, n)
		}
	}
	for i, end := range r.gate.waits() {
		if end.Sub(last) < pause {
			t.Errorf("wait %d ended %s after the one before", i+1, end.Sub(last))
		}
		last = end
	}
}

func TestDeadLetterIsStoredByteForByteBeforeTheOriginalGoes(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 1)
	r.h.reply = func(context.Context, provision.Message) provision.Disposition {
		return provision.Disposition{Action: provision.Dead, Defect: &provision.Defect{Reason: provision.DeadNoKey, Detail: "no key\nanywhere"}}
	}
	r.start()
	m := nats.NewMsg("deploy.requested")
	m.Data = []byte("\x00\xffnot json")
	m.Header["x-Odd-CASE"] = []string{"one", "two"}
	m.Header.Set("Nats-Msg-Id", "theirs")
	if _, err := r.js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
	dead := r.dead()
	if len(dead) != 1 {
		t.Fatalf("%d dead letters", len(dead))
	}
	d := dead[0]
	if string(d.Data) != string(m.Data) {
		t.Errorf("body %q, want %q", d.Data, m.Data)
	}
	for name, want := range map[string]string{
		"deploy-dead-reason": "no-key", "deploy-dead-stream": "DEPLOY", "deploy-dead-sequence": "1", "deploy-dead-deliveries": "1",
		"deploy-dead-header-nats-msg-id": "theirs",
	} {
		if got := d.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := d.Header.Values("x-Odd-CASE"); len(got) != 2 || got[0] != "one" || got[1] != "two" {
		t.Errorf("original header: %q", got)
	}
	if got := d.Header.Get("deploy-dead-detail"); !strings.Contains(got, "anywhere") {
		t.Errorf("detail: %q", got)
	}
	if _, err := time.Parse(time.RFC3339Nano, d.Header.Get("deploy-dead-time")); err != nil {
		t.Errorf("time: %v", err)
	}
}

func TestDeadLettersWithOneMsgIDAreAllKept(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 1)
	r.h.reply = func(context.Context, provision.Message) provision.Disposition {
		return provision.Disposition{Action: provision.Dead, Defect: &provision.Defect{Reason: provision.DeadUndecodable}}
	}
	s, err := r.js.Stream(t.Context(), "DEPLOY")
	if err != nil {
		t.Fatal(err)
	}
	// A short window, so that the request stream takes the same id twice; the
	// dead letters' window of an hour must not swallow the second.
	cfg := s.CachedInfo().Config
	cfg.Duplicates = 100 * time.Millisecond
	if _, err := r.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"first", "second"} {
		eventually(t, "the stream to take "+body, func() bool {
			m := nats.NewMsg("deploy.requested")
			m.Data = []byte(body)
			m.Header.Set("Nats-Msg-Id", "same")
			ack, err := r.js.PublishMsg(context.Background(), m)
			return err == nil && !ack.Duplicate
		})
	}
	r.start()
	eventually(t, "two dead letters", func() bool { return len(r.dead()) == 2 })
}

func TestDeadLetterThatCannotBeStoredLeavesTheOriginal(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 1)
	if err := r.js.DeleteStream(t.Context(), "DEPLOY_DEAD"); err != nil {
		t.Fatal(err)
	}
	r.h.reply = func(context.Context, provision.Message) provision.Disposition {
		return provision.Disposition{Action: provision.Dead, Defect: &provision.Defect{Reason: provision.DeadNoKey}}
	}
	r.start()
	r.publish("a")
	eventually(t, "a second try", func() bool { return r.h.deliveries("a") >= 2 })
	if n := r.queued(); n != 1 {
		t.Errorf("%d messages in the stream, want the one that could not be buried", n)
	}
	if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "DEPLOY_DEAD", Subjects: []string{"deploy.dead"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
	if n := len(r.dead()); n != 1 {
		t.Errorf("%d dead letters", n)
	}
}

func TestDeadLetterTooLargeForAMessageIsCut(t *testing.T) {
	t.Parallel()
	const limit = 256 << 10
	r := newRig(t, time.Minute, 1, brokertest.WithMaxPayload(limit))
	r.h.reply = func(context.Context, provision.Message) provision.Disposition {
		return provision.Disposition{Action: provision.Dead, Defect: &provision.Defect{Reason: provision.DeadTooLarge}}
	}
	r.start()
	r.publish(strings.Repeat("x", limit-10))
	eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
	d := r.dead()[0]
	if len(d.Data) != 64<<10 || d.Header.Get("deploy-dead-truncated") != "true" || d.Header.Get("deploy-dead-reason") != "too-large" {
		t.Errorf("%d bytes, headers %v", len(d.Data), d.Header)
	}
}

func TestPanicsAreRetriedAndThenBuried(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"in the handler": "poison", "in the decoder": "decoder panics"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, time.Minute, 1)
			r.h.reply = func(_ context.Context, m provision.Message) provision.Disposition {
				if m.Request.Key == "poison" {
					panic("boom")
				}
				return provision.Disposition{}
			}
			r.start()
			r.publish(body, "good")
			eventually(t, "the good message", func() bool { return r.h.deliveries("good") == 1 })
			eventually(t, "an empty queue", func() bool { return r.queued() == 0 })
			d := r.dead()
			if len(d) != 1 || d[0].Header.Get("deploy-dead-reason") != "panic" || d[0].Header.Get("deploy-dead-deliveries") != "3" {
				t.Errorf("dead letters: %+v", d)
			}
		})
	}
}

func TestDrainFinishesWhatIsInHandAndPullsNoMore(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 1)
	begun, finish := make(chan struct{}), make(chan struct{})
	r.h.reply = func(ctx context.Context, _ provision.Message) provision.Disposition {
		close(begun)
		<-ctx.Done() // the core is told
		<-finish
		return provision.Disposition{}
	}
	stop := r.start()
	r.publish("a", "b")
	<-begun
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	select {
	case err := <-ended:
		t.Fatalf("Run returned with work in hand: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	eventually(t, "one message left", func() bool { return r.queued() == 1 })
	if n := r.h.deliveries("b"); n != 0 {
		t.Errorf("a message was begun while draining")
	}
}

func TestDrainTimeoutIsAnError(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 1)
	hang := make(chan struct{})
	defer close(hang)
	begun := make(chan struct{})
	r.h.reply = func(context.Context, provision.Message) provision.Disposition {
		close(begun)
		<-hang
		return provision.Disposition{}
	}
	r.c = r.consumer(1, 20*time.Millisecond, r.h)
	stop := r.start()
	r.publish("a")
	<-begun
	if err := stop(); !errors.Is(err, consumer.ErrDrain) {
		t.Errorf("Run = %v, want ErrDrain", err)
	}
}

func TestMissingConsumerIsAnAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 1)
	if err := r.js.DeleteConsumer(t.Context(), "DEPLOY", "worker"); err != nil {
		t.Fatal(err)
	}
	if err := r.c.Run(t.Context()); !errors.Is(err, consumer.ErrMissing) || !strings.Contains(err.Error(), "worker setup") {
		t.Errorf("Run = %v, want ErrMissing and what to do", err)
	}
}

func TestConsumerDeletedAndMadeAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 2)
	r.start()
	r.publish("a")
	eventually(t, "the first message", func() bool { return r.queued() == 0 })
	if err := r.js.DeleteConsumer(t.Context(), "DEPLOY", "worker"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss to be noticed", func() bool { return !r.c.Bound() })
	r.makeConsumer("worker", time.Minute, subject)
	r.publish("b")
	eventually(t, "the second message", func() bool { return r.h.deliveries("b") == 1 })
}

func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)
	r := newRig(t, time.Minute, 2)
	r.start()
	r.publish("a")
	eventually(t, "the first message", func() bool { return r.h.deliveries("a") == 1 })
	r.srv.Restart()
	eventually(t, "a publish to be taken", func() bool {
		_, err := r.js.Publish(context.Background(), "deploy.requested", []byte("b"))
		return err == nil
	})
	eventually(t, "the second message", func() bool { return r.h.deliveries("b") >= 1 })
}
