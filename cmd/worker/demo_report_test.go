package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/runreport"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// TestDemoWritesAReport: the page has every order, and the spans of each order
// are one trace from its sending on.
func TestDemoWritesAReport(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	dir := t.TempDir()
	page, spans := filepath.Join(dir, "out.html"), filepath.Join(dir, "spans.jsonl")
	r := command(t, nil, "demo", "--requests", "3", "--report", page, "--trace-file", spans)
	equal(t, "exit code", r.code, exitDone)
	if !strings.Contains(r.err, "the report is in "+page) {
		t.Errorf("the place of the report is not told: %s", r.err)
	}
	checkPage(t, page, demoOrders(3))
	checkSpans(t, spans)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("in the directory are %v, %v", left, err)
	}
}

func checkPage(t *testing.T, path string, orders []*demoOrder) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	if n := strings.Count(text, `<details class="order">`); n != len(orders) {
		t.Errorf("%d lanes for %d orders", n, len(orders))
	}
	for _, o := range orders {
		if !strings.Contains(text, `<div class="key">`+o.key+"<") || !strings.Contains(text, ">"+o.about+"<") {
			t.Errorf("%s (%s) has no lane", o.key, o.about)
		}
		if o.kind == provision.KindProvisioning && !strings.Contains(text, `<th scope="row">`+o.request.Name+"<") {
			t.Errorf("%s is not billed", o.request.Name)
		}
	}
	for _, want := range []string{
		"Every outcome is as it should be", "create call: throttled (429)", "create call: answer lost", "create call: refused", "waits for the gate",
		"server found and adopted", "held for a person", "event: held", "dead letter", "HTTP 429, nothing bought", "answer lost (cut), server bought",
		"not yet: the order is held", "by its event; found by a look-up", "HostUp&#39;s rate limit", ">Storage<",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not show %q", want)
		}
	}
}

type spanLine struct {
	ResourceSpans []struct {
		ScopeSpans []struct {
			Spans []struct {
				SpanID       string `json:"spanId"`
				ParentSpanID string `json:"parentSpanId"`
				Name         string `json:"name"`
			} `json:"spans"`
		} `json:"scopeSpans"`
	} `json:"resourceSpans"`
}

func checkSpans(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sent, continued := make(map[string]bool), 0
	parents := make(map[string]string)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line spanLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v", lines.Bytes(), err)
		}
		for _, s := range line.ResourceSpans[0].ScopeSpans[0].Spans {
			switch s.Name {
			case "send deploy.requested":
				sent[s.SpanID] = true
			case "process deploy.requested":
				parents[s.SpanID] = s.ParentSpanID
			}
		}
	}
	for _, parent := range parents {
		if sent[parent] {
			continued++
		}
	}
	if orders := len(demoOrders(3)); len(sent) != orders || continued < orders {
		t.Errorf("%d orders were sent in a trace, %d went on in one; want %d", len(sent), continued, orders)
	}
}

// What cannot be written is said before anything is started.
func TestDemoFilesThatCannotBeWritten(t *testing.T) {
	t.Parallel()

	dir := t.TempDir()
	for name, args := range map[string][]string{
		"No such directory":     {"--report", filepath.Join(dir, "none", "out.html")},
		"A directory":           {"--report", dir},
		"No directory of spans": {"--trace-file", filepath.Join(dir, "none", "spans.jsonl")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			takeSlot(t)
			r := command(t, nil, append([]string{"demo"}, args...)...)
			equal(t, "exit code", r.code, exitUsage)
			if !strings.Contains(r.err, args[0]) || !strings.Contains(r.err, dir) {
				t.Errorf("the message is %q", r.err)
			}
		})
	}
}

var demoStart = time.Date(2026, time.November, 26, 12, 0, 0, 0, time.UTC)

func demoAt(ms int) time.Time { return demoStart.Add(time.Duration(ms) * time.Millisecond) }

