package admission_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hostup/deploy-worker/internal/admission"
)

func openRow(owner string, revision uint64) admission.Row {
	return admission.Row{Open: true, Owner: owner, Of: room(2, 4, 80, 1), Revision: revision}
}

func closedRow(owner string, bought bool) admission.Row {
	return admission.Row{Owner: owner, Of: room(2, 4, 80, 1), Bought: bought, Revision: 99}
}

// taken is how many instances the book counts beside facts of that time.
func taken(b *admission.Book, at time.Time) int64 {
	const plenty = 1 << 20
	f := admission.Facts{CanDeploy: true, Remaining: room(4*plenty, 8*plenty, 160*plenty, plenty), AskedAt: at}
	d := b.Admit("probe", f, room(0, 0, 0, plenty))
	b.Forget("probe")
	if d.Verdict == admission.Admit {
		return 0
	}
	return plenty - d.Violations[0].Remaining
}

func TestBookRows(t *testing.T) {
	t.Parallel()
	ask := room(2, 4, 80, 1)
	admit := func(b *admission.Book, key string) { b.Admit(key, slots(9, asked), ask) }
	later := asked.Add(time.Second)
	tests := map[string]struct {
		reason string
		before func(*admission.Book)
		facts  time.Time
		want   int64
	}{
		"Open":  {"an open row is the reservation", func(b *admission.Book) { b.Row("n", openRow("x", 1), asked) }, later, 1},
		"Again": {"told again after the watch broke", func(b *admission.Book) { b.Row("n", openRow("x", 1), asked); b.Row("n", openRow("x", 1), later) }, later, 1},
		"Retaken": {"the owner's next attempt", func(b *admission.Book) {
			b.Row("n", openRow("x", 1), asked)
			b.Row("n", openRow("x", 2), asked)
		}, later, 1},
		"OwnThenRow": {"own entry and row are one owner's", func(b *admission.Book) { admit(b, "x"); b.Row("n", openRow("x", 1), asked) }, later, 1},
		"RowThenOwn": {"in either order", func(b *admission.Book) { b.Row("n", openRow("x", 1), asked); admit(b, "x") }, later, 1},
		"ForgottenWithRow": {"nobody knows what became of the call: its row goes on counting", func(b *admission.Book) {
			admit(b, "x")
			b.Row("n", openRow("x", 1), asked)
			b.Forget("x")
		}, later, 1},
		"ClosedWhileOwn": {"the row of an attempt before is closed while this process is at the next", func(b *admission.Book) {
			b.Row("n", openRow("x", 1), asked)
			admit(b, "x")
			b.Row("n", closedRow("x", false), asked)
		}, later, 1},
		"ClosedWithout": {"room comes back at once", func(b *admission.Book) { b.Row("n", openRow("x", 1), asked); b.Row("n", closedRow("x", false), asked) }, asked, 0},
		"Gone":          {"a row that is gone, too", func(b *admission.Book) { b.Row("n", openRow("x", 1), asked); b.Row("n", admission.Row{}, asked) }, asked, 0},
		"ClosedWith": {"the facts may lack the server", func(b *admission.Book) {
			b.Row("n", openRow("x", 1), asked)
			b.Row("n", closedRow("x", true), asked)
		}, asked, 1},
		"ClosedWithNewerFacts": {"newer ones contain it", func(b *admission.Book) {
			b.Row("n", openRow("x", 1), asked)
			b.Row("n", closedRow("x", true), asked)
		}, later, 0},
		"ClosedUnseen":        {"closed before it was seen open", func(b *admission.Book) { b.Row("n", closedRow("x", true), asked) }, asked, 1},
		"ClosedUnseenNewer":   {"and newer facts", func(b *admission.Book) { b.Row("n", closedRow("x", true), asked) }, later, 0},
		"ClosedUnseenWithout": {"nothing was bought", func(b *admission.Book) { b.Row("n", closedRow("x", false), asked) }, asked, 0},
		"OwnPurchaseClosedNext": {"the purchase counts from when this process made it", func(b *admission.Book) {
			admit(b, "x")
			b.Row("n", openRow("x", 1), asked)
			b.Bought("x", asked)
			b.Row("n", closedRow("x", true), asked.Add(time.Minute))
		}, later, 0},
		"BoughtWithRow": {"facts may contain it, but its row says that it is in flight", func(b *admission.Book) {
			admit(b, "x")
			b.Row("n", openRow("x", 1), asked)
			b.Bought("x", asked)
		}, later, 1},
		"TakenOver": {"the new owner counts in place of the old", func(b *admission.Book) {
			b.Row("n", openRow("x", 1), asked)
			b.Row("n", openRow("y", 2), asked)
		}, asked, 1},
		"TakenOverWith": {"and the old one's server beside it", func(b *admission.Book) {
			b.Row("n", openRow("x", 1), asked)
			r := openRow("y", 2)
			r.Bought = true
			b.Row("n", r, asked)
		}, asked, 2},
		"ClosedByAnother": {"a take-over was not seen", func(b *admission.Book) {
			b.Row("n", openRow("x", 1), asked)
			b.Row("n", closedRow("y", true), asked)
		}, asked, 1},
		"TwoNamesOneOwner": {"an owner counts once", func(b *admission.Book) {
			b.Row("n", openRow("x", 1), asked)
			b.Row("m", openRow("x", 2), asked)
		}, asked, 1},
		"OneOfTwoNames": {"until both are closed", func(b *admission.Book) {
			b.Row("n", openRow("x", 1), asked)
			b.Row("m", openRow("x", 2), asked)
			b.Row("n", closedRow("x", false), asked)
		}, asked, 1},
		"Settled": {"facts long after the row contain whatever it bought", func(b *admission.Book) {
			b.Row("n", openRow("x", 1), asked)
		}, asked.Add(settle + time.Second), 0},
		"AlmostSettled": {"facts not so long after may lack it", func(b *admission.Book) { b.Row("n", openRow("x", 1), asked) }, asked.Add(settle), 1},
		"SettledButOwn": {"a new attempt is not known to the facts", func(b *admission.Book) { b.Row("n", openRow("x", 1), asked); admit(b, "x") }, asked.Add(settle + time.Second), 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBook()
			tc.before(b)
			if got := taken(b, tc.facts); got != tc.want {
				t.Errorf("%s: %d places are taken, want %d", tc.reason, got, tc.want)
			}
		})
	}
}

