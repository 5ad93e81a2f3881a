package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// Live, only what is new is shown; Ctrl-C ends it with 130, and the array that
// was begun is whole.
func TestEventsLive(t *testing.T) {
	t.Parallel()

	w := newWorld(t, simulator.Config{})
	w.setup()
	n := 0
	publish := func() {
		n++
		e := provision.Event{ID: fmt.Sprintf("id.%d", n), Kind: provision.KindHeld, Key: fmt.Sprintf("order-%d", n), Problem: []byte(`{"detail":"who knows"}`)}
		m, err := events.Encode("deploy", e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	for _, test := range []struct {
		args []string
		code int
		end  func(*process)
	}{
		{[]string{"events", "-o", "json", "--count", "2"}, exitDone, func(*process) {}},
		{[]string{"events", "-o", "json"}, exitInterrupted, func(p *process) { p.signal(syscall.SIGINT) }},
	} {
		p := start(t, w.env, test.args...)
		eventually(t, "it shows what is published", func() bool {
			publish()
			return strings.Count(p.out.String(), `"id"`) >= 2
		})
		test.end(p)
		equal(t, "exit code", p.exit(), test.code)
		var got []struct {
			ID  string `json:"id"`
			Key string `json:"idempotencyKey"`
		}
		if err := json.Unmarshal([]byte(p.out.String()), &got); err != nil {
			t.Errorf("%v: %v: %s", test.args, err, p.out.String())
		}
		if len(got) < 2 || got[0].Key == "order-1" {
			t.Errorf("%v shows %v", test.args, got)
		}
	}
}

// What comes from outside cannot do anything to a terminal.
func TestHarmless(t *testing.T) {
	t.Parallel()

	for in, want := range map[string]string{
		"web-1":                  "web-1",
		"Malmö Αθήνα 👩‍🚀":        "Malmö Αθήνα 👩‍🚀",
		"two\nlines":             "two\nlines",
		"\x1b[2J\x1b]0;owned\a":  `\x1b[2J\x1b]0;owned\a`,
		"\u009b31m":              `\u009b31m`,
		"back\b\rover":           `back\b\rover`,
		"gpj.\u202eexe.\u2066":   `gpj.\u202eexe.\u2066`,
		"no UTF-8: \xff\xfe end": "no UTF-8: �� end",
	} {
		if got := harmless(in); got != want {
			t.Errorf("harmless(%q) = %q, want %q", in, got, want)
		}
	}
	if got := oneLine("a\n\nb\u2028c\x1b"); got != `a b c\x1b` {
		t.Errorf("oneLine gives %q", got)
	}
	// Every table goes through it, coloured or not, as does every page.
	const evil = "\x1b]0;owned\a\u009b2J"
	for _, colours := range []bool{false, true} {
		var out bytes.Buffer
		tab := newTable(&out, []string{"A", "B", "C"}, "A")
		tab.colours = colours
		tab.row(evil, provision.State(evil), provision.Resolution{Reason: evil})
		if err := tab.print(); err != nil {
			t.Fatal(err)
		}
		p := &page{columns: 40, colours: colours}
		p.title(evil)
		p.line(evil, evil)
		p.beside("", 0, evil)
		if all := out.String() + strings.NewReplacer(text.Bold.EscapeSeq(), "", text.EscapeReset, "").Replace(p.text.String()); strings.ContainsAny(all, "\x1b\a\u009b") {
			t.Errorf("with colours %t a terminal obeys %q", colours, all)
		}
	}
}

func TestMoment(t *testing.T) {
	t.Parallel()

	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"": {}, "90s": now.Add(-90 * time.Second), "1h30m": now.Add(-90 * time.Minute), "7d": now.Add(-7 * 24 * time.Hour), "0d": now,
		"2026-11-26T13:00:00+01:00": now, "2026-11-26t12:00:00z": now,
	} {
		if got, err := moment("V", in, now); err != nil || !got.Equal(want) {
			t.Errorf("moment(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"yesterday", "-2h", "2h1d", "d", "2026-11-26", "0.5d", "-1d", "999999d"} {
		if got, err := moment("V", in, now); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("V=%q", in)) {
			t.Errorf("moment(%q) = %v, %v", in, got, err)
		}
	}
}

func TestNamed(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "web-1", true},
		{"EB", "web-1", true},
		{"web", "db-WEB-1", true},
		{"web*", "db-web-1", false},
		{"web-?", "web-1", true},
		{"web-?", "web-10", false},
		{"*", "x", true},
	} {
		if got := named(test.pattern, test.name); got != test.want {
			t.Errorf("named(%q, %q) = %t", test.pattern, test.name, got)
		}
	}
}

