package ledgertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

func scan(t *testing.T, l Ledger) {
	t.Helper()
	if err := l.Scan(t.Context(), func(e provision.Audited) { t.Errorf("an empty ledger has %+v", e) }); err != nil {
		t.Fatalf("Scan of an empty ledger: %v", err)
	}
	want := make(map[string]provision.State)
	for i, s := range []provision.State{provision.StateDone, provision.StateUnknown, provision.StateAccepted} {
		r := Record(fmt.Sprintf("k%d", i), fmt.Sprintf("web-%d", i))
		intend(t, l, r) // name rows are not records
		r.State, r.VPSID = s, fmt.Sprintf("vps_%d", i)
		store(t, l, r)
		want[provision.KeyHash(r.Key)+fmt.Sprintf(" web-%d vps_%d", i, i)] = s
	}
	got := make(map[string]provision.State)
	if err := l.Scan(t.Context(), func(e provision.Audited) {
		got[e.Hash+" "+e.Name+" "+e.VPSID] = e.State
		if e.StoredAt.IsZero() {
			t.Errorf("%+v has no time", e)
		}
	}); err != nil {
		t.Fatalf("Scan: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("scan (-want +got):\n%s", diff)
	}
}

// Records that change while they are read come again behind the others, and so
// do those that were not given before.
func scanBesideChanges(t *testing.T, l Ledger) {
	t.Helper()
	const n, changed = 1500, 300
	records := make([]*provision.Record, n)
	for i := range records {
		records[i] = Record(fmt.Sprintf("k%d", i), "web")
		store(t, l, records[i])
	}
	seen := make(map[string]int)
	// In the middle it changes some that were read, and then some that were not.
	see := func(hash string) {
		if seen[hash]++; len(seen) != n/2 || seen[hash] > 1 {
			return
		}
		var before, behind []*provision.Record
		for _, r := range records {
			if seen[provision.KeyHash(r.Key)] > 0 {
				before = append(before, r)
			} else {
				behind = append(behind, r)
			}
		}
		for _, r := range append(before[:changed], behind[len(behind)-changed:]...) {
			r.UpdatedAt = r.UpdatedAt.Add(time.Second)
			store(t, l, r)
		}
	}
	if err := l.Scan(t.Context(), func(e provision.Audited) { see(e.Hash) }); err != nil {
		t.Fatalf("Scan: %v", err)
	}
	if len(seen) != n {
		t.Errorf("%d of %d records were scanned", len(seen), n)
	}
	clear(seen)
	if err := l.Records(t.Context(), func(r *provision.Record) error {
		see(provision.KeyHash(r.Key))
		return nil
	}); err != nil {
		t.Fatalf("Records: %v", err)
	}
	sum := 0
	for _, times := range seen {
		sum += times
	}
	if len(seen) != n || sum != n {
		t.Errorf("%d of %d records were read, in all %d times", len(seen), n, sum)
	}
}

func unfinished(t *testing.T, l Ledger) {
	t.Helper()
	want := make(map[string]ledger.Origin)
	for i, s := range []provision.State{provision.StateDone, provision.StateUnknown, provision.StateAccepted, provision.StateCreated} {
		r := Record(fmt.Sprintf("k%d", i), fmt.Sprintf("web-%d", i))
		r.Sequence += uint64(i)
		intend(t, l, r)
		r.State = s
		store(t, l, r)
		if s != provision.StateDone {
			want[provision.KeyHash(r.Key)] = ledger.Origin{Stream: r.Stream, Sequence: r.Sequence, At: r.RequestedAt}
		}
	}
	// One that came from no stream, as far as is known.
	r := Record("k", "web")
	r.Stream = ""
	store(t, l, r)
	want[provision.KeyHash(r.Key)] = ledger.Origin{}
	roll := l.NewRoll(time.Minute)
	read := func() map[string]ledger.Origin {
		got := make(map[string]ledger.Origin)
		if err := roll.Unfinished(t.Context(), func(u ledger.Unfinished) {
			got[u.Hash] = u.Origin
			if u.StoredAt.IsZero() {
				t.Errorf("%+v has no time", u)
			}
		}); err != nil {
			t.Fatalf("Unfinished: %v", err)
		}
		return got
	}
	look := func() {
		t.Helper()
		began, got := time.Now(), read()
		for !cmp.Equal(want, got) && time.Since(began) < patience {
			got = read() // what was stored a moment ago
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("unfinished (-want +got):\n%s", diff)
		}
	}
	look()
	// Kept, it follows what changes.
	look()
	fresh := Record("later", "web-later")
	intend(t, l, fresh)
	want[provision.KeyHash("later")] = ledger.Origin{Stream: fresh.Stream, Sequence: fresh.Sequence, At: fresh.RequestedAt}
	done := load(t, l, "k1")
	done.State = provision.StateDone
	store(t, l, done)
	delete(want, provision.KeyHash("k1"))
	look()
}

func records(t *testing.T, l Ledger) {
	t.Helper()
	read := func(states ...provision.State) map[string]provision.State {
		got := make(map[string]provision.State)
		if err := l.Records(t.Context(), func(r *provision.Record) error {
			if _, twice := got[r.Key]; twice || r.Revision == 0 {
				t.Errorf("read %q twice, or without a revision: %+v", r.Key, r)
			}
			got[r.Key] = r.State
			return nil
		}, states...); err != nil {
			t.Fatalf("Records %v: %v", states, err)
		}
		return got
	}
	if got := read(); len(got) != 0 {
		t.Errorf("an empty ledger has %v", got)
	}
	all := map[string]provision.State{"k0": provision.StateDone, "k1": provision.StateHeld, "k2": provision.StateDone, "k3": provision.StateAccepted}
	for key, state := range all {
		r := Record(key, "web-"+key)
		intend(t, l, r)
		r.State = state
		store(t, l, r)
	}
	for _, want := range []map[string]provision.State{all, {"k0": provision.StateDone, "k2": provision.StateDone}, {"k1": provision.StateHeld}, {"k1": provision.StateHeld, "k3": provision.StateAccepted}} {
		var states []provision.State
		for _, s := range want {
			states = append(states, s)
		}
		if len(want) == len(all) {
			states = nil
		}
		if diff := cmp.Diff(want, read(states...)); diff != "" {
			t.Errorf("records in %v (-want +got):\n%s", states, diff)
		}
	}
	enough := errors.New("enough")
	for _, states := range [][]provision.State{nil, {provision.StateHeld}} {
		n := 0
		err := l.Records(t.Context(), func(*provision.Record) error { n++; return enough }, states...)
		if !errors.Is(err, enough) || n != 1 {
			t.Errorf("records in %v after an error: %d more, %v", states, n-1, err)
		}
	}
}