func TestBookFreed(t *testing.T) {
	t.Parallel()
	ask := room(2, 4, 80, 1)
	tests := map[string]struct {
		does func(*admission.Book)
		want bool
	}{
		"Closed":      {func(b *admission.Book) { b.Row("n", closedRow("x", false), asked) }, true},
		"ClosedWith":  {func(b *admission.Book) { b.Row("n", closedRow("x", true), asked) }, false},
		"NewerFacts":  {func(b *admission.Book) { taken(b, asked.Add(time.Second)) }, true},
		"SameFacts":   {func(b *admission.Book) { b.Admit("own", slots(9, asked), ask) }, false},
		"Forgotten":   {func(b *admission.Book) { b.Forget("own") }, true},
		"Bought":      {func(b *admission.Book) { b.Bought("own", asked) }, false},
		"Refused":     {func(b *admission.Book) { b.Admit("own", slots(0, asked), ask) }, true},
		"Unknown":     {func(b *admission.Book) { b.Forget("nobody") }, false},
		"AnotherOpen": {func(b *admission.Book) { b.Row("m", openRow("z", 3), asked) }, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBook()
			b.Row("n", openRow("x", 1), asked)
			b.Row("o", closedRow("y", true), asked)
			b.Admit("own", slots(9, asked), ask)
			freed := b.Freed()
			tc.does(b)
			select {
			case <-freed:
				if !tc.want {
					t.Error("nothing was freed, but it says so")
				}
			default:
				if tc.want {
					t.Error("nobody hears that room was freed")
				}
			}
		})
	}
}

func TestBookOpen(t *testing.T) {
	t.Parallel()
	b := newBook()
	b.Row("old", openRow("x", 1), asked)
	b.Row("retaken", openRow("y", 2), asked)
	b.Row("retaken", openRow("y", 3), asked.Add(time.Minute))
	b.Row("again", openRow("z", 4), asked)
	b.Row("again", openRow("z", 4), asked.Add(time.Minute))
	b.Row("closed", openRow("v", 5), asked)
	b.Row("closed", closedRow("v", true), asked)
	got := b.Open(asked.Add(time.Second))
	slices.Sort(got)
	if !slices.Equal(got, []string{"again", "old"}) {
		t.Errorf("open for long: %q", got)
	}
}