// A list of the newest keeps no more than it shows.
func TestNewest(t *testing.T) {
	t.Parallel()

	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, limit := range []int{0, 1, 10, 1000, 2000} {
		found := newest{limit: limit}
		for _, i := range rand.Perm(1000) {
			found.add(&provision.Record{Key: fmt.Sprint(i), CreatedAt: begin.Add(time.Duration(i/2) * time.Second), Notes: make([]provision.Note, 3)})
			if limit > 0 && cap(found.records) > 2*limit+8 {
				t.Fatalf("limit %d: room for %d", limit, cap(found.records))
			}
		}
		records := found.sorted()
		want := 1000
		if limit > 0 {
			want = min(limit, 1000)
		}
		if len(records) != want || found.seen != 1000 || records[0].Notes != nil {
			t.Errorf("limit %d: %d of %d", limit, len(records), found.seen)
		}
		for i, r := range records {
			if i > 0 && !older(r, records[i-1]) || r.CreatedAt.Before(begin.Add(time.Duration(499-(want+1)/2)*time.Second)) {
				t.Fatalf("limit %d: %s is at %d", limit, r.Key, i)
			}
		}
	}
}

// heldStory is the story of a request that was held twice.
func heldStory() *story {
	begin := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	return &story{
		told: begin.Add(time.Hour), brake: admission.Brake{On: true, By: "ann", Reason: "prices"},
		record: &provision.Record{
			Key: "order 'x'", State: provision.StateHeld, Held: 2, HeldAnnounced: 1, HeldAt: begin.Add(20 * time.Minute), HeldReason: "attempt 40 may have created a server",
			Request:     provision.Request{Name: "web-1", CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm", Metadata: map[string]string{"note": strings.Repeat("long ", 40) + strings.Repeat("x", 200)}},
			RequestedAt: begin, CreatedAt: begin.Add(time.Second), UpdatedAt: begin.Add(20 * time.Minute), Deadline: begin.Add(24 * time.Hour),
			Attempts: []provision.Attempt{
				{Number: 1, StartedAt: begin.Add(2 * time.Second), EndedAt: begin.Add(65 * time.Second), Within: time.Minute, Verdict: provision.VerdictUnknown, Detail: "no result was recorded"},
				{Number: 40, StartedAt: begin.Add(19 * time.Minute), EndedAt: begin.Add(19*time.Minute + time.Second), Within: time.Minute, Verdict: provision.VerdictUnknown, Status: 500, VPSID: "vps_1"},
			},
			Evidence:   &provision.Evidence{Candidates: []provision.Candidate{{VPSID: "vps_1", Detail: "named in an answer"}}},
			Resolution: &provision.Resolution{Action: provision.ResolveNotCreated, By: "kim", Reason: "ticket", At: begin.Add(18 * time.Minute)},
		},
	}
}

// A record that an older version wrote, without notes, is explained as far as
// it tells.
func TestStoryWithoutNotes(t *testing.T) {
	t.Parallel()

	var lines []string
	for _, h := range heldStory().timeline(rfc3339) {
		lines = append(lines, h.What+": "+h.Detail)
	}
	want := []string{
		"requested: message 0 of the stream ", "accepted: a worker claimed the key",
		"attempt 1: unknown, given up after 1m3s: no result was recorded",
		"decision: kim: not-created (ticket)",
		"…: attempts 2 to 39 are no longer in the record",
		"attempt 40: unknown, HTTP 500, took 1s, server vps_1",
		"held: attempt 40 may have created a server", "candidate: vps_1: named in an answer",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want, +got):\n%s", diff)
	}
}

// A page fits its columns and loses nothing; without a bound nothing is broken.
func TestStoryFitsTheTerminal(t *testing.T) {
	t.Parallel()

	squeezed := func(s string) string { return strings.Join(strings.Fields(s), "") }
	var whole bytes.Buffer
	if err := heldStory().write(&whole, 0); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"worker resolve 'order '\\''x'\\''' --adopt vps_1 --reason WHY", "A worker publishes deploy.held.", ".held.2 (not published yet)", "note=long long"} {
		if !strings.Contains(whole.String(), want) {
			t.Errorf("the page does not say %q:\n%s", want, whole.String())
		}
	}
	for _, columns := range []int{30, 50, 80, 160} {
		var out bytes.Buffer
		if err := heldStory().write(&out, columns); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if w := text.StringWidth(strings.TrimSuffix(line, "\n")); w > max(columns, lead+narrowestText) {
				t.Errorf("%d columns in a line of %d: %s", w, columns, line)
			}
		}
		if squeezed(out.String()) != squeezed(whole.String()) {
			t.Errorf("at %d columns the page says something else:\n%s", columns, out.String())
		}
	}
}

