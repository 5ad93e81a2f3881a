package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// announce stores events as a worker would.
func announce(t *testing.T, w *world, kind provision.Kind, keys ...string) {
	t.Helper()
	for _, key := range keys {
		m, err := events.Encode("deploy", provision.Event{ID: key + "." + string(kind), Kind: kind, Key: key, Problem: []byte(`{}`)})
		if err == nil {
			_, err = w.js.PublishMsg(t.Context(), m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// numbered are keys in their order.
func numbered(from, to int) (keys []string) {
	for i := from; i < to; i++ {
		keys = append(keys, fmt.Sprintf("order-%02d", i))
	}
	return keys
}

// keysIn are the keys of events that were printed as lines of JSON.
func keysIn(t *testing.T, out string) string {
	t.Helper()
	var keys []string
	for line := range strings.Lines(out) {
		var e struct {
			Key     string `json:"idempotencyKey"`
			Subject string `json:"subject"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || !strings.HasPrefix(e.Subject, "deploy.") {
			t.Fatalf("%v: %s", err, line)
		}
		keys = append(keys, e.Key)
	}
	return strings.Join(keys, " ")
}

// readsOn runs the reader and wants these events of it.
func (w *world) readsOn(want []string, args ...string) {
	w.t.Helper()
	out := w.ok("reader", append([]string{"events", "--reader", "reader", "-o", "jsonl"}, args...)...)
	equal(w.t, fmt.Sprintf("what the reader gets with %v", args), keysIn(w.t, out), strings.Join(want, " "))
}

// taken waits until nobody has an event in hand.
func (w *world) taken() {
	w.t.Helper()
	eventually(w.t, "every event that was given is acked", func() bool {
		cons, err := w.js.Consumer(w.t.Context(), "DEPLOY_EVENTS", "reader")
		return err == nil && cons.CachedInfo().NumAckPending == 0
	})
}

// impatientReader makes what the reader did not ack come again soon.
func (w *world) impatientReader() {
	w.t.Helper()
	cons, err := w.js.Consumer(w.t.Context(), "DEPLOY_EVENTS", "reader")
	if err == nil {
		c := cons.CachedInfo().Config
		c.AckWait = 50 * time.Millisecond
		_, err = w.js.UpdateConsumer(w.t.Context(), "DEPLOY_EVENTS", c)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// A reader gets every outcome in its order, whatever ended the one before: a
// count, the end of what is stored, an interrupt, a kill; and what another had in
// hand and did not ack.
func TestReaderReadsOn(t *testing.T) {
	t.Parallel()

	w := shippedWorld(t, simulator.Config{})
	announce(t, w, provision.KindProvisioning, numbered(0, 12)...)
	w.readsOn(numbered(0, 5), "--count", "5")
	w.readsOn(numbered(5, 6), "--count", "1")
	w.readsOn(numbered(6, 8), "--count", "2", "--no-follow")
	w.readsOn(numbered(8, 12), "--no-follow")
	w.readsOn(nil, "--no-follow")

	// What a filter leaves out is read as well.
	announce(t, w, provision.KindFailed, numbered(12, 14)...)
	announce(t, w, provision.KindHeld, numbered(14, 16)...)
	w.readsOn(numbered(13, 14), "--key", "order-13", "--count", "1")
	w.readsOn(numbered(15, 16), "--kind", "held", "--key", "order-15", "--no-follow")

	announce(t, w, provision.KindFailed, numbered(16, 19)...)
	_, js := brokertest.Connect(t, w.srv, as("reader")...)
	cons, err := js.Consumer(t.Context(), "DEPLOY_EVENTS", "reader")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := cons.Next(jetstream.FetchMaxWait(patience)); err != nil || headerOf(m.Headers(), "ce-subject") != "order-16" {
		t.Fatalf("%v, %v", m, err)
	}
	w.readsOn(numbered(16, 19), "--no-follow")

	for i, end := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		key := numbered(20+i, 21+i)
		p := start(t, w.with(asEnv("reader")...), "events", "--reader", "reader", "-o", "jsonl")
		announce(t, w, provision.KindFailed, key...)
		eventually(t, "it is printed", func() bool { return strings.Contains(p.out.String(), "\n") })
		w.taken()
		p.signal(end)
		p.exit()
		equal(t, "what was printed", keysIn(t, p.out.String()), key[0])
	}
	announce(t, w, provision.KindFailed, numbered(30, 33)...)
	w.readsOn(numbered(30, 33), "--count", "3")
	w.readsOn(nil, "--no-follow")
}

// The broker answers on the subject that a question names, and delivers to the
// one that a consumer names. A reader must not have it do so in the ledger, where
// that would replace a row, nor anywhere else where something listens.
func TestReaderIsAnsweredNowhereElse(t *testing.T) {
	t.Parallel()

	w := shippedWorld(t, simulator.Config{})
	w.ok("operator", "pause", "--reason", "so that there is a row")
	brake, err := rowOf(t, w, "ctl.brake")
	if err != nil {
		t.Fatal(err)
	}
	announce(t, w, provision.KindFailed, numbered(0, 20)...)
	w.impatientReader()
	// What may not even be asked is told to this handler; that is another test.
	nc, js := brokertest.Connect(t, w.srv, append(as("reader"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	cons, err := js.Consumer(t.Context(), "DEPLOY_EVENTS", "reader")
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	ask := func(subject, reply, body string) {
		t.Helper()
		asked = append(asked, subject)
		if err := nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	const api = "$JS.API."
	for i, reply := range []string{
		"$KV.deploy-ledger.ctl.brake", "$KV.deploy-ledger.rec.x", "deploy.requested", "deploy.provisioning", "deploy.dead",
		api + "STREAM.PURGE.DEPLOY_EVENTS", api + "STREAM.MSG.DELETE.KV_deploy-ledger", api + "CONSUMER.CREATE.DEPLOY_EVENTS.thief",
		api + "CONSUMER.MSG.NEXT.DEPLOY_EVENTS.reader", "$JS.ACK.DEPLOY.deploy-worker.1.1.1.1.0", "_R_.x.y",
	} {
		ask(api+"STREAM.INFO.DEPLOY_EVENTS", reply, "")
		ask(api+"CONSUMER.INFO.DEPLOY_EVENTS.reader", reply, "")
		thief := fmt.Sprintf("thief-%d", i)
		ask(api+"CONSUMER.CREATE.DEPLOY_EVENTS."+thief, reply, fmt.Sprintf(
			`{"stream_name":"DEPLOY_EVENTS","config":{"name":%q,"deliver_policy":"all","ack_policy":"none","deliver_subject":%q}}`, thief, reply))
		for _, pull := range []string{"", "2", "nonsense", `{"batch":2,"no_wait":true}`, `{"batch":2,"expires":60000000000,"idle_heartbeat":10000000}`} {
			ask(api+"CONSUMER.MSG.NEXT.DEPLOY_EVENTS.reader", reply, pull)
		}
		m, err := cons.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Errorf("asked to answer to %s, the broker gives the reader no event: %v", reply, err)
			break
		}
		for _, ack := range []string{"+WPI", "-NAK", "+NXT", `+NXT {"batch":2}`, "+TERM enough", "+ACK", ""} {
			ask(m.Reply(), reply, ack)
		}
	}
	for _, pattern := range publishes(t, "reader") {
		if !slices.ContainsFunc(asked, func(s string) bool { return strings.HasPrefix(s, strings.TrimSuffix(pattern, ">")) }) {
			t.Errorf("the reader may publish on %s, and it was not asked", pattern)
		}
	}
	w.holds(map[string]uint64{"KV_deploy-ledger": brake.Sequence, "DEPLOY": 0, "DEPLOY_EVENTS": 20, "DEPLOY_DEAD": 0})
	if t.Failed() {
		return
	}
	// Behind them all: what was to be answered is.
	announce(t, w, provision.KindFailed, "last")
	if out := w.ok("reader", "events", "--reader", "reader", "--no-follow"); !strings.Contains(out, "last") {
		t.Errorf("the reader does not read on:\n%s", out)
	}
	w.holds(map[string]uint64{"KV_deploy-ledger": brake.Sequence, "DEPLOY": 0, "DEPLOY_EVENTS": 21, "DEPLOY_DEAD": 0})
}

// holds wants streams to have got so many messages, none of which was removed,
// and the events no other consumer than the reader's.
func (w *world) holds(messages map[string]uint64) {
	w.t.Helper()
	for stream, want := range messages {
		s, err := w.js.Stream(w.t.Context(), stream)
		if err != nil {
			w.t.Fatal(err)
		}
		state := s.CachedInfo().State
		equal(w.t, "last sequence of "+stream, state.LastSeq, want)
		equal(w.t, "number of removed ones in "+stream, state.NumDeleted, 0)
		equal(w.t, "first sequence of "+stream, state.FirstSeq, min(want, 1))
		if stream == "DEPLOY_EVENTS" {
			equal(w.t, "consumers of the events", state.Consumers, 1)
		}
	}
}

// publishes are the subjects that a user of nats-accounts.conf may publish on.
func publishes(t *testing.T, user string) []string {
	t.Helper()
	for _, account := range accountsShipped(t) {
		for _, u := range account.Users {
			if u.User == user {
				return u.Permissions.Publish.Allow
			}
		}
	}
	t.Fatalf("%s is in no account", user)
	return nil
}
