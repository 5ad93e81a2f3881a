package ledger_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/ledger/ledgertest"
	"github.com/hostup/deploy-worker/internal/provision"
)

func TestMemoryWatch(t *testing.T) {
	t.Parallel()
	ledgertest.RunWatch(t, func(*testing.T) ledgertest.Watched { return ledger.NewMemory() })
}

func TestJetStreamWatch(t *testing.T) {
	t.Parallel()
	ledgertest.RunWatch(t, func(t *testing.T) ledgertest.Watched {
		t.Helper()
		_, js := brokertest.Connect(t, brokertest.Start(t))
		return patient(t, js, ledger.Config{})
	})
}

const (
	openA   = "web-1 open=true owner=a 2/4/80/1 since=true revision=true"
	closedA = "web-1 open=false owner=a 2/4/80/1 since=true revision=true"
)

func intend(t *testing.T, l *ledger.Ledger, r *provision.Record) {
	t.Helper()
	if err := l.Intend(t.Context(), r); err != nil {
		t.Fatalf("Intend: %v", err)
	}
}

func publish(t *testing.T, js jetstream.JetStream, key, data string, header ...string) {
	t.Helper()
	m := nats.NewMsg("$KV.deploy-ledger." + key)
	m.Data = []byte(data)
	for i := 0; i < len(header); i += 2 {
		m.Header.Set(header[i], header[i+1])
	}
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Fatalf("publish %s: %v", key, err)
	}
}

// A pause has to be obeyed within a second also by a replica whose watch has just
// lost its node, and that is noticed after two missed heartbeats.
func TestWatchOfTheControlsMissesNothingForLong(t *testing.T) {
	t.Parallel()
	nc, js := brokertest.Connect(t, brokertest.Start(t))
	l := patient(t, js, ledger.Config{})
	asked := make(chan *nats.Msg, 16)
	sub, err := nc.ChanSubscribe("$JS.API.CONSUMER.MSG.NEXT.KV_deploy-ledger.*", asked)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Watch(ctx, ledger.Watch{})
	}()
	defer func() { cancel(); <-ended }()
	for followed := false; !followed; {
		pull := <-asked
		cons, err := js.Consumer(ctx, "KV_deploy-ledger", pull.Subject[strings.LastIndexByte(pull.Subject, '.')+1:])
		if err != nil {
			t.Fatal(err)
		}
		var request struct {
			Heartbeat time.Duration `json:"idle_heartbeat"`
		}
		if err := json.Unmarshal(pull.Data, &request); err != nil {
			t.Fatal(err)
		}
		if followed = strings.HasSuffix(cons.CachedInfo().Config.FilterSubject, ".ctl.*"); followed && (request.Heartbeat <= 0 || 2*request.Heartbeat > time.Second) {
			t.Errorf("the controls are followed with a heartbeat of %s", request.Heartbeat)
		}
	}
}

// Markers say that something is gone, and a row of a version that does not
// label rows says nothing: neither reserves room.
func TestWatchMarkersAndOldRows(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	l := patient(t, js, ledger.Config{})
	row := "name." + provision.KeyHash("web-1")
	publish(t, js, "name."+provision.KeyHash("old"), `{"open":true,"owner":"x"}`)
	publish(t, js, "ctl.gone", "", "KV-Operation", "DEL")
	s, _ := ledgertest.Listen(t, l, "web-1", "old")
	s.Want("synced true")
	for _, gone := range [][]string{{"", "KV-Operation", "DEL"}, {"", jetstream.MarkerReasonHeader, "MaxAge"}, {`{"open":true,"owner":"x"}`}} {
		publish(t, js, row, "{}", "deploy-row", "open", "deploy-owner", provision.KeyHash("a"), "deploy-size", "2/4/80/1", "deploy-since", "2026-11-23T10:00:00Z")
		s.Want(openA)
		publish(t, js, row, gone[0], gone[1:]...)
		s.Want("web-1 gone")
	}
	publish(t, js, "ctl.gate", "x")
	s.Want("gate=x")
	publish(t, js, "ctl.gate", "", "KV-Operation", "PURGE")
	s.Want("gate=")
	publish(t, js, row, "{}", "deploy-row", "open", "deploy-owner", "somebody", "deploy-size", "many/4")
	s.Want("web-1 open=true owner=somebody 0/4/0/0 since=false revision=true")
}