// What comes next is said for every state and whatever is in the way.
func TestForecast(t *testing.T) {
	t.Parallel()

	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	soon, later := now.Add(time.Minute), now.Add(time.Hour)
	shut := admission.Gate{Phase: admission.Closed, Until: soon, Wait: time.Minute, Reason: admission.ReasonUnknowns}
	call := []provision.Attempt{{Number: 1, StartedAt: now.Add(-10 * time.Second), Within: time.Minute, Verdict: provision.VerdictUnknown}}
	for name, test := range map[string]struct {
		story story
		says  []string
	}{
		"ToBeTried": {story{record: &provision.Record{State: provision.StateAccepted}}, []string{"as soon as a worker takes it up", "At its deadline"}},
		"Backoff":   {story{record: &provision.Record{State: provision.StateAccepted, WaitReason: provision.WaitNeverSent, NotBefore: soon}}, []string{"in 1m: It is tried. It waits for not-sent: the call could not be sent."}},
		"Gate":      {story{gate: shut, record: &provision.Record{State: provision.StateAccepted, WaitReason: provision.WaitGate}}, []string{"in 1m: The gate opens for the fleet (several calls in a row had no usable answer)", "in 1m: It is tried."}},
		"GateBefore": {story{gate: shut, record: &provision.Record{State: provision.StateAccepted, WaitReason: provision.WaitGate, NotBefore: later}}, []string{
			"in 1m: The gate opens", "in 1h: It is tried.",
		}},
		"GateIsOver": {story{gate: admission.Gate{Phase: admission.Closed, Until: now}, record: &provision.Record{State: provision.StateAccepted}}, []string{"as soon as a worker takes it up"}},
		"Probing":    {story{gate: admission.Gate{Phase: admission.Probing, Until: soon, Reason: admission.ReasonThrottled}, record: &provision.Record{State: provision.StateAccepted}}, []string{"being tried by one call"}},
		"Braked":     {story{brake: admission.Brake{On: true, By: "ann", At: now.Add(-time.Hour), Reason: "prices."}, record: &provision.Record{State: provision.StateAccepted, WaitReason: provision.WaitPaused}}, []string{"paused 1h ago by ann: prices.", "After that it is tried."}},
		"Late":       {story{record: &provision.Record{State: provision.StateAccepted, Deadline: now}}, []string{"The deadline has passed", "deadline-exceeded"}},
		"InFlight":   {story{record: &provision.Record{State: provision.StateCreating, Attempts: call}}, []string{"in 50s: A worker is making the call", "waits 1m3s from when it first sees this"}},
		"Lost": {story{record: &provision.Record{State: provision.StateCreating, Attempts: []provision.Attempt{{StartedAt: now.Add(-time.Hour), Within: time.Minute}}}}, []string{
			"The time of the call is over",
		}},
		"LookedUp": {story{record: &provision.Record{State: provision.StateUnknown, Attempts: call, NotBefore: soon, Search: &provision.Search{Empty: 2, Elapsed: time.Minute}}}, []string{
			"in 1m: The account is looked at again. So far 2 looks over 1m found no server.", "WORKER_SETTLE_UNANSWERED", "outcome-unknown",
		}},
		"LookedUpBehindTheGate": {story{gate: shut, record: &provision.Record{State: provision.StateUnknown, Attempts: call}}, []string{"in 1m: The account is looked at again when the gate opens"}},
		"LookedUpNow":           {story{record: &provision.Record{State: provision.StateUnknown, Attempts: call}}, []string{"as soon as a worker takes the request"}},
		"Held":                  {story{record: &provision.Record{Key: "k", State: provision.StateHeld}}, []string{"worker resolve k --adopt VPS_ID", "--not-created", "--abandon", "outcome-unknown"}},
		"ToBeAnnounced":         {story{record: &provision.Record{State: provision.StateFailed, Outcome: &provision.Outcome{Kind: provision.KindFailed}}}, []string{"publishes deploy.failed"}},
		"Done":                  {story{record: &provision.Record{State: provision.StateDone}}, []string{"Nothing"}},
		"OfANewerVersion":       {story{record: &provision.Record{State: "paused"}}, []string{"newer worker"}},
	} {
		test.story.told = now
		if test.story.record.Deadline.IsZero() {
			test.story.record.Deadline = now.Add(3 * time.Hour)
		}
		var lines []string
		for _, f := range test.story.next() {
			when := ""
			if !f.at.IsZero() {
				when = ago(now, f.at) + ": "
			}
			lines = append(lines, when+f.text)
		}
		all := strings.Join(lines, "\n")
		for _, want := range test.says {
			if !strings.Contains(all, want) && !strings.Contains(strings.ToLower(all), strings.ToLower(want)) {
				t.Errorf("%s: %q is not said in\n%s", name, want, all)
			}
		}
	}
}

// An event in the other encoding is the same in JSON.
func TestEventJSON(t *testing.T) {
	t.Parallel()

	f := events.Followed{
		Event: provision.Event{
			ID: "h.failed", Kind: provision.KindFailed, Key: "k", Encoding: provision.Protobuf, Reason: provision.ReasonRefused, Billed: provision.BilledNo,
			Problem: []byte(`{"type":"about:blank","detail":"<no> 1.50"}`),
		},
		Subject: "deploy.failed", Sequence: 7, StoredAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
	}
	got, err := eventJSON(f, "deploy")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"h.failed","subject":"deploy.failed","time":"2026-01-02T03:04:05.000006Z","sequence":7,` +
		`"idempotencyKey":"k","reason":"refused","billed":"no","retryable":false,"request":{},"attempts":0,"problem":{"type":"about:blank","detail":"<no> 1.50"}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want, +got):\n%s", diff)
	}
}
