package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// cluster starts three servers with exactly the file that we ship for a cluster,
// but for where they listen.
func cluster(t *testing.T) []*natsd {
	t.Helper()
	ports := freePorts(t, 3)
	var routes []string
	for _, port := range ports {
		routes = append(routes, `"nats://route:route-secret@127.0.0.1:`+port+`"`)
	}
	var servers []*natsd
	for i, port := range ports {
		env := passwords()
		env["NATS_SERVER_NAME"], env["DEPLOY_NATS_ROUTE"] = fmt.Sprintf("nats-%d", i+1), "route-secret"
		env["DEPLOY_NATS_ROUTES"] = "[" + strings.Join(routes, ",") + "]"
		servers = append(servers, startNATS(t, deployFile("nats-cluster.conf"), env, "-cluster", "nats://route:route-secret@127.0.0.1:"+port))
	}
	return servers
}

// clustered is a world around servers of a cluster that has found its leader.
func clustered(t *testing.T, servers []*natsd) *world {
	t.Helper()
	var urls []string
	for _, n := range servers {
		urls = append(urls, n.at().URL)
	}
	w := newWorldAt(t, roomy(), &brokertest.Server{URL: strings.Join(urls, ",")}, as("operator")...)
	w.impatient()
	delete(w.env, "WORKER_PROVISION")
	eventually(t, "the three have found each other", func() bool {
		_, err := w.js.AccountInfo(t.Context())
		return err == nil // JetStream has a leader
	})
	return w
}

