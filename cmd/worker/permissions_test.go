package main

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// shippedWorld is a world around a nats-server with one of the files that we
// ship, set up by its operator, in which nobody has more rights than the file
// gives. The person who looks is the operator.
func shippedWorld(t *testing.T, cfg simulator.Config) *world {
	t.Helper()
	takeSlot(t)
	n := startNATS(t, deployFile("nats.conf"), passwords())
	w := newWorldAt(t, cfg, n.at(), as("operator")...)
	delete(w.env, "WORKER_PROVISION")
	w.ok("operator", "setup", "--reader", "reader")
	return w
}

// ok runs a command as one of the users and wants it to succeed.
func (w *world) ok(user string, args ...string) string {
	w.t.Helper()
	r := command(w.t, w.with(asEnv(user)...), args...)
	if r.code != exitDone {
		w.t.Fatalf("as %s, worker %v ended with %d\n%s%s", user, args, r.code, r.out, r.err)
	}
	w.permitted(r.err)
	return r.out
}

// permitted looks through a log for what the broker refused.
func (w *world) permitted(log string) {
	w.t.Helper()
	for line := range strings.Lines(log) {
		if strings.Contains(strings.ToLower(line), "permission") {
			w.t.Errorf("the broker refused something: %s", line)
		}
	}
}

// With its own rights only the worker does all of its work: an order, one whose
// answer was lost, one that nobody can read, one that waits for a brake, one
// whose message is gone. The doctor finds nothing missing. And people have what
// they need for their commands.
func TestShippedPermissionsSuffice(t *testing.T) {
	t.Parallel()

	w := shippedWorld(t, simulator.Config{Faults: []simulator.Rule{rule(t, "found*/cut-after"), rule(t, "held*/cut-after")}})
	for _, user := range []string{"worker", "operator"} {
		doctored(t, w, asEnv(user)...).only(t, "the doctor as "+user, "durability")
	}
	p := w.worker(append(asEnv("worker"), sweeping...)...)
	live := start(t, w.with(asEnv("operator")...), "events", "--count", "1")
	eventually(t, "the operator follows", func() bool {
		s, err := w.js.Stream(t.Context(), "DEPLOY_EVENTS")
		return err == nil && s.CachedInfo().State.Consumers > 1
	})
	publisher, orders := brokertest.Connect(t, w.srv, as("publisher")...)
	// One after the other, so that their outcomes have an order.
	for _, o := range []struct {
		subject, key string
		adopted      bool
	}{{"deploy.requested", "plain", false}, {"deploy.requested.batch", "found", true}} {
		if _, err := orders.Publish(t.Context(), o.subject, jsonOf(t, order(o.key, o.key+"-a"))); err != nil {
			t.Fatalf("an order by the publisher: %v", err)
		}
		// A call that takes longer than its timeout is adopted, too.
		if e := w.created(o.key); o.adopted {
			equal(t, "adopted", e.at("adopted"), any(true))
		}
	}
	if publisher.LastError() != nil {
		t.Error(publisher.LastError())
	}
	w.dead(w.publish(jsonOf(t, order("", "letter-a")), nil))

	// The brake comes and goes by the watch; what waits for it is driven by the
	// sweep when its message is gone.
	w.ok("operator", "pause", "--reason", "a look at the rights")
	p.ready(http.StatusServiceUnavailable)
	seq := w.publish(jsonOf(t, order("swept", "swept-a")), nil)
	w.state("swept", "accepted")
	s, err := w.js.Stream(t.Context(), "DEPLOY")
	if err == nil {
		err = s.DeleteMsg(t.Context(), seq)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.ok("operator", "resume", "--reason", "seen")
	w.created("swept")
	w.queue(0)
	p.ready(http.StatusOK)

	equal(t, "exit code of who waits for an event", live.exit(), exitDone)
	w.permitted(live.err.String())
	reads(t, w)
	others(t, w)
	decides(t, w, p)
	w.permitted(p.err.String())
	p.signal(syscall.SIGINT)
	equal(t, "exit code", p.exit(), exitDone)
	for _, key := range []string{"plain", "found", "swept", "late"} {
		one(t, w, key)
		equal(t, "servers of "+key, w.bought()[key+"-a"], 1)
	}
}

// reads runs everything that people only look with.
func reads(t *testing.T, w *world) {
	t.Helper()
	for _, c := range []struct{ user, args, says string }{
		{"operator", "list -o jsonl", `"idempotencyKey":"swept"`},
		{"operator", "list --state held -o json", "[]"},
		{"operator", "get plain", "plain-a"},
		{"operator", "explain found", "adopted"},
		{"operator", "dead list", "no-key"},
		{"operator", "dead show 1", "letter-a"},
		{"operator", "audit", ""},
		{"operator", "setup --dry-run --reader reader", "keep"},
		{"operator", "events --from-beginning --count 3", "plain"},
		{"reader", "events --reader reader --count 1", "plain"},
		{"operator", "events --reader reader --count 1", "found"},
		{"reader", "events --reader reader --no-follow", "swept"},
	} {
		if out := w.ok(c.user, strings.Fields(c.args)...); !strings.Contains(out, c.says) {
			t.Errorf("as %s, worker %s does not say %q:\n%s", c.user, c.args, c.says, out)
		}
	}
	// The screen, without a terminal.
	screen := &watch{js: w.js, place: placeSettings{Stream: "DEPLOY", Consumer: "deploy-worker"}}
	if lanes, err := screen.queue(t.Context()); err != nil || len(lanes) != 2 {
		t.Errorf("top: %v, %v", lanes, err)
	}
}

// others is what other systems do that read outcomes, and what cannot be seen.
func others(t *testing.T, w *world) {
	t.Helper()
	nc, js := brokertest.Connect(t, w.srv, as("reader")...)
	heard, err := nc.SubscribeSync("deploy.failed")
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	announce(t, w, provision.KindFailed, "other")
	if m, err := heard.NextMsg(patience); err != nil || headerOf(m.Header, "ce-subject") != "other" {
		t.Errorf("who listens hears %v, %v", m, err)
	}
	cons, err := js.Consumer(t.Context(), "DEPLOY_EVENTS", "reader")
	if err != nil {
		t.Fatal(err)
	}
	messages, err := cons.Messages() // as the client would have it
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	for _, answer := range []func(jetstream.Msg) error{
		jetstream.Msg.Nak,
		func(m jetstream.Msg) error { return m.NakWithDelay(time.Millisecond) },
		func(m jetstream.Msg) error { return errors.Join(m.InProgress(), m.DoubleAck(t.Context())) },
	} {
		m, err := messages.Next()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "subject", m.Subject(), "deploy.failed")
		equal(t, "key", headerOf(m.Headers(), "ce-subject"), "other")
		if err := answer(m); err != nil {
			t.Error(err)
		}
	}
	info, err := cons.Info(t.Context())
	if err != nil || info.NumPending != 0 || info.NumAckPending != 0 || nc.LastError() != nil {
		t.Errorf("%+v, %v, %v", info, err, nc.LastError())
	}
	// Only after a lost connection, and best effort: nothing else shows it.
	operator, _ := brokertest.Connect(t, w.srv, as("operator")...)
	for _, stream := range []string{"DEPLOY_EVENTS", "DEPLOY_DEAD"} {
		if _, err := operator.Request("$JS.API.CONSUMER.DELETE."+stream+".nobody", nil, patience); err != nil {
			t.Errorf("%s: %v", stream, err)
		}
	}
}