// A closed row expires; that is nothing new to anybody.
func TestWatchExpiry(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	l := patient(t, js, ledger.Config{KeepNames: 10 * time.Second})
	s, _ := ledgertest.Listen(t, l, "web-1")
	s.Want("synced true")
	r := ledgertest.Record("a", "web-1")
	intend(t, l, r)
	s.Want(openA)
	if err := l.Release(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	s.Want(closedA)
	stream, err := js.Stream(t.Context(), "KV_deploy-ledger")
	if err != nil {
		t.Fatal(err)
	}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for ; ; <-again.C {
		m, err := stream.GetLastMsgForSubject(t.Context(), "$KV.deploy-ledger.name."+provision.KeyHash("web-1"))
		if err != nil {
			t.Fatal(err)
		}
		if m.Header.Get(jetstream.MarkerReasonHeader) != "" {
			break
		}
	}
	publish(t, js, "ctl.gate", "x")
	s.Want("gate=x")
}

// After the broker was away the watch goes on, and tells what has become of
// what it knew.
func TestWatchOutlivesTheBroker(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)
	srv := brokertest.Start(t)
	_, js := brokertest.Connect(t, srv, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	l := ledger.New(js, ledger.Config{Bucket: bucket(t, js)})
	intend(t, l, ledgertest.Record("a", "web-1"))
	s, _ := ledgertest.Listen(t, l, "web-1", "web-2")
	s.Until(openA)
	s.Until("synced true")
	// Nobody may believe that nothing changes while nobody can be heard.
	srv.Stop()
	s.Want("synced false")
	srv.Restart()
	intend(t, l, ledgertest.Record("b", "web-2"))
	told := s.Until("web-2 open=true owner=b 2/4/80/1 since=true revision=true")
	if !slices.Contains(told, "synced true") {
		s.Until("synced true")
	}
	// A bucket that is made anew has lost all of it.
	if err := js.DeleteStream(t.Context(), "KV_deploy-ledger"); err != nil {
		t.Fatal(err)
	}
	told = s.Until("synced false")
	bucket(t, js)
	told = append(told, s.Until("synced true")...)
	for _, gone := range []string{"web-1 gone", "web-2 gone"} {
		if !slices.Contains(told, gone) {
			told = append(told, s.Until(gone)...)
		}
	}
}

// silenced is a connection on which nothing is heard while it is silent.
type silenced struct {
	net.Conn

	silence *sync.RWMutex
}

func (c silenced) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.silence.RLock()
	defer c.silence.RUnlock()
	return n, err
}

// silencer dials such connections.
type silencer struct{ silence sync.RWMutex }

func (s *silencer) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return silenced{Conn: c, silence: &s.silence}, err
}

// A broker that only stands still has lost nothing, so the names are not read
// anew: that costs it more the more it holds, and it stands still the longer.
// Controls are few, and who heard that they are not followed may forget them.
func TestWatchGoesOnAfterASilence(t *testing.T) {
	t.Parallel()
	srv := brokertest.Start(t)
	_, js := brokertest.Connect(t, srv)
	var broker silencer
	_, deaf := brokertest.Connect(t, srv, nats.SetCustomDialer(&broker))
	l := patient(t, js, ledger.Config{})
	intend(t, l, ledgertest.Record("a", "web-1"))
	if err := l.PutControl(t.Context(), "gate", []byte("x")); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ledger.New(deaf, ledger.Config{Bucket: "deploy-ledger", AnswerTimeout: time.Minute}).Watch(ctx, ledger.Watch{
			Name:    func(hash string, _ provision.NameRow) { lines <- hash },
			Control: func(name string, data []byte, _ uint64) { lines <- name + "=" + string(data) },
			Synced:  func(live bool) { lines <- fmt.Sprint("synced ", live) },
			Broken:  func(err error) { lines <- err.Error() },
		})
	}()
	defer func() { cancel(); <-ended }()
	until := func(want string) (before []string) {
		t.Helper()
		for line := soon(t, lines); line != "" && line != want; line = soon(t, lines) {
			before = append(before, line)
		}
		return before
	}
	if told := until("synced true"); len(told) != 2 {
		t.Errorf("told %q at first", told)
	}
	names := consumers(t, js, jetstream.DeliverByStartTimePolicy)
	broker.silence.Lock()
	until("follow name.*: the broker is silent")
	intend(t, l, ledgertest.Record("b", "web-2"))
	broker.silence.Unlock()
	told := until("synced true")
	if !slices.Contains(told, "gate=x") {
		t.Errorf("told %q after the silence", told)
	}
	if web2 := provision.KeyHash("web-2"); !slices.Contains(told, web2) {
		until(web2)
	}
	if diff := cmp.Diff(names, consumers(t, js, jetstream.DeliverByStartTimePolicy)); diff != "" {
		t.Errorf("consumers of the names after the silence (-before +after):\n%s", diff)
	}
}

