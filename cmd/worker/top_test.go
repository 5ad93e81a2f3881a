//go:build !notop

package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/proctest"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/top"
)

// watching is what the screen reads through, on a broker of its own.
func watching(t *testing.T) *watch {
	t.Helper()
	srv := brokertest.Start(t)
	nc, js := brokertest.Connect(t, srv)
	w := &watch{
		where: srv.URL, nc: nc, js: js, book: ledger.New(js, ledger.Config{Bucket: "deploy-ledger"}), most: recordsRead,
		place: placeSettings{Stream: "DEPLOY", Consumer: "deploy-worker", EventsStream: "DEPLOY_EVENTS", DeadStream: "DEPLOY_DEAD", Ledger: "deploy-ledger", SubjectPrefix: "deploy", Replicas: 1, AckWait: time.Second, LedgerTTL: time.Hour},
	}
	return w
}

// provisioned is the same with everything set up.
func provisioned(t *testing.T) *watch {
	t.Helper()
	w := watching(t)
	plan, err := w.place.topology().Plan(t.Context(), w.js)
	if err == nil {
		err = broker.Apply(t.Context(), plan)
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestTopReadsTheQueue(t *testing.T) {
	t.Parallel()

	w := provisioned(t)
	publish := func() {
		t.Helper()
		if _, err := w.js.Publish(t.Context(), "deploy.requested", []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	cons, err := w.js.Consumer(t.Context(), "DEPLOY", "deploy-worker")
	if err != nil {
		t.Fatal(err)
	}
	m, err := cons.Next()
	if err == nil {
		err = m.Nak()
	}
	if err == nil {
		_, err = cons.Next() // the same again
	}
	if err != nil {
		t.Fatal(err)
	}
	publish()
	publish()
	if err := w.js.DeleteConsumer(t.Context(), "DEPLOY", "deploy-worker-batch"); err != nil {
		t.Fatal(err)
	}
	lanes, err := w.queue(t.Context())
	want := []top.Lane{{Name: "single", Pending: 2, AckPending: 1, Redelivered: 1}, {Name: "batch", Missing: true}}
	if diff := cmp.Diff(want, lanes); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
}

func TestTopReadsWhatTheFleetShares(t *testing.T) {
	t.Parallel()

	w := provisioned(t)
	s, err := w.shared(t.Context())
	if err != nil || !cmp.Equal(s, top.Shared{}) {
		t.Errorf("of a new ledger: %+v, %v", s, err)
	}
	if _, err := w.book.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b.Set(time.Now(), "anna", "why not") }); err != nil {
		t.Fatal(err)
	}
	if _, err := w.book.UpdateGate(t.Context(), func(g admission.Gate) (admission.Gate, bool) {
		return g.Throttled(time.Now(), 0, time.Minute, admission.Rate{}, "somebody")
	}); err != nil {
		t.Fatal(err)
	}
	revisions := func() uint64 {
		info, err := w.js.Stream(t.Context(), "KV_deploy-ledger")
		if err != nil {
			t.Fatal(err)
		}
		return info.CachedInfo().State.LastSeq
	}
	before := revisions()
	s, err = w.shared(t.Context())
	if err != nil || s.Gate.Phase != admission.Closed || s.Gate.Source != "somebody" || !s.Brake.On || s.Brake.By != "anna" {
		t.Errorf("%+v, %v", s, err)
	}
	equal(t, "what looking has written", revisions(), before)
}

// store stores a record of a key in a state.
func (w *watch) store(t *testing.T, key string, state provision.State, change func(*provision.Record)) {
	t.Helper()
	r := &provision.Record{Key: key, State: state, Request: provision.Request{Key: key, Name: "name-" + key, CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm"}}
	if change != nil {
		change(r)
	}
	if err := w.book.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func TestTopReadsTheLedger(t *testing.T) {
	t.Parallel()

	w := provisioned(t)
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	w.store(t, "done", provision.StateDone, nil)
	w.store(t, "created", provision.StateCreated, nil)
	for i := range 3 {
		w.store(t, fmt.Sprintf("gate-%d", i), provision.StateAccepted, func(r *provision.Record) {
			r.WaitReason, r.NotBefore = provision.WaitGate, noon.Add(time.Duration(3-i)*time.Minute)
		})
	}
	w.store(t, "fresh", provision.StateAccepted, nil)
	w.store(t, "creating", provision.StateCreating, nil)
	w.store(t, "unknown", provision.StateUnknown, func(r *provision.Record) { r.WaitReason = provision.WaitLookup })
	w.store(t, "held-late", provision.StateHeld, func(r *provision.Record) { r.HeldAt, r.HeldReason = noon, "attempt 1 may have; why" })
	w.store(t, "held-early", provision.StateHeld, func(r *provision.Record) {
		r.HeldAt = noon.Add(-time.Hour)
		r.Evidence = &provision.Evidence{Attempts: []provision.Attempt{{Detail: "first"}, {Detail: "no answer"}}, Candidates: []provision.Candidate{{VPSID: "vps_1"}, {VPSID: "vps_2"}}}
	})
	got, err := w.requests(t.Context())
	want := top.Requests{
		States:  map[provision.State]int{"done": 1, "created": 1, "accepted": 4, "creating": 1, "unknown": 1, "held": 2},
		Waiting: []top.Waiting{{Reason: "rate-limit", Count: 3, Next: noon.Add(time.Minute)}, {Count: 1}, {Reason: "look-up", Count: 1}},
		Held: []top.Held{
			{Key: "held-early", Name: "name-held-early", Since: noon.Add(-time.Hour), Why: "no answer", Candidates: []string{"vps_1", "vps_2"}},
			{Key: "held-late", Name: "name-held-late", Since: noon, Why: "attempt 1 may have; why"},
		},
		InFlight: admission.Resources{CPUCores: 4, MemoryGB: 8, StorageGB: 160, Instances: 2},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}

	// What has not changed is not read again; what is gone is forgotten.
	known := w.known[provision.KeyHash("unknown")]
	if again, err := w.requests(t.Context()); err != nil || cmp.Diff(want, again) != "" || w.known[provision.KeyHash("unknown")] != known {
		t.Errorf("the second look: %+v, %v", again, err)
	}

	// What is too much is counted only, and what a person has to decide comes first.
	w.most, w.known = 3, nil
	got, err = w.requests(t.Context())
	if err != nil || len(got.Held) != 2 || got.Unread != 5 || got.States["accepted"] != 4 || got.InFlight.Instances != 1 {
		t.Errorf("of three: %+v, %v", got, err)
	}
}

func TestTopFollowsTheEvents(t *testing.T) {
	t.Parallel()

	w := provisioned(t)
	publisher := events.NewPublisher(events.PublisherConfig{JetStream: w.js, Stream: "DEPLOY_EVENTS", Prefix: "deploy"})
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	publish := func(e provision.Event) {
		t.Helper()
		e.Encoding, e.OccurredAt, e.RequestedAt, e.ID = provision.JSON, at, at, provision.OutcomeID(e.Key, e.Kind)
		e.Request = provision.Request{Key: e.Key, Name: "web-" + e.Key, CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm"}
		if err := publisher.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	publish(provision.Event{Kind: provision.KindProvisioning, Key: "a", VPSID: "vps_1", Adopted: true})
	publish(provision.Event{Kind: provision.KindFailed, Key: "b", Reason: provision.ReasonRefused, Billed: provision.BilledNo, Problem: json.RawMessage(`{"title":"No","detail":"not you"}`)})
	publish(provision.Event{Kind: provision.KindHeld, Key: "c", Problem: json.RawMessage(`{"title":"Held"}`), Evidence: &provision.Evidence{Attempts: []provision.Attempt{{Number: 1, StartedAt: at, Detail: "no answer"}}}})
	if _, err := w.js.Publish(t.Context(), "deploy.failed", []byte("nonsense")); err != nil {
		t.Fatal(err)
	}

	enough := errors.New("enough")
	follow := func(n int) []top.Outcome {
		t.Helper()
		var got []top.Outcome
		ready := false
		ctx, stop := context.WithCancelCause(t.Context())
		defer stop(nil)
		err := w.outcomes(ctx, func() { ready = true }, func(o top.Outcome) {
			if got = append(got, o); len(got) == n {
				stop(enough)
			}
		})
		if !errors.Is(context.Cause(ctx), enough) || !ready {
			t.Fatalf("ready %t, %v", ready, err)
		}
		return got
	}
	got := follow(4)
	if got[3].Unreadable == "" || got[3].At.IsZero() || got[3].Sequence != 4 {
		t.Errorf("the unreadable one: %+v", got[3])
	}
	of := admission.Resources{CPUCores: 2, MemoryGB: 4, StorageGB: 80, Instances: 1}
	want := []top.Outcome{
		{Sequence: 1, Kind: provision.KindProvisioning, Key: "a", Name: "web-a", At: at, Size: of, VPSID: "vps_1", Adopted: true},
		{Sequence: 2, Kind: provision.KindFailed, Key: "b", Name: "web-b", At: at, Size: of, Reason: provision.ReasonRefused, Billed: provision.BilledNo, Detail: "not you"},
		{Sequence: 3, Kind: provision.KindHeld, Key: "c", At: at, Detail: "no answer"},
	}
	for i := range want {
		if want[i].Kind == provision.KindHeld {
			got[i].Size, got[i].Name = admission.Resources{}, "" // not on the wire
		}
		if diff := cmp.Diff(want[i], got[i]); diff != "" {
			t.Errorf("event %d (-want +got)\n%s", i, diff)
		}
	}
	// It goes on behind the last one.
	publish(provision.Event{Kind: provision.KindProvisioning, Key: "d", VPSID: "vps_4"})
	if got := follow(1); got[0].Sequence != 5 || got[0].Key != "d" {
		t.Errorf("the next one is %+v", got[0])
	}
}

func TestTopSaysWhatIsMissing(t *testing.T) {
	t.Parallel()

	w := watching(t)
	says := func(what string, err error, words ...string) {
		t.Helper()
		for _, word := range words {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v does not say %q", what, err, word)
			}
		}
	}
	reads := map[string]func() error{
		"queue":    func() error { _, err := w.queue(t.Context()); return err },
		"rows":     func() error { _, err := w.shared(t.Context()); return err },
		"requests": func() error { _, err := w.requests(t.Context()); return err },
		"events": func() error {
			return w.outcomes(t.Context(), func() {}, func(top.Outcome) {})
		},
		"story": func() error { _, err := w.explain(t.Context(), "a", 80); return err },
	}
	for what, read := range reads {
		says(what, read(), "worker setup")
	}
	w.nc.Close()
	for what, read := range reads {
		says(what+" without a connection", read(), "not connected to NATS", w.where)
	}
}

func TestTopExplains(t *testing.T) {
	t.Parallel()

	w := provisioned(t)
	w.store(t, "order-1", provision.StateAccepted, nil)
	text, err := w.explain(t.Context(), "order-1", 80)
	if err != nil || !strings.Contains(text, "order-1") || !strings.Contains(text, "accepted") {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := w.explain(t.Context(), "order-2", 80); err == nil || !strings.Contains(err.Error(), "order-2") {
		t.Errorf("of nobody: %v", err)
	}
}

// What worker top needs is linked into every command. It must not make the
// others slower, or talk to their terminal; TestOthersLeaveTheTerminalAlone
// looks at the latter.
func TestTopCostsTheOthersNothing(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	r := command(t, map[string]string{"GODEBUG": "inittrace=1"}, "version")
	equal(t, "exit code", r.code, exitDone)
	sum, found := 0, 0
	for _, m := range regexp.MustCompile(`(?m)^init (\S+) @.* (\d+) bytes,`).FindAllStringSubmatch(r.err, -1) {
		if slices.ContainsFunc([]string{"charm.land/", "github.com/charmbracelet/", "github.com/clipperhouse/", "github.com/lucasb-eyer/", "github.com/muesli/", "github.com/xo/", "github.com/hostup/deploy-worker/internal/top"}, func(p string) bool { return strings.HasPrefix(m[1], p) }) {
			n, err := strconv.Atoi(m[2])
			if err != nil {
				t.Fatal(err)
			}
			sum, found = sum+n, found+1
		}
	}
	// It was 50 kB. What reads a terminal description or builds tables would
	// be many times that.
	if found == 0 || sum > 200_000 {
		t.Errorf("%d packages of the screen allocate %d bytes at the start of every command", found, sum)
	}
}

// A build without the screen has none of its modules, and says so.
func TestBuildWithoutTop(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	path := filepath.Join(t.TempDir(), "worker")
	must(t, proctest.Compile(t.Context(), nil, path, ".", "-tags", "notop"))
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range info.Deps {
		if strings.HasPrefix(m.Path, "charm.land/") || strings.HasPrefix(m.Path, "github.com/charmbracelet/") {
			t.Errorf("it has %s", m.Path)
		}
	}
	out, err := exec.Command(path, "top").CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != exitUsage || !bytes.Contains(out, []byte("notop")) {
		t.Errorf("top of it: %v\n%s", err, out)
	}
}