// Setup makes three copies of everything, the worker works with its own rights,
// and goes on when the server is killed that leads its ledger. So does a reader,
// whichever of the three he is connected to.
func TestShippedCluster(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	servers := cluster(t)
	w := clustered(t, servers)
	eventually(t, "setup", func() bool {
		return command(t, w.with(asEnv("operator")...), "setup", "--replicas", "3", "--reader", "reader").code == exitDone
	})
	w.allCopied()

	p := w.worker(asEnv("worker")...)
	f := w.flow()
	f.more(3)
	reading := []string{"events", "--reader", "reader", "-o", "jsonl"}
	var read strings.Builder
	for _, n := range servers {
		r := command(t, w.with(append(asEnv("reader"), "NATS_URL="+n.at().URL)...), append(reading, "--count", "2")...)
		equal(t, "exit code of a reader at "+n.env["NATS_SERVER_NAME"], r.code, exitDone)
		read.WriteString(r.out)
	}
	reader := start(t, w.with(asEnv("reader")...), reading...)
	eventually(t, "the reader follows", func() bool { return reader.out.String() != "" })
	s, err := w.js.Stream(t.Context(), "KV_deploy-ledger")
	if err != nil {
		t.Fatal(err)
	}
	leader := s.CachedInfo().Cluster.Leader
	for _, n := range servers {
		if n.env["NATS_SERVER_NAME"] == leader {
			n.kill()
		}
	}
	f.more(3)
	p.ready(http.StatusOK)
	w.permitted(p.err.String())
	f.end()
	last := uint64(len(w.events("")))
	eventually(t, "the reader has read all", func() bool { return strings.Contains(reader.out.String(), fmt.Sprintf(`"sequence":%d,`, last)) })
	reader.signal(syscall.SIGINT)
	equal(t, "exit code of the reader", reader.exit(), exitInterrupted)
	read.WriteString(reader.out.String())
	next := uint64(1)
	for line := range strings.Lines(read.String()) {
		var e struct {
			Sequence uint64 `json:"sequence"`
			Subject  string `json:"subject"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Sequence != next || e.Subject != "deploy.provisioning" {
			t.Fatalf("%v, not event %d: %s", err, next, line)
		}
		next++
	}
}

// allCopied waits until the doctor finds nothing to say against three copies of
// everything. While they are made, or a leader changes, it does.
func (w *world) allCopied() {
	w.t.Helper()
	eventually(w.t, "the doctor is content", func() bool {
		r := command(w.t, w.with(asEnv("worker")...), "doctor", "-o", "json")
		return r.code == exitDone && !strings.Contains(r.out, `"status": "warning"`)
	})
}

// One server with its orders becomes three, as docs/deploying.md tells it: with
// the worker stopped, the streams are backed up on the old one and restored on
// the new ones, then setup makes three copies. What was done stays done, what
// waits is taken, and only once.
func TestFromOneServerToThree(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	first := startNATS(t, deployFile("nats.conf"), passwords())
	old := newWorldAt(t, roomy(), first.at(), as("operator")...)
	delete(old.env, "WORKER_PROVISION")
	old.ok("operator", "setup")
	p := old.worker(asEnv("worker")...)
	old.place(order("before", "before"))
	old.created("before")
	old.state("before", "done")
	p.signal(syscall.SIGTERM)
	equal(t, "exit code", p.exit(), exitDone)
	old.place(order("waiting", "waiting"))
	streams := []string{"DEPLOY", "DEPLOY_EVENTS", "DEPLOY_DEAD", "KV_deploy-ledger"}
	kept := make(map[string]backup)
	for _, stream := range streams {
		kept[stream] = backUp(t, old.nc, stream)
	}

	w := clustered(t, cluster(t))
	for _, stream := range streams {
		restore(t, w.nc, stream, kept[stream])
	}
	var r result
	eventually(t, "setup", func() bool { // a server that has just come may not be counted yet
		r = command(t, w.with(asEnv("operator")...), "setup", "--replicas", "3")
		return r.code == exitDone
	})
	w.permitted(r.err)
	w.allCopied()
	w.env["HOSTUP_API_URL"] = old.env["HOSTUP_API_URL"] // the same account
	w.worker(asEnv("worker")...)
	w.created("waiting")
	again := &flow{w: w}
	again.place(t.Context(), "before") // a duplicate, as it was
	w.queue(0)
	for _, key := range []string{"before", "waiting"} {
		one(t, w, key)
		equal(t, "servers of "+key, old.bought()[key], 1)
	}
}

// backup is a stream with its consumers, as `nats stream backup` keeps it.
type backup struct {
	about struct {
		Config json.RawMessage `json:"config"`
		State  json.RawMessage `json:"state"`
	}
	chunks [][]byte
}

func backUp(t *testing.T, nc *nats.Conn, stream string) (b backup) {
	t.Helper()
	to := nc.NewInbox()
	sub, err := nc.SubscribeSync(to)
	if err != nil {
		t.Fatal(err)
	}
	answer := apiRequest(t, nc, "STREAM.SNAPSHOT."+stream, map[string]any{"deliver_subject": to, "chunk_size": 64 << 10})
	if err := json.Unmarshal(answer, &b.about); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatalf("back up %s: %v", stream, err)
		}
		if len(m.Data) == 0 {
			return b
		}
		b.chunks = append(b.chunks, m.Data)
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func restore(t *testing.T, nc *nats.Conn, stream string, b backup) {
	t.Helper()
	var to struct {
		Subject string `json:"deliver_subject"`
	}
	if err := json.Unmarshal(apiRequest(t, nc, "STREAM.RESTORE."+stream, b.about), &to); err != nil {
		t.Fatal(err)
	}
	for _, chunk := range append(b.chunks, nil) {
		eventually(t, "a part of "+stream+" is taken", func() bool {
			_, err := nc.Request(to.Subject, chunk, patience)
			// Another server than the one asked takes it, and has to be heard of.
			if err != nil && !errors.Is(err, nats.ErrNoResponders) {
				t.Fatalf("restore %s: %v", stream, err)
			}
			return err == nil
		})
	}
}

func apiRequest(t *testing.T, nc *nats.Conn, subject string, body any) json.RawMessage {
	t.Helper()
	m, err := nc.Request("$JS.API."+subject, jsonOf(t, body), patience)
	if err != nil || strings.Contains(string(m.Data), `"error"`) {
		t.Fatalf("%s: %v, %s", subject, err, m.Data)
	}
	return m.Data
}

// freePorts are ports that nobody listened on a moment ago.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // not before all are found
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}