// consumers are those that follow by a policy.
func consumers(t *testing.T, js jetstream.JetStream, policy jetstream.DeliverPolicy) []string {
	t.Helper()
	stream, err := js.Stream(t.Context(), "KV_deploy-ledger")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for cons := range stream.ListConsumers(t.Context()).Info() {
		if cons.Config.DeliverPolicy == policy {
			names = append(names, cons.Name)
		}
	}
	slices.Sort(names)
	return names
}

// breaking is a watch that waits, when it broke, until it is mended.
type breaking struct {
	t              *testing.T
	js             jetstream.JetStream
	lines          chan string
	broken, mended chan struct{}
}

func watchAndBreak(t *testing.T, js jetstream.JetStream, l *ledger.Ledger) *breaking {
	t.Helper()
	b := &breaking{t: t, js: js, lines: make(chan string, 100), broken: make(chan struct{}), mended: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Watch(ctx, ledger.Watch{
			Name: func(_ string, row provision.NameRow) {
				b.lines <- strings.TrimSpace(fmt.Sprint("open=", row.Open, " long=", row.Quiet > 0, " ", row.VPSID))
			},
			Synced: func(live bool) { b.lines <- fmt.Sprint("synced ", live) },
			Broken: func(error) {
				select {
				case b.broken <- struct{}{}:
					<-b.mended
				case <-ctx.Done():
				}
			},
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return b
}

// openAndClose takes web-1 and gives it back with a server.
func openAndClose(t *testing.T, l *ledger.Ledger) {
	t.Helper()
	r := ledgertest.Record("a", "web-1")
	intend(t, l, r)
	r.VPSID = "vps_1"
	if err := l.Release(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// broke breaks the watch of the names, does something, and lets it begin anew.
func (b *breaking) broke(meanwhile func()) {
	b.t.Helper()
	stream, err := b.js.Stream(b.t.Context(), "KV_deploy-ledger")
	if err != nil {
		b.t.Fatal(err)
	}
	for cons := range stream.ListConsumers(b.t.Context()).Info() {
		if !strings.HasSuffix(cons.Config.FilterSubject, ".name.*") {
			continue
		}
		if err := b.js.DeleteConsumer(b.t.Context(), "KV_deploy-ledger", cons.Name); err != nil {
			b.t.Fatal(err)
		}
	}
	<-b.broken
	meanwhile()
	b.mended <- struct{}{}
}

func (b *breaking) want(lines ...string) {
	b.t.Helper()
	for _, want := range lines {
		if got := soon(b.t, b.lines); got != want {
			b.t.Errorf("told %q, want %q", got, want)
		}
	}
}

// wantInAnyOrder expects two lines.
func (b *breaking) wantInAnyOrder(one, other string) {
	b.t.Helper()
	got := []string{soon(b.t, b.lines), soon(b.t, b.lines)}
	if !slices.Contains(got, one) || !slices.Contains(got, other) {
		b.t.Errorf("told %q, want %q and %q", got, one, other)
	}
}

// What reserves no room any more is told when the watch is live: creates wait for
// what comes before, and a ledger may know a million names.
func TestWatchTellsOldRowsWhenItIsLive(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	l := patient(t, js, ledger.Config{Reserve: time.Nanosecond})
	ledger.SetSkew(l, 0)
	old := ledgertest.Record("a", "web-1")
	intend(t, l, old)
	closed := ledgertest.Record("b", "web-2")
	intend(t, l, closed)
	if err := l.Release(t.Context(), closed); err != nil {
		t.Fatal(err)
	}
	w := watchAndBreak(t, js, l)
	w.wantInAnyOrder("synced true", "open=true long=true")
	again := ledgertest.Record("c", "web-3")
	intend(t, l, again)
	w.want("open=true long=false")
	// What was closed meanwhile is old by now, too, and still told.
	w.broke(func() {
		old.State = provision.StateDone
		if err := l.Release(t.Context(), old); err != nil {
			t.Fatal(err)
		}
	})
	w.want("synced false")
	w.wantInAnyOrder("synced true", "open=false long=true")
}

// The broker's clock says how old a row is: one of ours that is an hour ahead
// leaves no row out of the initial state.
func TestWatchWithAClockThatIsAhead(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		_, js := brokertest.Connect(t, brokertest.Start(t))
		l := patient(t, js, ledger.Config{})
		ledger.SetClock(l, func() time.Time { return time.Now().Add(off) })
		intend(t, l, ledgertest.Record("a", "web-1"))
		s, _ := ledgertest.Listen(t, l, "web-1")
		s.Want(openA, "synced true")
	}
}

// soon is the next line.
func soon(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case line := <-lines:
		return line
	case <-time.After(20 * time.Second):
		t.Error("the watch tells nothing")
		return ""
	}
}

// What was opened and closed while the watch was broken is told, too: its
// server may be missing from the account's facts.
func TestWatchTellsWhatWasClosedUnseen(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	l := patient(t, js, ledger.Config{})
	ledger.SetSkew(l, 0)
	old := ledgertest.Record("b", "web-2")
	intend(t, l, old)
	old.State = provision.StateDone
	if err := l.Release(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	intend(t, l, ledgertest.Record("c", "web-3"))
	w := watchAndBreak(t, js, l)
	w.want("open=true long=true", "synced true")
	w.broke(func() { openAndClose(t, l) })
	w.want("synced false", "open=false long=true vps_1", "synced true")
}

// That goes for the first row there ever was, too.
func TestWatchTellsTheFirstThatWasClosedUnseen(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	l := patient(t, js, ledger.Config{})
	w := watchAndBreak(t, js, l)
	w.want("synced true")
	w.broke(func() { openAndClose(t, l) })
	w.want("synced false", "open=false long=false vps_1", "synced true")
}

// The initial pass over a day of closed rows: time, and what is left in memory,
// when they are as old as nearly all are, and when all have just been closed.
func BenchmarkWatchClosedRows(b *testing.B) {
	for name, reserve := range map[string]time.Duration{"old": time.Nanosecond, "new": time.Hour} {
		b.Run(name, func(b *testing.B) { benchmarkWatchClosedRows(b, reserve) })
	}
}

func benchmarkWatchClosedRows(b *testing.B, reserve time.Duration) {
	b.Helper()
	const rows = 100_000
	_, js := brokertest.Connect(b, brokertest.Start(b))
	l := ledger.New(js, ledger.Config{Bucket: bucket(b, js), Reserve: reserve})
	ledger.SetSkew(l, 0)
	for i := range rows {
		m := nats.NewMsg("$KV.deploy-ledger.name." + provision.KeyHash(fmt.Sprint(i)))
		m.Data = []byte(`{"open":false,"finished":[{"vpsId":"vps_0123456789","at":"2026-11-23T10:00:00.123456789Z"}]}`)
		for k, v := range map[string]string{
			"deploy-write": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "deploy-row": "closed", "deploy-owner": provision.KeyHash(fmt.Sprint("k", i)),
			"deploy-size": "2/4/80/1", "deploy-since": "2026-11-23T10:00:00.123456789Z", "deploy-vps": "vps_0123456789",
		} {
			m.Header[k] = []string{v}
		}
		if _, err := js.PublishMsgAsync(m); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 999 {
			<-js.PublishAsyncComplete()
		}
	}
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		ctx, cancel := context.WithCancel(b.Context())
		began := time.Now()
		l.Watch(ctx, ledger.Watch{
			Name: func(hash string, row provision.NameRow) { b.Errorf("%s: told %+v", hash, row) },
			Synced: func(live bool) {
				if !live {
					return
				}
				b.ReportMetric(time.Since(began).Seconds(), "s/pass")
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/(1<<20), "MiB-kept")
				cancel()
			},
		})
	}
}
