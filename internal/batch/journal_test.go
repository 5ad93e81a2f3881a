package batch

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func journal(t *testing.T, confirmed ...int) (path string, h Heading) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "orders.csv.journal")
	h = Heading{Submission: "MARK", Sum: "abc", Rows: 100, KeyPrefix: "p-", Subject: "deploy.requested", StartedAt: time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)}
	j, err := CreateJournal(path, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range confirmed {
		if err := j.Confirm(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return path, h
}

func reread(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := ReadJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJournal(t *testing.T) {
	t.Parallel()
	path, h := journal(t, 0, 63, 64, 99, 64)
	j := reread(t, path)
	h.Version = journalVersion
	if j.Heading != h || j.Count() != 4 || j.Path() != path {
		t.Errorf("read %+v with %d rows", j.Heading, j.Count())
	}
	for i := range 100 {
		if want := i == 0 || i == 63 || i == 64 || i == 99; j.Confirmed(i) != want {
			t.Errorf("row %d: %t", i, !want)
		}
	}
	if err := j.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := j.Confirm(7); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = reread(t, path)
	if j.Count() != 5 || !j.Confirmed(7) {
		t.Errorf("after more: %d rows", j.Count())
	}
	if err := j.Remove(); err != nil {
		t.Error(err)
	}
	if j := reread(t, path); j != nil {
		t.Error("it is still there")
	}
}

// Whatever a crash leaves of a journal, no row counts that was not confirmed.
func TestJournalCutAnywhere(t *testing.T) {
	t.Parallel()
	path, _ := journal(t, 12, 3, 45)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := ReadJournal(path)
		if err != nil {
			// Only within the heading, which is on the disk before anything is sent.
			if n > 23 && whole[n-1] != '\n' && j == nil {
				continue
			}
			t.Fatalf("cut at %d: %v", n, err)
		}
		if j == nil {
			continue
		}
		for i := range 100 {
			if j.Confirmed(i) && i != 12 && i != 3 && i != 45 {
				t.Errorf("cut at %d: row %d", n, i)
			}
		}
		// And what comes behind it is read.
		if err := j.Continue(); err != nil {
			t.Fatal(err)
		}
		if err := j.Confirm(77); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if again := reread(t, path); !again.Confirmed(77) || again.Count() != j.Count() {
			t.Errorf("cut at %d: %d rows, want %d", n, again.Count(), j.Count())
		}
	}
}

func TestJournalDamage(t *testing.T) {
	t.Parallel()
	path, h := journal(t, 12, 13)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A digit of the first confirmed row changes.
	for at := len(whole) - 1; at > 0; at-- {
		if string(whole[at:at+3]) == "12 " {
			whole[at] = '2'
			break
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if j := reread(t, path); j.Count() != 0 {
		t.Errorf("%d rows of a damaged journal", j.Count())
	}
	for name, change := range map[string]func(*Heading){
		"sum": func(h *Heading) { h.Sum = "x" }, "rows": func(h *Heading) { h.Rows++ }, "prefix": func(h *Heading) { h.KeyPrefix = "" }, "subject": func(h *Heading) { h.Subject = "x" },
	} {
		other := h
		change(&other)
		if reread(t, path).Differs(other) == "" {
			t.Errorf("another %s is not seen", name)
		}
	}
	other := h
	other.Submission, other.StartedAt = "OTHER", time.Now()
	if diff := reread(t, path).Differs(other); diff != "" {
		t.Errorf("a resumption differs: %s", diff)
	}
	for _, text := range []string{"orders\n", "{}\n", `{"workerSubmitJournal":2}` + "\n", "a letter"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadJournal(path); err == nil {
			t.Errorf("%q is taken for a journal", text)
		}
	}
}
