package consumer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	noopmetric "go.opentelemetry.io/otel/metric/noop"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

// hall is an account with room for nothing but the smallest order, and the real
// core and consumer before it, on a real ledger.
type hall struct {
	*rig

	mu     sync.Mutex
	bought map[string]int
	told   map[string]int
	// due is when each that waits may come back.
	due map[string]time.Time

	room atomic.Bool
	core atomic.Pointer[provision.Provisioner]
	// first and again count deliveries.
	first, again atomic.Int64
}

const cores = 2

// pace is how many requests that wait come back in a second, in sum
// (internal/provision/pace.go).
const pace = 200

func newHall(t testing.TB) *hall {
	t.Helper()
	// A short ack wait: a nak that meets a stopped broker is lost.
	w := &hall{rig: newRig(t, 5*time.Second, 16), bought: make(map[string]int), told: make(map[string]int), due: make(map[string]time.Time)}
	if _, err := w.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "KV_ledger", Subjects: []string{"$KV.ledger.>"}, MaxMsgsPerSubject: 1, AllowRollup: true, DenyDelete: true,
		Discard: jetstream.DiscardNew, AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Minute,
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

// Handle counts a delivery and gives it to the core as a request.
func (w *hall) Handle(ctx context.Context, m provision.Message) provision.Disposition {
	if m.Deliveries == 1 {
		w.first.Add(1)
	} else {
		w.again.Add(1)
	}
	m.Request.Name, m.Request.MemoryGB, m.Request.StorageGB, m.Request.Region = m.Request.Key, 2, 50, "stockholm"
	m.Request.CPUCores = cores
	if m.Request.Key[:5] == "fresh" {
		m.Request.CPUCores = 1
	}
	d := w.core.Load().Handle(ctx, m)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.due, m.Request.Key)
	if d.Action == provision.Retry {
		w.due[m.Request.Key] = time.Now().Add(d.After)
	}
	return d
}

// overdue is how many could have come back by now: a machine that was away for
// a moment has them all at once.
func (w *hall) overdue() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.due {
		if time.Now().After(at) {
			n++
		}
	}
	return n
}

// work starts a new process: nothing is left of the one before but what the
// broker keeps.
func (w *hall) work(ttl time.Duration) (stop func()) {
	w.t.Helper()
	book := ledger.New(w.js, ledger.Config{Bucket: "ledger", KeepNames: 25 * time.Hour})
	core, err := provision.New(provision.Config{
		CreateTimeout: time.Minute, Deadline: 24 * time.Hour, BackoffInitial: time.Second, BackoffMax: time.Minute,
		InlineWait: 5 * time.Second, LimitsTTL: ttl, StoreTimeout: time.Minute, HeldPoll: time.Minute,
		SettleAnswered: time.Minute, SettleUnanswered: time.Minute, SettleReads: 2, LimitWait: true,
	}, provision.Ports{Ledger: book, Names: book, API: w, Account: w, Inventory: w, Events: w},
		w.gate.Gate, slog.New(slog.DiscardHandler), provision.Telemetry{Meter: noopmetric.NewMeterProvider().Meter("")})
	if err != nil {
		w.t.Fatal(err)
	}
	w.core.Store(core)
	w.c = w.consumer(16, patience, w)
	end := w.start()
	return func() {
		if err := end(); err != nil {
			w.t.Error(err)
		}
		if err := core.Wait(context.Background()); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *hall) Create(_ context.Context, r provision.Request) provision.Answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bought[r.Key]++
	return provision.Answer{Verdict: provision.VerdictCreated, Status: 201, VPSID: "vps-" + r.Key}
}

func (w *hall) Facts(context.Context, time.Time) (admission.Facts, error) {
	left := admission.Resources{CPUCores: 1 << 40, MemoryGB: 1 << 40, StorageGB: 1 << 40, Instances: 1 << 40}
	if !w.room.Load() {
		left.CPUCores = 1
	}
	return admission.Facts{Remaining: left, Max: left, CanDeploy: true, AskedAt: time.Now()}, nil
}

func (w *hall) Publish(_ context.Context, e provision.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[e.Key]++
	return nil
}

func (*hall) Named(context.Context, string) ([]provision.Server, error)    { return nil, nil }
func (*hall) CreatedAt(context.Context, string) (time.Time, error)         { return time.Time{}, nil }
func (*hall) ByID(context.Context, string) (s provision.Server, err error) { return s, err }
func (*hall) Candidates(context.Context) (s []provision.Server, err error) { return s, err }
func (w *hall) answered(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told[key] > 0
}

