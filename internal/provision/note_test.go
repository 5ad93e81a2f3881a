package provision_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// noted is what the notes of a record say, without their times.
func noted(r *provision.Record) []string {
	var lines []string
	for _, n := range r.Notes {
		line := fmt.Sprintf("%s: %s", n.What, n.Detail)
		if n.Times > 0 {
			line += fmt.Sprintf(" x%d", n.Times)
		}
		if n.Cause != "" {
			line += " [" + n.Cause + "]"
		}
		lines = append(lines, line)
	}
	return lines
}

// Nothing is written down of a request that goes straight to its server, be it
// looked up first because it came late, or to its refusal.
func TestNoNotesOfAPlainOrder(t *testing.T) {
	for name, tc := range map[string]struct {
		answer reply
		late   bool
	}{"Created": {created(), false}, "Late": {created(), true}, "Refused": {refused(422, provision.RefusalFinal), false}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.script = []reply{tc.answer}
				m := order("a")
				if tc.late {
					pass(10 * time.Minute)
				}
				w.worker().finish(m)
				stored, err := json.Marshal(w.record("a"))
				if err != nil || strings.Contains(string(stored), "notes") {
					t.Errorf("%s (%v)", stored, err)
				}
			})
		})
	}
}

// What a request meets on its way is told in its order.
func TestNotes(t *testing.T) {
	for name, tc := range map[string]struct {
		bring func(*world) *worker
		want  []string
	}{
		"TriedAgain": {func(w *world) *worker {
			w.api.script = []reply{throttled(time.Minute), throttled(time.Minute), neverSent(), lost(502, false), created()}
			wk := w.worker()
			wk.finish(order("a"))
			return wk
		}, []string{
			"waits: rate-limit x2", "waits: not-sent", "looked-up: no server x4",
			"absence-proved: 4 looks over 10m0s found no server", "looked-up: no server",
		}},
		"Adopted": {func(w *world) *worker {
			w.inventory.lag = time.Minute
			w.api.script = []reply{lost(502, true)}
			wk := w.worker()
			wk.finish(order("a"))
			return wk
		}, []string{"looked-up: no server", "adopted: vps_1, created at 2000-01-01T00:00:00Z"}},
		"HeldUntilTheDeadline": {func(w *world) *worker {
			w.cfg.HoldUnknown = true
			w.api.script = []reply{lost(502, false)}
			wk := w.worker()
			wk.finish(order("a"))
			return wk
		}, []string{
			"looked-up: no server x4", "held: 4 looks over 10m0s found no server, and WORKER_UNKNOWN_POLICY is hold", "deadline: held",
		}},
		"TwoCandidates": {func(w *world) *worker {
			w.api.script = []reply{lost(502, true)}
			w.api.script[0].during = func() { w.inventory.plant(namesake("a", "vps_2")) }
			wk := w.worker()
			wk.until(order("a"), "held")
			return wk
		}, []string{"held: 2 servers could be the one it bought: vps_1, vps_2"}},
		"PausedUntilTheDeadline": {func(w *world) *worker {
			w.api.script = []reply{throttled(2 * time.Hour)}
			m := order("a")
			m.Request.Deadline = time.Now().Add(time.Hour)
			wk := w.worker()
			wk.finish(m)
			return wk
		}, []string{"waits: rate-limit", "deadline: accepted, waiting: rate-limit"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				tc.bring(w)
				synctest.Wait()
				if diff := cmp.Diff(tc.want, noted(w.record("a"))); diff != "" {
					t.Errorf("(-want, +got):\n%s", diff)
				}
			})
		})
	}
}

