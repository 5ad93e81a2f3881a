package ledgertest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Controlled is a ledger with the rows that a fleet shares.
type Controlled interface {
	Watched
	provision.Controls
}

// RunControls holds the ledgers that open returns to the contract of
// provision.Controls.
func RunControls(t *testing.T, open func(t *testing.T) Controlled) {
	t.Helper()
	cases := map[string]func(*testing.T, Controlled){
		"no change of many writers is lost":      noLostChange,
		"what is stored is returned":             returnsStored,
		"a change that is none writes nothing":   writesNothing,
		"the three rows are apart":               rowsApart,
		"a row that cannot be read is not lost":  garbageRow,
		"changes of the rows are told in order":  toldControls,
		"a row comes back as it was stored":      rowRoundTrip,
		"a record and a name know of no control": controlIsNoRecord,
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func updateGate(t *testing.T, l Controlled, change func(admission.Gate) (admission.Gate, bool)) admission.Gate {
	t.Helper()
	g, err := l.UpdateGate(t.Context(), change)
	if err != nil {
		t.Errorf("UpdateGate: %v", err)
	}
	return g
}

func readGate(t *testing.T, l Controlled) admission.Gate {
	t.Helper()
	return updateGate(t, l, func(g admission.Gate) (admission.Gate, bool) { return g, false })
}

func oneMore(g admission.Gate) (admission.Gate, bool) {
	g.Used++
	return g, true
}

func noLostChange(t *testing.T, l Controlled) {
	t.Helper()
	const writers, each = 8, 5
	var (
		mu      sync.Mutex
		returns = make(map[int]uint64) // revisions by what was counted
		work    sync.WaitGroup
	)
	for range writers {
		work.Go(func() {
			for range each {
				g := updateGate(t, l, oneMore)
				mu.Lock()
				if _, twice := returns[g.Used]; twice || g.Revision == 0 {
					t.Errorf("two changes were both told that they stored %d (revision %d)", g.Used, g.Revision)
				}
				returns[g.Used] = g.Revision
				mu.Unlock()
			}
		})
	}
	work.Wait()
	if g := readGate(t, l); g.Used != writers*each || g.Revision != returns[g.Used] {
		t.Errorf("after %d changes the row is %+v, the last of them was told revision %d", writers*each, g, returns[g.Used])
	}
	for n := 2; n <= writers*each; n++ {
		if returns[n] <= returns[n-1] {
			t.Errorf("change %d has revision %d, the one before has %d", n, returns[n], returns[n-1])
		}
	}
}

func returnsStored(t *testing.T, l Controlled) {
	t.Helper()
	if g := readGate(t, l); g != (admission.Gate{}) {
		t.Errorf("a row that nobody stored is %+v", g)
	}
	first := updateGate(t, l, oneMore)
	if got := readGate(t, l); got != first {
		t.Errorf("stored and returned %+v, then read %+v", first, got)
	}
	// What a change was given is what is stored, with its revision.
	second := updateGate(t, l, func(g admission.Gate) (admission.Gate, bool) {
		if g != first {
			t.Errorf("a change was given %+v, stored is %+v", g, first)
		}
		return oneMore(g)
	})
	if second.Used != 2 || second.Revision <= first.Revision {
		t.Errorf("after %+v came %+v", first, second)
	}
}

func writesNothing(t *testing.T, l Controlled) {
	t.Helper()
	s, _ := Listen(t, l)
	s.Want("synced true")
	if got := updateGate(t, l, func(g admission.Gate) (admission.Gate, bool) { g.Used = 99; return g, false }); got != (admission.Gate{}) {
		t.Errorf("a change that is none returns %+v, stored is nothing", got)
	}
	stored := updateGate(t, l, oneMore)
	s.Want(`gate={"used":1}`)
	got := updateGate(t, l, func(g admission.Gate) (admission.Gate, bool) { g.Used = 99; return g, false })
	if got != stored {
		t.Errorf("a change that is none returns %+v, stored is %+v", got, stored)
	}
	updateGate(t, l, oneMore)
	s.Want(`gate={"used":2}`)
}

func rowsApart(t *testing.T, l Controlled) {
	t.Helper()
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	gate := updateGate(t, l, oneMore)
	brake, err := l.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b.Set(at, "ann", "why") })
	if err != nil {
		t.Fatal(err)
	}
	spend, err := l.UpdateSpend(t.Context(), func(s admission.Spend) (admission.Spend, bool) {
		s, _ = s.Enter(admission.Purchase{At: at, Price: 0.66}, admission.Caps{})
		return s, true
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := readGate(t, l); got != gate {
		t.Errorf("the gate is %+v, stored was %+v", got, gate)
	}
	b, err := l.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b.Set(at, "bob", "x") })
	if diff := cmp.Diff(brake, b); diff != "" || err != nil {
		t.Errorf("the brake: %v (-stored +read):\n%s", err, diff)
	}
	s, err := l.UpdateSpend(t.Context(), func(s admission.Spend) (admission.Spend, bool) { return s, false })
	if diff := cmp.Diff(spend, s); diff != "" || err != nil {
		t.Errorf("what was spent: %v (-stored +read):\n%s", err, diff)
	}
}

// A row that cannot be read must stay for a person to look at: nobody may take
// it for an open gate, or a brake that is off, and store that.
func garbageRow(t *testing.T, l Controlled) {
	t.Helper()
	s, _ := Listen(t, l)
	s.Want("synced true")
	control(t, l, "gate", "{nope")
	control(t, l, "brake", `"on"`)
	s.Want("gate={nope", `brake="on"`)
	if g, err := l.UpdateGate(t.Context(), oneMore); err == nil {
		t.Errorf("a gate that cannot be read was changed to %+v", g)
	}
	if b, err := l.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b, true }); err == nil {
		t.Errorf("a brake that cannot be read was changed to %+v", b)
	}
	control(t, l, "gate", "{}")
	s.Want("gate={}")
}

func toldControls(t *testing.T, l Controlled) {
	t.Helper()
	s, _ := Listen(t, l)
	s.Want("synced true")
	for n := range 5 {
		updateGate(t, l, oneMore)
		s.Want(fmt.Sprintf(`gate={"used":%d}`, n+1))
	}
}

func rowRoundTrip(t *testing.T, l Controlled) {
	t.Helper()
	at := time.Date(2026, 11, 23, 10, 0, 0, 123456789, time.UTC)
	want := admission.Gate{
		Phase: admission.Closed, Until: at, Wait: 1234567, Reason: admission.ReasonUnknowns, Source: "host/<a>", Closures: 2, Unknowns: 3,
		Limit: 30, Budget: 20, Used: 10, Shared: true, Window: 7, Trickle: 4,
	}
	stored := updateGate(t, l, func(admission.Gate) (admission.Gate, bool) { return want, true })
	want.Revision = stored.Revision
	if got := readGate(t, l); !cmp.Equal(want, got) || stored.Revision == 0 {
		t.Errorf("(-stored +read):\n%s", cmp.Diff(want, got))
	}
}

func controlIsNoRecord(t *testing.T, l Controlled) {
	t.Helper()
	updateGate(t, l, oneMore)
	if err := l.Scan(t.Context(), func(e provision.Audited) { t.Errorf("a control is scanned as %+v", e) }); err != nil {
		t.Error(err)
	}
	for _, key := range []string{"gate", "ctl.gate"} {
		if r := load(t, l, key); r != nil {
			t.Errorf("the key %s has the record %+v", key, r)
		}
	}
}