// heap is what the process holds while its broker is stopped: without the
// server's own memory, which is in this process too.
func (w *hall) heap() int64 {
	w.srv.Stop()
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.srv.Restart()
	return int64(m.HeapAlloc)
}

func (w *hall) info() *jetstream.ConsumerInfo {
	c, err := w.js.Consumer(context.Background(), "DEPLOY", "worker")
	if err != nil {
		return &jetstream.ConsumerInfo{NumPending: 1}
	}
	return c.CachedInfo()
}

// within is eventually with more patience.
func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain for: %s", limit, what)
		}
	}
}

// waiting is the story of n requests that wait for room: fresh orders are
// answered among them, the broker and the worker are restarted, and when there
// is room each gets one server.
func waiting(t testing.TB, n int, ttl time.Duration) map[string]float64 {
	t.Helper()
	brokertest.NeedsProcess(t)
	const limit = 10 * time.Minute
	w, found := newHall(t), make(map[string]float64)
	stop := w.work(ttl)
	w.publish("fresh-first")
	eventually(t, "the first order", func() bool { return w.answered("fresh-first") })
	empty := w.heap()
	bodies := make([]string, n)
	for i := range bodies {
		bodies[i] = fmt.Sprintf("waits-%d", i)
	}
	eventually(t, "the broker to be back", func() bool { return w.info().NumPending == 0 })
	w.publish(bodies...)
	within(t, limit, "all to wait", func() bool { i := w.info(); return i.NumPending == 0 && i.NumAckPending >= n })

	// Once each has come back and been told to wait according to how many there
	// are, and some of them are back again.
	come := w.again.Load()
	within(t, limit, "the paced ones to come back", func() bool { return w.again.Load() > come+int64(n+n/20) })
	for i := range 20 {
		key := fmt.Sprintf("fresh-%d", i)
		before, overdue, began := w.again.Load(), w.overdue(), time.Now()
		w.publish(key)
		within(t, limit, key, func() bool { return w.answered(key) })
		came := float64(w.again.Load() - before)
		found["redeliveries-before-fresh"] = max(found["redeliveries-before-fresh"], came)
		found["overdue-before-fresh"] = max(found["overdue-before-fresh"], float64(overdue))
		found["redeliveries-above-pace"] = max(found["redeliveries-above-pace"], came-float64(overdue)-pace*time.Since(began).Seconds())
	}
	found["B/waiting"] = float64(w.heap()-empty) / float64(n)

	stop()
	w.srv.Restart()
	// A delivery that the broker had not written down counts as pending again.
	eventually(t, "the broker to have all of them", func() bool { i := w.info(); return i.NumPending+uint64(i.NumAckPending) == uint64(n) })
	if q := w.queued(); q != uint64(n) {
		t.Errorf("%d messages after the restart, want %d", q, n)
	}
	w.room.Store(true)
	stop = w.work(ttl)
	within(t, limit, "all to be answered", func() bool { return w.queued() == 0 })
	stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range bodies {
		if w.bought[key] != 1 || w.told[key] < 1 {
			t.Errorf("%s: %d servers, %d events", key, w.bought[key], w.told[key])
		}
	}
	found["deliveries/request"] = float64(w.first.Load()+w.again.Load()) / float64(n)
	return found
}

func TestWaitingCostsNothing(t *testing.T) {
	t.Parallel()
	const n = 1000
	found := waiting(t, n, 4*time.Second)
	text, _ := json.Marshal(found)
	t.Logf("%d waiting: %s", n, text)
	// However long the machine took, before it or over it: no more than come back
	// in that time. That they do not all come at once is TestPacedHasNoRush's.
	if got := found["redeliveries-above-pace"]; got > n/10 {
		t.Errorf("%.0f of %d redeliveries were handled before a fresh order, beyond those at %d a second", got, n, pace)
	}
}

// BenchmarkWaiting does it with 20 000 requests and the usual WORKER_LIMITS_TTL;
// it takes some five minutes:
//
//	go test -run '^$' -bench Waiting -benchtime 1x -timeout 20m ./internal/consumer
func BenchmarkWaiting(b *testing.B) {
	const bound = 1 << 10 // bytes of heap for each, as ARCHITECTURE.md says
	for range b.N {
		for name, value := range waiting(b, 20_000, 10*time.Second) {
			b.ReportMetric(value, name)
			if name == "B/waiting" && value > bound {
				b.Errorf("%.0f bytes of heap for each waiting request, above %d", value, bound)
			}
		}
	}
}
