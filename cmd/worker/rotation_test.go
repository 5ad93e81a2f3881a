package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// roomy is an account that does not fill up.
func roomy() simulator.Config {
	return simulator.Config{Limits: simulator.Limits{CPUCores: 1 << 20, MemoryGB: 1 << 20, StorageGB: 1 << 30, Instances: 1 << 20}}
}

// impatient lets a request whose call was cut off from the ledger be looked up
// soon: nobody does before the call's time is over.
func (w *world) impatient() {
	w.env["HOSTUP_CREATE_TIMEOUT"], w.env["WORKER_DRAIN_TIMEOUT"] = "2s", "20s"
}

// flow places orders, one after the other, until it is stopped. Publishing goes
// on through whatever happens to the broker, as an ordering system does.
type flow struct {
	w      *world
	stop   context.CancelFunc
	done   sync.WaitGroup
	placed atomic.Int64
}

func (w *world) flow() *flow {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	f := &flow{w: w, stop: stop}
	w.t.Cleanup(func() { stop(); f.done.Wait() })
	f.done.Go(func() {
		for pace := time.NewTicker(30 * time.Millisecond); ctx.Err() == nil; <-pace.C {
			f.place(ctx, f.name(f.placed.Load()))
		}
	})
	return f
}

func (*flow) name(n int64) string { return fmt.Sprintf("flow-%d", n) }

// place publishes an order until it is confirmed; its id makes that harmless.
func (f *flow) place(ctx context.Context, name string) {
	body, err := json.Marshal(order(name, name))
	if err != nil {
		f.w.t.Error(err)
	}
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := f.w.js.Publish(try, "deploy.requested", body, jetstream.WithMsgID(name))
		cancel()
		if err == nil {
			f.placed.Add(1)
			return
		}
	}
}

// more waits until so many more orders are placed and answered.
func (f *flow) more(n int64) {
	f.w.t.Helper()
	want := f.placed.Load() + n
	eventually(f.w.t, "orders flow", func() bool { return f.placed.Load() >= want })
	f.w.created(f.name(want - 1))
}

// end stops it and judges by the account's invoices and by the events: every
// order has one server and one outcome. It returns how many there were.
func (f *flow) end() int64 {
	f.w.t.Helper()
	f.stop()
	f.done.Wait()
	n := f.placed.Load()
	for i := range n {
		f.w.created(f.name(i))
	}
	f.w.queue(0)
	bought := f.w.bought()
	for i := range n {
		one(f.w.t, f.w, f.name(i))
		equal(f.w.t, "servers of "+f.name(i), bought[f.name(i)], 1)
	}
	// One that was stored although nobody told so may be there, but not twice.
	once(f.w.t, f.w)
	return n
}

// The API key is made anew while orders flow: first the account takes the new one
// only, then the worker gets it.
func TestKeyRotates(t *testing.T) {
	t.Parallel()

	w := newWorld(t, roomy())
	key := file(t, "key", testToken)
	p := w.worker("HOSTUP_API_TOKEN=", "HOSTUP_API_TOKEN_FILE="+key)
	f := w.flow()
	f.more(5)
	for _, next := range []string{"second", "third"} {
		w.update(func(c *simulator.Config) { c.Token = next })
		p.ready(http.StatusServiceUnavailable) // some order has met the old one
		replace(t, key, []byte(next))
		p.ready(http.StatusOK)
		f.more(5)
	}
	if n := f.end(); n < 15 {
		t.Errorf("%d orders", n)
	}
	for _, e := range w.events("") {
		equal(t, "the answer to "+e.key(), e.kind, "provisioning")
	}
}

// The credentials for NATS are made anew and the old ones revoked, in the order
// in which it hurts: first the server refuses the old ones, and cuts their
// connection, then the file is replaced.
func TestCredentialsRotate(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	s := newSigned(t)
	_, text := s.creds("operator")
	mine := file(t, "operator.creds", string(text))
	old, text := s.creds("worker")
	theirs := file(t, "worker.creds", string(text))
	n := startNATS(t, s.conf(), nil)
	w := newWorldAt(t, roomy(), n.at(), nats.UserCredentials(mine), nats.CustomInboxPrefix("_INBOX_operator"))
	w.impatient()
	if r := command(t, w.with("NATS_CREDS="+mine, "NATS_INBOX_PREFIX=_INBOX_operator"), "setup"); r.code != exitDone {
		t.Fatal(r.err)
	}
	p := w.worker("WORKER_PROVISION=", "NATS_CREDS="+theirs, "NATS_INBOX_PREFIX=_INBOX_worker")
	f := w.flow()
	f.more(5)
	for round := range 2 {
		s.account.Revoke(old)
		s.write()
		n.reload()
		p.ready(http.StatusServiceUnavailable)
		if round == 1 {
			p.sees("authorization violation") // and is not given up for it
		}
		old, text = s.creds("worker")
		replace(t, theirs, text)
		p.ready(http.StatusOK)
		f.more(5)
	}
	f.end()
}

