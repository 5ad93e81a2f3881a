package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
	"github.com/hostup/deploy-worker/internal/telemetry"
)

// Of one run of BenchmarkTracing.
const (
	benchRequests = 1000
	benchRounds   = 15
)

// tracingMode is one way to run the worker in BenchmarkTracing.
type tracingMode struct {
	name string
	// traced requests carry a trace context, exported spans go to a collector.
	traced, exported bool
	// goal is how much of the throughput of the first mode it may cost.
	goal float64
}

// BenchmarkTracing prints what tracing costs, in one process: the broker, the
// simulated API and the collector share its processors, so that the figures are
// those of a machine that is busy. The modes take short turns in random order,
// each with empty streams and an empty account, and are compared turn by turn:
//
//	none      nothing exported, and requests without a trace context
//	again     the same again: what the figures are worth
//	off       nothing exported, requests with a trace context, which is carried on
//	sampled   every span exported over OTLP
//
// What a mode costs of the throughput is told twice: by the clock, and by the
// processor time of a request, which suffers less from what else the machine
// does. It fails when both miss the goal.
//
//	go test -run '^$' -bench Tracing -benchtime 1x ./cmd/worker
func BenchmarkTracing(b *testing.B) {
	modes := []tracingMode{{name: "none"}, {"again", false, false, 0}, {"off", true, false, 2}, {"sampled", true, true, 15}}
	var spans atomic.Int64
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		spans.Add(n)
	}))
	defer collector.Close()
	b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	for b.Loop() {
		w := newTracingBench(b)
		w.run(modes[3], 0) // warm
		spans.Store(0)
		rate, cpu := make([][]float64, len(modes)), make([][]float64, len(modes))
		for round := 1; round <= benchRounds; round++ {
			for _, i := range rand.Perm(len(modes)) {
				r, c := w.run(modes[i], round)
				rate[i], cpu[i] = append(rate[i], r), append(cpu[i], c)
			}
		}
		for i, m := range modes {
			seen := 100 * (1 - median(ratios(rate[i], rate[0])))
			paid := 100 * (1 - median(ratios(cpu[0], cpu[i])))
			b.Logf("%-8s %5.0f requests/s, %5.0f µs of processor time each; costs of throughput by the clock %5.1f %%, by processor time %5.1f %% (goal: %.0f %%)",
				m.name, median(rate[i]), median(cpu[i]), seen, paid, m.goal)
			if m.goal > 0 && seen >= m.goal && paid >= m.goal {
				b.Errorf("%s costs more than %.0f %%", m.name, m.goal)
			}
		}
		b.Logf("exported: %d bytes a request", spans.Load()/(benchRequests*benchRounds))
		if spans.Load() == 0 {
			b.Error("nothing was exported")
		}
	}
}

// ratios divides what was measured in the same round.
func ratios(a, by []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / by[i]
	}
	return r
}

func median(of []float64) float64 {
	of = slices.Sorted(slices.Values(of))
	return (of[len(of)/2] + of[(len(of)-1)/2]) / 2
}

// tracingBench is a broker and an account for many runs.
type tracingBench struct {
	b   *testing.B
	url string
	nc  *nats.Conn
	js  jetstream.JetStream
}

func newTracingBench(b *testing.B) *tracingBench {
	b.Helper()
	srv := brokertest.Start(b)
	w := &tracingBench{b: b, url: srv.URL}
	w.nc, w.js = brokertest.Connect(b, srv)
	return w
}

// run works off requests that wait in the stream, and returns how many a second
// and the processor time of each in microseconds.
func (w *tracingBench) run(m tracingMode, round int) (rate, cpu float64) {
	w.b.Helper()
	const plenty = 1 << 40
	sim := simulator.New(simulator.Config{Limits: simulator.Limits{CPUCores: plenty, MemoryGB: plenty, StorageGB: plenty, Instances: plenty}})
	api := httptest.NewServer(sim)
	defer api.Close()
	defer func() { _ = sim.Close() }()
	s := demoSettings()
	s.natsSettings = natsSettings{NATSURL: w.url}
	s.APIURL, s.APIToken, s.Concurrency, s.LimitsTTL = api.URL+"/api/v2", testToken, 16, time.Minute
	tel, err := telemetry.Start(w.b.Context(), telemetry.Options{Version: "bench", Traces: m.exported})
	must(w.b, err)
	nc, js, err := broker.Connect(s.options())
	must(w.b, err)
	defer nc.Close()
	e, err := newEngine(s, nc, js, tel, slog.New(slog.DiscardHandler))
	must(w.b, err)
	must(w.b, e.provision(w.b.Context()))
	defer func() {
		for _, stream := range []string{s.Stream, s.EventsStream, s.DeadStream, "KV_" + s.Ledger} {
			must(w.b, w.js.DeleteStream(context.Background(), stream))
		}
	}()
	for n := range benchRequests {
		w.place(m, fmt.Sprintf("%s-%d-%d", m.name, round, n))
	}
	<-w.js.PublishAsyncComplete()

	var done atomic.Int64
	var first time.Time
	all := make(chan time.Time, 1)
	sub, err := w.nc.Subscribe("deploy.provisioning", func(*nats.Msg) {
		switch done.Add(1) {
		case 1:
			first = time.Now()
		case benchRequests:
			all <- time.Now()
		}
	})
	must(w.b, err)
	defer func() { _ = sub.Unsubscribe() }()
	must(w.b, w.nc.Flush())
	runtime.GC() // the garbage of the turn before is not this one's
	began := processorTime()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.run(ctx) }()
	select {
	case last := <-all:
		rate = float64(benchRequests-1) / last.Sub(first).Seconds()
	case <-time.After(patience):
		w.b.Fatalf("%s: %d of %d requests after %s", m.name, done.Load(), benchRequests, patience)
	}
	stop()
	must(w.b, <-ended)
	must(w.b, tel.Shutdown(context.Background()))
	return rate, float64((processorTime() - began).Microseconds()) / benchRequests
}

func (w *tracingBench) place(m tracingMode, key string) {
	msg := nats.NewMsg("deploy.requested")
	msg.Data = []byte(fmt.Sprintf(`{"idempotencyKey":%q,"name":%q,"cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm"}`, key, key))
	if m.traced {
		msg.Header.Set("traceparent", "00-"+strings.Repeat("0", 16)+fmt.Sprintf("%016x", rand.Uint64()|1)+"-"+orderSpan+"-01")
	}
	_, err := w.js.PublishMsgAsync(msg)
	must(w.b, err)
	if w.js.PublishAsyncPending() > 100 {
		<-w.js.PublishAsyncComplete()
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
