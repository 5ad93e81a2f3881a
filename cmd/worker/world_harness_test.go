package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// world is what surrounds a worker: a broker and a simulated HostUp account of
// its own, and a person who looks at both.
type world struct {
	t   *testing.T
	srv *brokertest.Server
	nc  *nats.Conn
	js  jetstream.JetStream
	sim *simulator.Server
	api string
	env map[string]string

	mu sync.Mutex
	// calls are the creates that arrived, with what was answered.
	calls []call
	// intercept answers instead of the simulator where it returns true.
	intercept func(http.ResponseWriter, *http.Request) bool

	seen   []event
	cursor uint64
	// buried are the dead letters that were read, by deploy-dead-sequence.
	buried   map[string]*jetstream.RawStreamMsg
	lastDead uint64
}

// call is one POST as the simulator's listener saw it.
type call struct {
	header http.Header
	body   []byte
	answer []byte
}

// event is one stored message of the events stream.
type event struct {
	kind   string
	header nats.Header
	data   []byte
	body   map[string]any // of JSON events
	seq    uint64
}

func (e event) id() string { return headerOf(e.header, "ce-id") }

// key is the idempotency key that the event answers.
func (e event) key() string { return headerOf(e.header, "ce-subject") }

func (e event) text(path ...string) string {
	v, ok := e.at(path...).(string)
	if !ok {
		return fmt.Sprintf("(%v)", e.at(path...))
	}
	return v
}

// at walks into the body.
func (e event) at(path ...string) any {
	var v any = e.body
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func (e event) String() string { return fmt.Sprintf("%s %s %s", e.kind, e.id(), e.data) }

func headerOf(h nats.Header, name string) string {
	if v := h[name]; len(v) == 1 {
		return v[0]
	}
	return ""
}

const testToken = "sim-token"

// newWorld makes a world without streams. Everything a worker waits for is
// short in it.
func newWorld(t *testing.T, cfg simulator.Config, opts ...brokertest.Option) *world {
	t.Helper()
	takeSlot(t)
	return newWorldAt(t, cfg, brokertest.Start(t, opts...))
}

// newWorldAt makes a world around a broker. The person who looks at it connects
// with opts, if it asks who comes.
func newWorldAt(t *testing.T, cfg simulator.Config, srv *brokertest.Server, opts ...nats.Option) *world {
	t.Helper()
	w := &world{t: t, srv: srv}
	w.nc, w.js = brokertest.Connect(t, w.srv, opts...)
	w.sim = simulator.New(cfg)
	server := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(func() {
		_ = w.sim.Close()
		server.CloseClientConnections()
		server.Close()
	})
	w.api = server.URL
	w.env = map[string]string{
		"NATS_URL": w.srv.URL, "HOSTUP_API_URL": w.api + "/api/v2", "HOSTUP_API_TOKEN": testToken,
		"HOSTUP_READ_TIMEOUT": "10s", "HOSTUP_CREATE_TIMEOUT": "20s", "WORKER_DRAIN_TIMEOUT": "30s",
		"WORKER_BACKOFF_INITIAL": "20ms", "WORKER_BACKOFF_MAX": "200ms", "WORKER_LIMITS_TTL": "50ms",
		"WORKER_ADMIN_ADDR": "127.0.0.1:0", "WORKER_PROVISION": "true",
		"WORKER_SETTLE_ANSWERED": "300ms", "WORKER_SETTLE_UNANSWERED": "600ms", "WORKER_SETTLE_READS": "2",
		// What a killed process had in hand comes back after this.
		"WORKER_ACK_WAIT": "2s",
	}
	return w
}

// serve is the simulator behind a notebook.
func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	intercept := w.intercept
	w.mu.Unlock()
	if intercept != nil && intercept(rw, r) {
		return
	}
	if r.Method != http.MethodPost {
		w.sim.ServeHTTP(rw, r)
		return
	}
	var body bytes.Buffer
	_, _ = body.ReadFrom(r.Body) // a cut-off body is the client's affair
	r.Body = http.NoBody
	r.Body = nopCloser{bytes.NewReader(body.Bytes())}
	w.mu.Lock()
	n := len(w.calls)
	w.calls = append(w.calls, call{header: r.Header.Clone(), body: body.Bytes()})
	w.mu.Unlock()
	copied := &notebook{ResponseWriter: rw}
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.calls[n].answer = copied.body.Bytes()
	}()
	w.sim.ServeHTTP(copied, r)
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

type notebook struct {
	http.ResponseWriter
	body bytes.Buffer
}

func (n *notebook) Write(p []byte) (int, error) {
	n.body.Write(p)
	return n.ResponseWriter.Write(p)
}

func (n *notebook) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// answering sets what answers instead of the simulator.
func (w *world) answering(f func(http.ResponseWriter, *http.Request) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.intercept = f
}