// decides runs what people change something with.
func decides(t *testing.T, w *world, p *process) {
	t.Helper()
	w.ok("operator", "submit", "--key", "late", "--name", "late-a", "--cpu-cores", "2", "--memory-gb", "4", "--storage-gb", "80", "--region", "stockholm", "--lane", "batch", "--wait")
	w.ok("operator", "dead", "replay", "1", "--new-key", "--yes")
	eventually(t, "the letter is replayed", func() bool { return w.bought()["letter-a"] == 1 })
	w.plant("held-a", nil)
	w.plant("held-a", nil)
	w.place(order("held", "held-a"))
	w.state("held", "held")
	w.ok("operator", "resolve", "held", "--abandon", "--reason", "two of them")
	equal(t, "reason", w.outcome("held").text("reason"), "abandoned")
	p.ready(http.StatusOK)
}

// What nobody needs is refused: each of these, to each of these users.
func TestShippedPermissionsRefuse(t *testing.T) {
	t.Parallel()

	w := shippedWorld(t, simulator.Config{})
	const api = "$JS.API."
	everybody := []string{
		api + "STREAM.DELETE.DEPLOY", api + "STREAM.DELETE.KV_deploy-ledger", api + "STREAM.DELETE.DEPLOY_EVENTS", api + "STREAM.DELETE.DEPLOY_DEAD",
		api + "STREAM.PURGE.DEPLOY", api + "STREAM.PURGE.KV_deploy-ledger", api + "STREAM.PURGE.DEPLOY_EVENTS",
		api + "STREAM.CREATE.OTHER", api + "STREAM.UPDATE.OTHER", api + "STREAM.NAMES", api + "STREAM.LIST", api + "STREAM.SNAPSHOT.OTHER", api + "STREAM.RESTORE.OTHER",
		api + "STREAM.MSG.DELETE.KV_deploy-ledger", api + "STREAM.MSG.DELETE.DEPLOY_EVENTS", api + "STREAM.MSG.DELETE.DEPLOY_DEAD",
		api + "CONSUMER.DELETE.DEPLOY.deploy-worker", api + "CONSUMER.PAUSE.DEPLOY.deploy-worker", api + "CONSUMER.DELETE.KV_deploy-ledger.nobody",
		api + "CONSUMER.CREATE.DEPLOY.thief.deploy.requested", api + "CONSUMER.CREATE.DEPLOY", api + "CONSUMER.MSG.NEXT.DEPLOY.thief",
		api + "SERVER.REMOVE", api + "META.LEADER.STEPDOWN", api + "ACCOUNT.PURGE.DEPLOY",
		"$SYS.REQ.SERVER.PING", "$KV.other.rec.x", "other", "deploy", "deploy.requested.other",
	}
	changes := []string{
		api + "STREAM.SNAPSHOT.KV_deploy-ledger", api + "STREAM.RESTORE.DEPLOY",
		api + "STREAM.CREATE.DEPLOY", api + "STREAM.UPDATE.DEPLOY", api + "STREAM.UPDATE.KV_deploy-ledger",
		api + "CONSUMER.CREATE.DEPLOY.deploy-worker.deploy.requested",
	}
	orders := []string{"deploy.requested", "deploy.requested.batch"}
	works := []string{
		"deploy.provisioning", "deploy.failed", "deploy.held", "deploy.dead",
		"$KV.deploy-ledger.rec.x", "$KV.deploy-ledger.ctl.brake", api + "STREAM.MSG.GET.KV_deploy-ledger", api + "CONSUMER.CREATE.KV_deploy-ledger.x.$KV.deploy-ledger.>",
		api + "CONSUMER.MSG.NEXT.DEPLOY.deploy-worker", "$JS.ACK.DEPLOY.deploy-worker.1.1.1.1.1", api + "STREAM.MSG.GET.DEPLOY", api + "STREAM.MSG.DELETE.DEPLOY",
	}
	reading := []string{api + "CONSUMER.CREATE.DEPLOY_EVENTS.x.deploy.failed", api + "STREAM.MSG.GET.DEPLOY_EVENTS"}
	elsewhere := []string{
		api + "INFO", api + "STREAM.INFO.DEPLOY", api + "STREAM.INFO.DEPLOY_EVENTS", api + "CONSUMER.DELETE.DEPLOY_EVENTS.reader", api + "CONSUMER.RESET.DEPLOY_EVENTS.reader",
		api + "CONSUMER.INFO.DEPLOY_EVENTS.billing", api + "CONSUMER.MSG.NEXT.DEPLOY_EVENTS.billing", "$JS.ACK.DEPLOY_EVENTS.billing.1.1.1.1.1",
	}
	letters := []string{api + "STREAM.MSG.GET.DEPLOY_DEAD", api + "CONSUMER.CREATE.DEPLOY_DEAD.x.deploy.dead"}
	inboxes := []string{"_INBOX.>", ">", "$KV.>", "$JS.>", "deploy.requested", "deploy.dead", "$SYS.>"}
	inboxesBut := func(user string) []string {
		all := []string{"_INBOX_worker.>", "_INBOX_publisher.>", "_INBOX_reader.>", "_INBOX_operator.>"}
		return slices.DeleteFunc(all, func(s string) bool { return s == "_INBOX_"+user+".>" })
	}
	for user, forbidden := range map[string][]string{
		"worker":    slices.Concat(everybody, changes, orders, reading, letters),
		"publisher": slices.Concat(everybody, changes, works, reading, letters, elsewhere),
		"reader":    slices.Concat(everybody, changes, orders, works, reading, letters, elsewhere),
		"operator":  everybody,
	} {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			heard := slices.Concat(inboxes, inboxesBut(user))
			if user != "reader" {
				heard = append(heard, "deploy.failed")
			}
			refuses(t, w.srv, user, as(user), forbidden, heard)
		})
	}
	// Without a password nobody comes in, and nobody with that of another.
	for _, opts := range [][]nats.Option{nil, {nats.UserInfo("operator", "w-secret")}, {nats.UserInfo("system", "")}} {
		if nc, err := nats.Connect(w.srv.URL, append(opts, nats.Timeout(patience))...); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("connect: %v", err)
			nc.Close()
		}
	}
}