// laneText is a lane in one line a step.
func laneText(steps []runreport.Step) []string {
	var all []string
	for _, s := range steps {
		line := fmt.Sprintf("%d", s.From.Sub(demoStart).Milliseconds())
		if s.To.After(s.From) {
			line += fmt.Sprintf("-%d", s.To.Sub(demoStart).Milliseconds())
		}
		all = append(all, line+" "+string(s.Kind))
	}
	return all
}

func TestSteps(t *testing.T) {
	t.Parallel()

	attempt := func(n, from, to int, v provision.Verdict) provision.Attempt {
		return provision.Attempt{Number: n, StartedAt: demoAt(from), EndedAt: demoAt(to), Verdict: v}
	}
	note := func(at int, what provision.NoteKind, detail string) provision.Note {
		return provision.Note{Time: demoAt(at), What: what, Detail: detail}
	}
	outcome := func(at int) *provision.Outcome { return &provision.Outcome{OccurredAt: demoAt(at)} }
	closed := []runreport.Closure{{From: demoAt(130), To: demoAt(400)}, {From: demoAt(400), To: demoAt(430), Probing: true}}
	for name, test := range map[string]struct {
		record *provision.Record
		letter *consumer.Letter
		event  provision.Kind
		took   int
		gate   []runreport.Closure
		want   []string
	}{
		"Straight": {
			record: &provision.Record{CreatedAt: demoAt(100), Attempts: []provision.Attempt{attempt(1, 150, 200, provision.VerdictCreated)}, Outcome: outcome(200)},
			event:  provision.KindProvisioning, took: 210,
			want: []string{"0-100 queued", "100-150 working", "150-200 created", "200-210 working", "210 event-provisioning"},
		},
		"Throttled": {
			record: &provision.Record{
				CreatedAt: demoAt(100), Outcome: outcome(500), Notes: []provision.Note{note(125, provision.NoteWaits, provision.WaitGate)},
				Attempts: []provision.Attempt{attempt(1, 110, 120, provision.VerdictThrottled), attempt(2, 450, 500, provision.VerdictCreated)},
			},
			event: provision.KindProvisioning, took: 510,
			want: []string{"0-100 queued", "100-110 working", "110-120 throttled", "120-125 wait-gate", "125-450 wait-gate", "450-500 created", "500-510 working", "510 event-provisioning"},
		},
		"Adopted": {
			record: &provision.Record{
				CreatedAt: demoAt(100), Outcome: outcome(300), Attempts: []provision.Attempt{attempt(1, 110, 120, provision.VerdictUnknown)},
				Notes: []provision.Note{
					{Time: demoAt(150), Last: demoAt(250), Times: 3, What: provision.NoteLooked, Detail: "no server"},
					note(300, provision.NoteAdopted, "vps_1"),
				},
			},
			event: provision.KindProvisioning, took: 310,
			want: []string{"0-100 queued", "100-110 working", "110-120 unknown", "120-300 wait-proof", "150 look-up", "250 look-up", "300 adopted", "300-310 working", "310 event-provisioning"},
		},
		"Proved absent, and not sent once": {
			record: &provision.Record{
				CreatedAt: demoAt(100), Outcome: outcome(600), Notes: []provision.Note{note(300, provision.NoteAbsent, "")},
				Attempts: []provision.Attempt{attempt(1, 110, 120, provision.VerdictUnknown), attempt(2, 310, 320, provision.VerdictNeverSent), attempt(3, 400, 420, provision.VerdictRefused)},
			},
			event: provision.KindFailed, took: 610,
			want: []string{"0-100 queued", "100-110 working", "110-120 unknown", "120-300 wait-proof", "300-310 working", "310-320 never-sent", "320-400 wait-other", "400-420 refused", "420-600 working", "600-610 working", "610 event-failed"},
		},
		"Held": {
			record: &provision.Record{
				CreatedAt: demoAt(100), Attempts: []provision.Attempt{attempt(1, 110, 120, provision.VerdictUnknown)},
				Notes: []provision.Note{note(300, provision.NoteHeld, "two")},
			},
			event: provision.KindHeld, took: 310,
			want: []string{"0-100 queued", "100-110 working", "110-120 unknown", "120-300 wait-proof", "300-1000 held", "310 event-held"},
		},
		"Waits in hand for the gate": {
			record: &provision.Record{CreatedAt: demoAt(100), Attempts: []provision.Attempt{attempt(1, 450, 500, provision.VerdictCreated)}, Outcome: outcome(500)},
			event:  provision.KindProvisioning, took: 500, gate: closed,
			want: []string{"0-100 queued", "100-130 working", "130-400 wait-gate", "400-430 wait-gate", "430-450 working", "450-500 created", "500 event-provisioning"},
		},
		"Rejected":    {event: provision.KindFailed, took: 50, want: []string{"0-50 queued", "50 event-failed"}},
		"Dead letter": {letter: &consumer.Letter{Time: demoAt(60)}, want: []string{"0-60 queued", "60 dead-letter"}},
		"Unanswered":  {want: []string{"0-1000 queued"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &demoOrder{placedAt: demoStart, took: time.Duration(test.took) * time.Millisecond}
			if test.event != "" {
				o.events = []provision.Event{{Kind: test.event}}
			}
			steps := o.steps(test.record, test.letter, test.gate, demoStart, demoAt(1000))
			if diff := cmp.Diff(test.want, laneText(steps)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestClosures(t *testing.T) {
	t.Parallel()

	row := func(ms int, phase admission.Phase, why admission.GateReason, used int) gateRow {
		return gateRow{demoAt(ms), admission.Gate{Phase: phase, Reason: why, Used: used}}
	}
	w := &witness{gate: []gateRow{
		row(0, admission.Open, "", 0),
		row(100, admission.Closed, admission.ReasonThrottled, 3), row(110, admission.Closed, admission.ReasonThrottled, 2),
		row(200, admission.Probing, admission.ReasonThrottled, 1), row(230, admission.Metered, "", 1),
		row(300, admission.Closed, admission.ReasonUnknowns, 0),
	}}
	want := []runreport.Closure{
		{From: demoAt(100), To: demoAt(200), Reason: "HostUp's rate limit"},
		{From: demoAt(200), To: demoAt(230), Reason: "HostUp's rate limit", Probing: true},
		{From: demoAt(300), Reason: "several calls in a row had no usable answer"},
	}
	if diff := cmp.Diff(want, w.closures()); diff != "" {
		t.Error(diff)
	}
}

// The account has room for all that is to be bought, however much that is, and
// none for the order that is too large.
func TestDemoHasRoom(t *testing.T) {
	t.Parallel()

	for _, plain := range []int{0, 24, 500} {
		limits := demoLimits(simulator.Limits{CPUCores: 256, MemoryGB: 1024, StorageGB: 20_000, Instances: 100}, plain)
		left := limits
		left.StorageGB -= demoDisk // the namesake's
		for _, o := range demoOrders(plain) {
			if o.kind == provision.KindProvisioning || o.kind == provision.KindHeld {
				left.CPUCores -= int(o.request.CPUCores)
				left.MemoryGB -= int(o.request.MemoryGB)
				left.StorageGB -= int(o.request.StorageGB)
				left.Instances--
			}
		}
		if min(left.CPUCores, left.MemoryGB, left.StorageGB, left.Instances) < 1 || limits.StorageGB-plain*demoDisk >= 2000 {
			t.Errorf("with %d plain orders %+v of %+v are left", plain, left, limits)
		}
	}
}

// The demo says what is wrong, whatever it is.
func TestDemoFaults(t *testing.T) {
	t.Parallel()

	sim := simulator.New(simulator.Config{})
	w := newShow(new(strings.Builder), demoOrders(1))
	all := strings.Join(w.faults(sim), "\n")
	for _, want := range []string{
		"order-1001 (plain order) ended with nothing: no event arrived", "order-1001 (web-01) is on no invoice", "0 dead letters instead of 2",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the faults do not say %q:\n%s", want, all)
		}
	}
	var out strings.Builder
	if err := w.report(&out, sim, w.faults(sim)); err == nil || !strings.Contains(out.String(), "WRONG: order-1001") {
		t.Errorf("report = %v:\n%s", err, &out)
	}
}