// calledFor returns the creates for a server name.
func (w *world) calledFor(name string) []call {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []call
	for _, c := range w.calls {
		if bytes.Contains(c.body, []byte(`"`+name+`"`)) {
			found = append(found, c)
		}
	}
	return found
}

// with returns the environment with changes; an empty value removes.
func (w *world) with(changes ...string) map[string]string {
	env := maps.Clone(w.env)
	for _, c := range changes {
		name, value, _ := strings.Cut(c, "=")
		if value == "" {
			delete(env, name)
		} else {
			env[name] = value
		}
	}
	return env
}

// worker starts `worker run` and waits until it can take requests.
func (w *world) worker(changes ...string) *process {
	w.t.Helper()
	p := w.unready(changes...)
	p.ready(http.StatusOK)
	return p
}

// unready starts `worker run` and waits for its admin server only.
func (w *world) unready(changes ...string) *process {
	w.t.Helper()
	return start(w.t, w.with(changes...), "run").listening()
}

func (w *world) setup() {
	w.t.Helper()
	if r := command(w.t, w.env, "setup"); r.code != exitDone {
		w.t.Fatalf("setup ended with %d", r.code)
	}
}

// inTime tries something that has to get somewhere before a deadline, with twice
// the room each time it did not: how far a process comes in some seconds is the
// machine's affair. Each try is a test of its own, which gives back its slot: one
// that kept it and waited for another might wait for ever.
func inTime(t *testing.T, room time.Duration, try func(t *testing.T, room time.Duration) bool) {
	t.Helper()
	for range 3 {
		done := false
		t.Run(room.String(), func(t *testing.T) { done = try(t, room) })
		if done || t.Failed() {
			return
		}
		t.Logf("%s were not enough for this machine to get there before the deadline", room)
		room *= 2
	}
	t.Fatalf("the deadline came too early even with %s", room/2)
}

// order is the body of a sound request.
func order(key, name string) map[string]any {
	o := map[string]any{"name": name, "cpuCores": 2, "memoryGb": 4, "storageGb": 80, "region": "stockholm"}
	if key != "" {
		o["idempotencyKey"] = key
	}
	return o
}

func with(o map[string]any, name string, value any) map[string]any {
	o = maps.Clone(o)
	o[name] = value
	return o
}

func jsonOf(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// restart restarts the broker, or starts it, and waits until this world's own
// connection is another one: what is sent on the old one may have no answer.
func (w *world) restart() {
	w.t.Helper()
	before := w.nc.Stats().Reconnects
	w.srv.Restart()
	eventually(w.t, "the connection to the broker", func() bool { return w.nc.Stats().Reconnects > before && w.nc.IsConnected() })
}

// place publishes an order.
func (w *world) place(o map[string]any) { w.publish(jsonOf(w.t, o), nil) }

// publish stores a request and returns its sequence. The stream must exist.
func (w *world) publish(body []byte, h nats.Header) uint64 {
	w.t.Helper()
	m := nats.NewMsg("deploy.requested")
	m.Data = body
	maps.Copy(m.Header, h)
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for {
		ack, err := w.js.PublishMsg(ctx, m)
		switch {
		case err == nil:
			return ack.Sequence
		case ctx.Err() == nil && errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
			again := time.NewTimer(20 * time.Millisecond)
			<-again.C
		default:
			w.t.Fatalf("publish: %v", err)
		}
	}
}

// poll reads what is new in the events stream.
func (w *world) poll() {
	for _, m := range w.stored("DEPLOY_EVENTS", w.cursor+1) {
		w.cursor = m.Sequence
		e := event{kind: strings.TrimPrefix(m.Subject, "deploy."), header: m.Header, data: m.Data, seq: m.Sequence}
		if headerOf(m.Header, "content-type") == "application/json" {
			if err := json.Unmarshal(m.Data, &e.body); err != nil {
				w.t.Errorf("an event is not JSON: %v: %s", err, m.Data)
			}
		}
		w.seen = append(w.seen, e)
	}
}

// stored reads a stream from a sequence on, as far as it can be read now.
func (w *world) stored(stream string, from uint64) []*jetstream.RawStreamMsg {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	s, err := w.js.Stream(ctx, stream)
	if err != nil {
		return nil
	}
	var found []*jetstream.RawStreamMsg
	state := s.CachedInfo().State
	for seq := max(from, state.FirstSeq); seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return found
		}
		found = append(found, m)
	}
	return found
}

// events returns the events of a key so far; "" gives all.
func (w *world) events(key string) []event {
	w.poll()
	if key == "" {
		return w.seen
	}
	var found []event
	for _, e := range w.seen {
		if e.key() == key {
			found = append(found, e)
		}
	}
	return found
}

// await waits for the first event of a key.
func (w *world) await(key string) event { w.t.Helper(); return w.awaitWhere(key, nil) }