// All certificates and the authority that signs them are made anew while orders
// flow. A reload of the server leaves connections as they are and shows the new
// certificate to those who come; a restart makes everybody come again.
func TestCertificatesRotate(t *testing.T) {
	t.Parallel()

	w, n, c := tlsWorld(t, roomy())
	p := w.worker(c.asEnv("worker")...)
	f := w.flow()
	f.more(5)

	c.issueAll(newAuthority(t, "second"))
	n.reload()
	eventually(t, "the server shows its new certificate", func() bool {
		nc, err := nats.Connect(w.srv.URL, c.as("reader")...) // trusts the new authority only
		if err != nil {
			return false
		}
		nc.Close()
		return true
	})
	p.ready(http.StatusOK)
	f.more(5)

	n.restart()
	f.more(5)
	p.ready(http.StatusOK)
	p.sees(`"msg":"reconnected to NATS"`)
	f.end()
}

// A newer version of the worker and this one take turns at one request. What the
// newer wrote into the record, into an attempt and into the name's row is still
// there when this one is done with it.
func TestOlderVersionKeepsWhatANewerWrote(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	p := w.worker()
	const name = "fault-429-retry-after-12-x1-a"
	w.place(order("k", name))
	eventually(t, "one attempt was throttled", func() bool {
		r := w.record("k")
		return r != nil && r.text("state") == "accepted" && r.at("attempts") != nil
	})
	p.kill()
	rewrite(t, w, "rec."+keyHash("k"), func(r map[string]any) {
		r["lease"] = map[string]any{"until": "2031-01-01T00:00:00Z", "weight": json.Number("1.50")}
		r["attempts"].([]any)[0].(map[string]any)["zone"] = []any{"a", nil}
		r["request"].(map[string]any)["image"] = "debian-13"
	})
	rewrite(t, w, "name."+keyHash(name), func(r map[string]any) { r["pool"] = "p-1" })

	w.worker()
	w.created("k")
	r := w.state("k", "done")
	equal(t, "attempts", len(r.at("attempts").([]any)), 2)
	for what, want := range map[string]string{
		`"lease":{"until":"2031-01-01T00:00:00Z","weight":1.50}`: "the record", `"zone":["a",null]`: "the first attempt", `"image":"debian-13"`: "the request",
	} {
		if !strings.Contains(string(r.data), what) {
			t.Errorf("%s has lost %s: %s", want, what, r.data)
		}
	}
	eventually(t, "the name is released", func() bool {
		row, err := rowOf(t, w, "name."+keyHash(name))
		return err == nil && strings.Contains(string(row.Data), `"open":false`) && strings.Contains(string(row.Data), `"pool":"p-1"`)
	})
	one(t, w, "k")
	equal(t, "servers", w.bought()[name], 1)
}

func rowOf(t *testing.T, w *world, key string) (*jetstream.RawStreamMsg, error) {
	t.Helper()
	s, err := w.js.Stream(t.Context(), "KV_deploy-ledger")
	if err != nil {
		return nil, err
	}
	return s.GetLastMsgForSubject(t.Context(), "$KV.deploy-ledger."+key)
}

// rewrite changes a row of the ledger as another version would.
func rewrite(t *testing.T, w *world, key string, change func(map[string]any)) {
	t.Helper()
	m, err := rowOf(t, w, key)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(m.Data)))
	dec.UseNumber()
	var row map[string]any
	if err := dec.Decode(&row); err != nil {
		t.Fatal(err)
	}
	change(row)
	next := &nats.Msg{Subject: m.Subject, Header: maps.Clone(m.Header), Data: jsonOf(t, row)}
	for header := range next.Header {
		if strings.HasPrefix(header, "Nats-Expected") {
			next.Header.Del(header)
		}
	}
	if _, err := w.js.PublishMsg(t.Context(), next, jetstream.WithExpectLastSequencePerSubject(m.Sequence)); err != nil {
		t.Fatal(err)
	}
}

// The old version is replaced by the new one, replica by replica, while orders
// flow: the new one is up before the old one goes.
func TestUpgradeWhileOrdersFlow(t *testing.T) {
	t.Parallel()

	w := newWorld(t, roomy())
	old := []*process{w.worker(), w.worker()}
	f := w.flow()
	f.more(5)
	for _, p := range old {
		w.worker()
		p.signal(syscall.SIGTERM)
		equal(t, "exit code", p.exit(), exitDone)
		f.more(5)
	}
	f.end()
}