// refuses publishes on subjects and subscribes to others as a user, and wants
// each of them to be refused.
func refuses(t *testing.T, srv *brokertest.Server, user string, who []nats.Option, publish, subscribe []string) {
	t.Helper()
	var mu sync.Mutex
	refused := make(map[string]bool)
	nc, _ := brokertest.Connect(t, srv, append(who, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		mu.Lock()
		defer mu.Unlock()
		if _, subject, ok := strings.Cut(err.Error(), `"`); ok && errors.Is(err, nats.ErrPermissionViolation) {
			kind := "publish "
			if strings.Contains(strings.ToLower(err.Error()), "subscription") {
				kind = "subscribe "
			}
			subject, _, _ = strings.Cut(subject, `"`)
			refused[kind+strings.ToLower(subject)] = true
		}
	}))...)
	var want []string
	for _, subject := range publish {
		if err := nc.PublishMsg(&nats.Msg{Subject: subject, Reply: "_INBOX_" + user + ".nobody", Data: []byte("{")}); err != nil {
			t.Fatal(err)
		}
		want = append(want, "publish "+strings.ToLower(subject))
	}
	for _, subject := range subscribe {
		if _, err := nc.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		want = append(want, "subscribe "+strings.ToLower(subject))
	}
	// This one is permitted, and told behind all refusals.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	// The errors are told by a goroutine of their own.
	missing := func() (names []string) {
		mu.Lock()
		defer mu.Unlock()
		for _, w := range want {
			if !refused[w] {
				names = append(names, w)
			}
		}
		return names
	}
	end := time.After(patience)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for len(missing()) > 0 {
		select {
		case <-again.C:
		case <-end:
			t.Fatalf("%s may: %s", user, strings.Join(missing(), ", "))
		}
	}
}