// Every decision is kept, not only the newest.
func TestNotesOfDecisions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.HoldUnknown = true
		w.api.script = []reply{lost(0, false), lost(0, false)}
		wk := w.worker()
		m := order("a")
		wk.until(m, "held")
		if _, err := wk.Resolve(t.Context(), "a", decision(provision.ResolveNotCreated)); err != nil {
			t.Fatal(err)
		}
		m.Deliveries = 9
		wk.until(m, "held")
		second := decision(provision.ResolveAbandon)
		second.By, second.Billed = "ann", provision.BilledNo
		if _, err := wk.Resolve(t.Context(), "a", second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var got []string
		for _, n := range w.record("a").Notes {
			if n.What == provision.NoteDecided {
				got = append(got, n.Detail)
			}
		}
		if diff := cmp.Diff([]string{"kim: not-created (ticket 17)", "ann: abandon, billed no (ticket 17)"}, got); diff != "" {
			t.Errorf("(-want, +got):\n%s", diff)
		}
	})
}

// The notes of a record are bounded in number and size.
func TestNotesAreBounded(t *testing.T) {
	t.Parallel()

	r := &provision.Record{}
	at := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	long := strings.Repeat("å", 4096)
	for i := range 1000 {
		at = at.Add(time.Minute)
		n := provision.Note{Time: at, What: provision.NoteWaits, Detail: fmt.Sprint(i), Cause: long}
		switch i % 100 {
		case 10:
			n.What = provision.NoteDecided
		case 20:
			n.What, n.Detail = provision.NoteHeld, long
		}
		before := slices.Clone(r.Notes)
		kept := r.Notes
		r.Note(n)
		if diff := cmp.Diff(before, kept); diff != "" {
			t.Fatalf("what others read was changed:\n%s", diff)
		}
	}
	kinds := make(map[provision.NoteKind]int)
	for _, n := range r.Notes {
		kinds[n.What]++
		for _, text := range []string{n.Detail, n.Cause} {
			if len(text) > 512 || !utf8.ValidString(text) {
				t.Errorf("a text of %d bytes: %q", len(text), text)
			}
		}
	}
	if len(r.Notes) != provision.MaxNotes || r.Notes[0].Detail != "0" || r.Notes[len(r.Notes)-1].Detail != "999" {
		t.Errorf("%d notes, from %q to %q", len(r.Notes), r.Notes[0].Detail, r.Notes[len(r.Notes)-1].Detail)
	}
	if kinds[provision.NoteDecided] != 10 || kinds[provision.NoteHeld] != 10 {
		t.Errorf("kept are %v", kinds)
	}
	if data, err := json.Marshal(r.Notes); err != nil || len(data) > 128<<10 {
		t.Errorf("%d bytes (%v)", len(data), err)
	}
	// Not even decisions grow a record without bound.
	for i := range 200 {
		r.Note(provision.Note{Time: at, What: provision.NoteDecided, Detail: fmt.Sprint("decision ", i)})
	}
	if len(r.Notes) != provision.MaxNotes || r.Notes[0].Detail != "0" || r.Notes[len(r.Notes)-1].Detail != "decision 199" {
		t.Errorf("%d notes, from %q to %q", len(r.Notes), r.Notes[0].Detail, r.Notes[len(r.Notes)-1].Detail)
	}
}

// The same in a row is one note, with when it was first and last.
func TestNotesFold(t *testing.T) {
	t.Parallel()

	r := &provision.Record{}
	at := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	for i := range 3 {
		now := at.Add(time.Duration(i) * time.Minute)
		r.Note(provision.Note{Time: now, What: provision.NoteWaits, Detail: "limits", Cause: fmt.Sprint("cause ", i), Until: now.Add(time.Second)})
	}
	r.Note(provision.Note{Time: at.Add(time.Hour), What: provision.NoteWaits, Detail: "name"})
	r.Note(provision.Note{Time: at.Add(2 * time.Hour), What: provision.NoteWaits, Detail: "limits"})
	want := []provision.Note{
		{Time: at, Times: 3, Last: at.Add(2 * time.Minute), What: provision.NoteWaits, Detail: "limits", Cause: "cause 2", Until: at.Add(2*time.Minute + time.Second)},
		{Time: at.Add(time.Hour), What: provision.NoteWaits, Detail: "name"},
		{Time: at.Add(2 * time.Hour), What: provision.NoteWaits, Detail: "limits"},
	}
	if diff := cmp.Diff(want, r.Notes); diff != "" {
		t.Errorf("(-want, +got):\n%s", diff)
	}
}