// A process that admits nobody while others buy remembers little.
func TestBookForgetsOldPurchases(t *testing.T) {
	t.Parallel()
	b := newBook()
	for i := range 3 {
		b.Row(fmt.Sprint(i), closedRow(fmt.Sprint("k", i), true), asked.Add(time.Duration(i)*settle))
	}
	if got := taken(b, asked.Add(-time.Hour)); got != 2 {
		t.Errorf("%d purchases are remembered, want 2", got)
	}
}

// reference is the book as it would be said, slowly.
type reference struct {
	own    map[string]bool
	rows   map[string]admission.Row
	seen   map[string]time.Time
	bought map[string]time.Time
}

func (m *reference) buy(owner string, at time.Time) {
	delete(m.own, owner)
	if _, ok := m.bought[owner]; !ok {
		m.bought[owner] = at
	}
	m.drop(at.Add(-settle))
}

func (m *reference) drop(before time.Time) {
	for o, at := range m.bought {
		if at.Before(before) {
			delete(m.bought, o)
		}
	}
}

func (m *reference) row(name string, r admission.Row, at time.Time) {
	old, known := m.rows[name]
	if known && r.Open && old.Revision == r.Revision {
		return
	}
	delete(m.rows, name)
	if r.Open {
		m.rows[name], m.seen[name] = r, at
	}
	switch {
	case r.Bought && !r.Open:
		m.buy(r.Owner, at)
	case r.Bought && known && old.Owner != r.Owner:
		m.buy(old.Owner, at)
	}
}

func (m *reference) taken(asked time.Time) int64 {
	m.drop(asked)
	names, fresh := make(map[string]int), make(map[string]bool)
	for name, r := range m.rows {
		names[r.Owner]++
		fresh[r.Owner] = fresh[r.Owner] || !m.seen[name].Add(settle).Before(asked)
	}
	owners := make(map[string]bool)
	for o := range m.own {
		owners[o] = true
	}
	for o := range m.bought {
		owners[o] = true
	}
	for o, n := range names {
		if fresh[o] || n > 1 {
			owners[o] = true
		}
	}
	return int64(len(owners))
}

// Whatever happens in whatever order: no owner counts twice, the sum is never
// negative, and when every row is closed and every call has ended, newer facts
// leave nothing.
func TestBookAgainstItsReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := newBook()
		m := &reference{own: make(map[string]bool), rows: make(map[string]admission.Row), seen: make(map[string]time.Time), bought: make(map[string]time.Time)}
		now, revision := asked, uint64(0)
		owner := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		name := rapid.SampledFrom([]string{"m", "n", "o"})
		tick := rapid.SampledFrom([]time.Duration{0, time.Second, settle / 2, settle + 1})
		t.Repeat(map[string]func(*rapid.T){
			"pass": func(t *rapid.T) { now = now.Add(tick.Draw(t, "time")) },
			"admit": func(t *rapid.T) {
				o := owner.Draw(t, "owner")
				if d := b.Admit(o, slots(99, now), room(2, 4, 80, 1)); d.Verdict != admission.Admit {
					t.Fatalf("there is plenty of room: %+v", d)
				}
				m.drop(now)
				m.own[o] = true
			},
			"buy": func(t *rapid.T) {
				o := owner.Draw(t, "owner")
				b.Bought(o, now)
				if m.own[o] {
					m.buy(o, now)
				}
			},
			"forget": func(t *rapid.T) { o := owner.Draw(t, "owner"); b.Forget(o); delete(m.own, o) },
			"row": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "new") {
					revision++
				}
				r := admission.Row{
					Open: rapid.Bool().Draw(t, "open"), Owner: owner.Draw(t, "owner"), Of: room(2, 4, 80, 1),
					Bought: rapid.Bool().Draw(t, "bought"), Revision: revision,
				}
				n := name.Draw(t, "name")
				b.Row(n, r, now)
				m.row(n, r, now)
			},
			"": func(t *rapid.T) {
				if got, want := taken(b, now), m.taken(now); got != want || got < 0 || got > 4 {
					t.Fatalf("%d places are taken, want %d of 4 owners at most", got, want)
				}
			},
		})
		for n := range m.rows {
			b.Row(n, admission.Row{}, now)
		}
		for _, o := range []string{"a", "b", "c", "d"} {
			b.Forget(o)
		}
		if got := taken(b, now.Add(1)); got != 0 {
			t.Fatalf("%d places are taken by nobody", got)
		}
	})
}