// The orders of one system reach the stream, and nothing else of it is shown to
// the publisher: the answer is all.
func TestPublisherIsAnswered(t *testing.T) {
	t.Parallel()

	w := shippedWorld(t, simulator.Config{})
	_, js := brokertest.Connect(t, w.srv, as("publisher")...)
	ack, err := js.Publish(t.Context(), "deploy.requested", jsonOf(t, order("k", "web-1")), jetstream.WithMsgID("once"))
	if err != nil || ack.Stream != "DEPLOY" || ack.Sequence != 1 {
		t.Fatalf("%+v, %v", ack, err)
	}
	again, err := js.Publish(t.Context(), "deploy.requested", jsonOf(t, order("k", "web-1")), jetstream.WithMsgID("once"))
	if err != nil || !again.Duplicate {
		t.Errorf("%+v, %v", again, err)
	}
}

// The broker confirms an order on the subject that its sender names, with no
// regard to what the sender may publish on. A publisher must not have it answer
// into the ledger, where that would replace a row, nor into the events.
func TestPublisherIsAnsweredNowhereElse(t *testing.T) {
	t.Parallel()

	w := shippedWorld(t, simulator.Config{})
	w.ok("operator", "pause", "--reason", "so that there is a row")
	brake, err := rowOf(t, w, "ctl.brake")
	if err != nil {
		t.Fatal(err)
	}
	nc, js := brokertest.Connect(t, w.srv, as("publisher")...)
	for _, reply := range []string{"$KV.deploy-ledger.ctl.brake", "$KV.deploy-ledger.rec.x", "deploy.provisioning", "deploy.dead", "$JS.API.STREAM.PURGE.DEPLOY_EVENTS"} {
		if err := nc.PublishMsg(&nats.Msg{Subject: "deploy.requested", Reply: reply, Data: jsonOf(t, order("k", "web-1"))}); err != nil {
			t.Fatal(err)
		}
	}
	// Behind them all: each stream has what it got before it tells of itself.
	if _, err := js.Publish(t.Context(), "deploy.requested", jsonOf(t, order("last", "web-2"))); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]uint64{"DEPLOY": 6, "KV_deploy-ledger": brake.Sequence, "DEPLOY_EVENTS": 0, "DEPLOY_DEAD": 0} {
		s, err := w.js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "messages in "+stream, s.CachedInfo().State.LastSeq, want)
	}
}