// outcome waits for a provisioning or failed event that is not a rejection.
func (w *world) outcome(key string) event {
	w.t.Helper()
	return w.awaitWhere(key, func(e event) bool { return e.kind != "held" && e.at("rejected") != true })
}

// rejection waits for an event that answers a message which was not accepted.
func (w *world) rejection(key string) event {
	w.t.Helper()
	return w.awaitWhere(key, func(e event) bool { return e.at("rejected") == true })
}

func (w *world) awaitWhere(key string, is func(event) bool) event {
	w.t.Helper()
	var found event
	eventually(w.t, "an event of "+key, func() bool {
		for _, e := range w.events(key) {
			if is == nil || is(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// created waits for the deploy.provisioning of a key.
func (w *world) created(key string) event {
	w.t.Helper()
	e := w.outcome(key)
	if e.kind != "provisioning" {
		w.t.Fatalf("%s: want provisioning, have %s", key, e)
	}
	return e
}

// dead waits for the dead letter of a stored request.
func (w *world) dead(seq uint64) *jetstream.RawStreamMsg {
	w.t.Helper()
	var found *jetstream.RawStreamMsg
	eventually(w.t, fmt.Sprintf("the dead letter of sequence %d", seq), func() bool {
		found = w.letter(seq)
		return found != nil
	})
	return found
}

// letter returns the dead letter of a stored request if there is one now.
func (w *world) letter(seq uint64) *jetstream.RawStreamMsg {
	for _, m := range w.stored("DEPLOY_DEAD", w.lastDead+1) {
		w.lastDead = m.Sequence
		if w.buried == nil {
			w.buried = make(map[string]*jetstream.RawStreamMsg)
		}
		w.buried[headerOf(m.Header, "deploy-dead-sequence")] = m
	}
	return w.buried[strconv.FormatUint(seq, 10)]
}

// queue waits until this many requests are left in the stream.
func (w *world) queue(left uint64) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d requests are left", left), func() bool {
		s, err := w.js.Stream(w.t.Context(), "DEPLOY")
		return err == nil && s.CachedInfo().State.Msgs == left
	})
}

// bought counts the servers that the account was billed for, by name.
func (w *world) bought() map[string]int {
	n := make(map[string]int)
	for _, i := range w.sim.Invoices() {
		n[i.Name]++
	}
	return n
}

// creates returns the simulator's log for a name.
func (w *world) creates(name string) []simulator.Create {
	return slices.DeleteFunc(w.sim.Creates(), func(c simulator.Create) bool { return c.Name != name })
}

// record is what the ledger has of a key, read without the program; nil
// without one.
func (w *world) record(key string) *event {
	w.t.Helper()
	// Without a deadline the client takes one of its own, which is shorter.
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	kv, err := w.js.KeyValue(ctx, "deploy-ledger")
	if err != nil {
		return nil
	}
	e, err := kv.Get(ctx, "rec."+keyHash(key))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		w.t.Fatalf("read the record of %s: %v", key, err)
	}
	r := event{kind: "record", data: e.Value(), seq: e.Revision()}
	if err := json.Unmarshal(r.data, &r.body); err != nil {
		w.t.Fatalf("the record of %s is not JSON: %v", key, err)
	}
	return &r
}

// state waits until the record of a key is in a state. One that is held is
// announced then: that is stored after it, and would refuse a decision before.
func (w *world) state(key, want string) *event {
	w.t.Helper()
	var r *event
	eventually(w.t, key+" is "+want, func() bool {
		r = w.record(key)
		return r != nil && r.text("state") == want && (want != "held" || r.at("heldAnnounced") == r.at("held"))
	})
	return r
}

// plant puts a server of the size of order into the account that no worker
// bought.
func (w *world) plant(name string, change func(*simulator.VPS)) simulator.VPS {
	w.t.Helper()
	v := simulator.VPS{Name: name, IsPayg: true, Resources: simulator.Resources{CPUCores: 2, MemoryGB: 4, StorageGB: 80}}
	if change != nil {
		change(&v)
	}
	v, err := w.sim.Plant(v)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// cancel ends a server through the API, as its owner would.
func (w *world) cancel(id string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.api+"/api/v2/vps/"+id+"/actions/cancel", http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	resp, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	equal(w.t, "status of the cancellation", resp.StatusCode, http.StatusOK)
}

// idsOf lists the servers that the account has under a name, planted ones too.
func (w *world) idsOf(name string) []string {
	var ids []string
	for _, v := range w.sim.Servers() {
		if strings.EqualFold(v.Name, name) {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

// update changes the simulated account.
func (w *world) update(change func(*simulator.Config)) {
	w.t.Helper()
	if err := w.sim.Update(change); err != nil {
		w.t.Fatal(err)
	}
}

// keyHash is H of the contract, computed here and not by the program.
func keyHash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])[:32]
}

func bodyHash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])[:16]
}

// file writes a file below the test's directory.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// equal compares and says what was compared.
func equal[V comparable](t testing.TB, what string, got, want V) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}
