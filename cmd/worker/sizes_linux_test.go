package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var sizes = flag.Int("sizes", 0, "measure what so many orders leave on the broker, for docs/deploying.md")

var copies = flag.Int("sizes-copies", 100_000, "how many finished orders -sizes adds by copying one, to see what the broker keeps of each in memory")

var memory = flag.String("sizes-memory", "1GiB", "GOMEMLIMIT of the nats-server that -sizes measures")

// TestSizes measures what orders cost that are done: disk and memory of a
// nats-server with the shipped configuration, memory of the worker. Its figures
// are those of docs/deploying.md:
//
//	go test ./cmd/worker -run TestSizes -sizes 40000 -v -timeout 30m
func TestSizes(t *testing.T) {
	t.Parallel()
	if *sizes == 0 {
		t.Log("only with -sizes N")
		return
	}
	takeSlot(t)
	env := passwords()
	env["GOMEMLIMIT"] = *memory
	n := startNATS(t, deployFile("nats.conf"), env)
	w := newWorldAt(t, roomy(), n.at(), as("operator")...)
	delete(w.env, "WORKER_PROVISION")
	w.ok("operator", "setup")
	p := w.worker(append(asEnv("worker"), "WORKER_CONCURRENCY=64")...)
	empty := map[string]int64{"nats-server": resident(t, n.process), "worker": resident(t, p)}

	began := time.Now()
	w.placeMany(*sizes)
	left := func() uint64 {
		s, err := w.js.Stream(t.Context(), "DEPLOY")
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for left() > 0 {
		<-again.C
	}
	took := time.Since(began)
	per := func(what string, bytes int64) {
		t.Logf("%-38s %8.0f bytes an order, %6.2f GB a million", what, float64(bytes)/float64(*sizes), float64(bytes)/float64(*sizes)/1e3)
	}
	t.Logf("%d orders in %s: %.0f a second, with sync_interval: always", *sizes, took.Round(time.Second), float64(*sizes)/took.Seconds())
	for _, stream := range []string{"KV_deploy-ledger", "DEPLOY_EVENTS", "DEPLOY"} {
		s, err := w.js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		state := s.CachedInfo().State
		per(fmt.Sprintf("%s: %d messages", stream, state.Msgs), int64(state.Bytes))
		per(stream+" on disk", diskOf(t, filepath.Join(n.dir, "store"), stream))
	}
	per("nats-server, resident memory added", resident(t, n.process)-empty["nats-server"])
	t.Logf("%-38s %8.1f MB, %.1f MB when idle", "nats-server, resident memory", float64(resident(t, n.process))/1e6, float64(empty["nats-server"])/1e6)
	busy := resident(t, p)
	p.signal(syscall.SIGTERM)
	equal(t, "exit code of the worker", p.exit(), exitDone)
	n.restart()
	w.queue(0)
	few := resident(t, n.process)
	w.copyFinished(*copies)
	n.restart()
	w.queue(0)
	added := float64(resident(t, n.process) - few)
	t.Logf("%-38s %8.0f bytes an order, %6.2f GB a million, by %d copies", "nats-server, index in memory", added/float64(*copies), added/float64(*copies)/1e3, *copies)
	t.Logf("%-38s %8.1f MB, %.1f MB when idle", "worker, resident memory", float64(busy)/1e6, float64(empty["worker"])/1e6)
	// Nobody takes these.
	w.placeMany(*sizes)
	per("DEPLOY on disk, orders that wait", diskOf(t, filepath.Join(n.dir, "store"), "DEPLOY"))
}

// placeMany publishes orders without waiting for each.
func (w *world) placeMany(n int) {
	w.t.Helper()
	js, err := jetstream.New(w.nc, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range n {
		name := fmt.Sprintf("size-%07d", i)
		o := with(order(name, name), "metadata", map[string]string{"customer": "c-" + strconv.Itoa(i%1000), "source": "shop"})
		if _, err := js.PublishAsync("deploy.requested", jsonOf(w.t, o), jetstream.WithStallWait(time.Minute)); err != nil {
			w.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Minute)
	defer cancel()
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		w.t.Fatal("the orders were not stored")
	}
}

// copyFinished adds orders that are done, as they lie on the broker: a record, a
// name and an event each.
func (w *world) copyFinished(n int) {
	w.t.Helper()
	js, err := jetstream.New(w.nc, jetstream.WithPublishAsyncMaxPending(1024))
	if err != nil {
		w.t.Fatal(err)
	}
	const name = "size-0000000"
	record, err := rowOf(w.t, w, "rec."+keyHash(name))
	if err != nil {
		w.t.Fatal(err)
	}
	row, err := rowOf(w.t, w, "name."+keyHash(name))
	if err != nil {
		w.t.Fatal(err)
	}
	event := w.stored("DEPLOY_EVENTS", 1)[0]
	add := func(m *jetstream.RawStreamMsg, subject, id string) {
		c := &nats.Msg{Subject: subject, Header: maps.Clone(m.Header), Data: m.Data}
		for header := range c.Header {
			if strings.HasPrefix(header, "Nats-Expected") {
				c.Header.Del(header)
			}
		}
		if id != "" {
			c.Header.Set("Nats-Msg-Id", id)
		}
		if _, err := js.PublishMsgAsync(c, jetstream.WithStallWait(time.Minute)); err != nil {
			w.t.Fatal(err)
		}
	}
	for i := range n {
		hash := keyHash("copy-" + strconv.Itoa(i))
		add(record, "$KV.deploy-ledger.rec."+hash, "")
		add(row, "$KV.deploy-ledger.name."+hash, "")
		add(event, event.Subject, hash)
	}
	<-js.PublishAsyncComplete()
}

var vmRSS = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

// resident is how much memory a process holds.
func resident(t *testing.T, p *process) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	found := vmRSS.FindSubmatch(text)
	if found == nil {
		t.Fatalf("no VmRSS: %s", text)
	}
	kb, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// diskOf is what the files of a stream occupy.
func diskOf(t *testing.T, store, stream string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "/streams/"+stream+"/") {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
