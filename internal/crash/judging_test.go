package crash

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// The judge is tested on made-up facts: a judge that sees nothing would let
// every round pass.

func goodOrder(key, name string) order {
	return order{key: key, name: name, cores: 1, memory: 2, storage: 50}
}

func invoice(o order, id string) simulator.Invoice {
	return simulator.Invoice{VPSID: id, Name: o.name, Resources: simulator.Resources{CPUCores: o.cores, MemoryGB: o.memory, StorageGB: o.storage}}
}

func told(o order, kind, vpsID string) event {
	return event{Kind: kind, ID: keyHash(o.key) + "." + kind, Key: o.key, VPSID: vpsID, Data: vpsID}
}

func failed(o order, reason, billed string) event {
	e := told(o, "failed", "")
	e.Reason, e.Billed = reason, billed
	return e
}

func heldOnce(o order) event {
	return event{Kind: "held", ID: keyHash(o.key) + ".held.1", Key: o.key}
}

func create(o order, at time.Duration, outcome string, created bool) simulator.Create {
	return simulator.Create{Name: o.name, At: time.Unix(0, 0).Add(at), Outcome: outcome, Created: created}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	a, b := goodOrder("a", "web"), goodOrder("b", "db")
	twin := goodOrder("twin", "web")
	bought := func(o order, id string) facts {
		return facts{
			orders: []order{o}, creates: []simulator.Create{create(o, 0, "201", true)},
			invoices: []simulator.Invoice{invoice(o, id)}, events: []event{told(o, "provisioning", id)},
		}
	}
	with := func(f facts, change func(*facts)) facts {
		change(&f)
		return f
	}
	missed := func(outcome string, gap time.Duration) facts {
		return with(bought(a, "v1"), func(f *facts) {
			f.creates = []simulator.Create{create(a, 0, outcome, false), create(a, gap, "201", true)}
		})
	}
	for name, test := range map[string]struct {
		facts facts
		want  []breach
	}{
		"one server, one event": {bought(a, "v1"), nil},
		"an event stored twice": {with(bought(a, "v1"), func(f *facts) { f.events = append(f.events, f.events[0]) }), nil},
		"refused":               {facts{orders: []order{a}, creates: []simulator.Create{create(a, 0, "400", false)}, events: []event{failed(a, "refused", "no")}}, nil},
		"a sender killed while it sent": {with(bought(a, "v1"), func(f *facts) {
			f.creates = append(f.creates, simulator.Create{Outcome: "cut"})
		}), nil},
		"two servers": {with(bought(a, "v1"), func(f *facts) {
			f.invoices = append(f.invoices, invoice(a, "v2"))
		}), []breach{tooManyServers, unannounced}},
		"a server for nobody": {with(bought(a, "v1"), func(f *facts) {
			f.invoices = append(f.invoices, invoice(b, "v2"))
		}), []breach{nobodyAsked}},
		"a create for nobody": {with(bought(a, "v1"), func(f *facts) {
			f.creates = append(f.creates, create(b, 0, "400", false))
		}), []breach{nobodyAsked}},
		"two outcomes": {with(bought(a, "v1"), func(f *facts) {
			f.events = append(f.events, failed(a, "refused", "unknown"))
		}), []breach{wrongEventID}},
		"an id that is not the key's": {with(bought(a, "v1"), func(f *facts) { f.events[0].ID = "x" }), []breach{wrongEventID}},
		"an event that changed": {with(bought(a, "v1"), func(f *facts) {
			e := f.events[0]
			e.Data = "other"
			f.events = append(f.events, e)
		}), []breach{eventChanged}},
		"no outcome":     {facts{orders: []order{a}}, []breach{notEnded}},
		"held is no end": {facts{orders: []order{a}, events: []event{heldOnce(a)}}, []breach{notEnded}},
		"held is an end": {facts{orders: []order{a}, events: []event{heldOnce(a)}, allowHeld: true}, nil},
		"billed and held": {facts{
			orders: []order{a}, invoices: []simulator.Invoice{invoice(a, "v1")}, events: []event{heldOnce(a)}, allowHeld: true,
		}, nil},
		"twice billed and held": {facts{
			orders: []order{a}, invoices: []simulator.Invoice{invoice(a, "v1"), invoice(a, "v2")}, events: []event{heldOnce(a)}, allowHeld: true,
		}, []breach{tooManyServers, unannounced}},
		"billed, and said to be unknown": {facts{
			orders: []order{a}, invoices: []simulator.Invoice{invoice(a, "v1")}, events: []event{failed(a, "outcome-unknown", "unknown")},
		}, []breach{unannounced}},
		"billed, and said not to be": {facts{
			orders: []order{a}, invoices: []simulator.Invoice{invoice(a, "v1")}, events: []event{failed(a, "refused", "no")},
		}, []breach{differentBilled}},
		"a foreign server announced": {with(bought(a, "v1"), func(f *facts) {
			f.events = []event{told(a, "provisioning", "v9")}
		}), []breach{wrongServer, unannounced}},
		"a create after a purchase": {with(bought(a, "v1"), func(f *facts) {
			f.creates = append(f.creates, create(a, time.Hour, "400", false))
		}), []breach{unprovenCreate}},
		"a create after a refusal":     {missed("429", 0), nil},
		"a create after 408":           {missed("408", 0), []breach{unprovenCreate}},
		"a create too soon":            {missed("cut", settleUnanswered-1), []breach{unprovenCreate}},
		"a create in time":             {missed("cut", settleUnanswered), nil},
		"a create in time after a 5xx": {missed("500", settleAnswered), nil},
		"a create that nobody could prove": {with(missed("cut", time.Hour), func(f *facts) {
			f.allowHeld = true
		}), []breach{unprovenCreate}},
		"two keys, one name": {facts{
			orders: []order{a, twin}, creates: []simulator.Create{create(a, 0, "201", true), create(a, 1, "201", true)},
			invoices: []simulator.Invoice{invoice(a, "v1"), invoice(a, "v2")},
			events:   []event{told(a, "provisioning", "v1"), told(twin, "provisioning", "v2")},
		}, nil},
		"unreadable messages": {with(bought(a, "v1"), func(f *facts) {
			f.letters, f.buried = []string{"x", "y"}, []string{"y", "x"}
		}), nil},
		"an unreadable message lost, another one twice": {with(bought(a, "v1"), func(f *facts) {
			f.letters, f.buried = []string{"x", "y"}, []string{"y", "y"}
		}), []breach{notBuried, notBuried}},
		"a request buried": {with(bought(a, "v1"), func(f *facts) { f.buried = []string{"{}"} }), []breach{notBuried}},
		"two keys, one name, one server": {facts{
			orders: []order{a, twin}, creates: []simulator.Create{create(a, 0, "201", true)}, invoices: []simulator.Invoice{invoice(a, "v1")},
			events: []event{told(a, "provisioning", "v1"), told(twin, "provisioning", "v1")},
		}, []breach{wrongServer}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []breach
			for _, v := range test.facts.judge() {
				got = append(got, v.kind)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("have %q, want %q", got, test.want)
			}
		})
	}
}

func TestPlansAreDrawnFromSeedAndNumberAlone(t *testing.T) {
	t.Parallel()
	first, again := drawPlan(7, 3, false).String(), drawPlan(7, 3, false).String()
	if first != again {
		t.Errorf("the same round was drawn twice and differs:\n%s\n%s", first, again)
	}
	if other := drawPlan(7, 4, false).String(); first == other {
		t.Error("two rounds are the same")
	}
}

func TestEveryStrikeHasItsTurn(t *testing.T) {
	t.Parallel()
	seen := make(map[strike]bool)
	for round := range strikes() {
		p := drawPlan(1, round+1, false)
		seen[p.main] = true
		for n, runs := range p.armed {
			if want := fmt.Sprintf("%s:%d=%s", p.main.point, p.main.nth, p.main.action); !strings.Contains(runs[0], want) {
				t.Errorf("round %d: worker %d has not armed %s", round+1, n+1, want)
			}
		}
		if p.about("spend") && p.cap == 0 || p.about("brake") && p.cap != lowCap || len(p.letters) == 0 {
			t.Errorf("round %d is about %v and cannot reach it: cap %d, %d unreadable messages", round+1, p.main, p.cap, len(p.letters))
		}
	}
	if len(seen) != len(strikes()) {
		t.Errorf("%d of %d strikes have their turn in as many rounds", len(seen), len(strikes()))
	}
}

func TestRoundsAreChosen(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		about string
		want  int
	}{{"", 5}, {"mend", 5}, {"row.before,gate", 5}, {"mendd", 0}, {"store.created.after", 5}} {
		s := suite{first: 7, rounds: 5, about: test.about}
		got := s.chosenRounds()
		if len(got) != test.want || len(got) > 0 && got[0] < 7 {
			t.Errorf("%q: rounds %v", test.about, got)
		}
		for _, n := range got {
			if point := mainStrike(n).point; test.about != "" && !slices.ContainsFunc(strings.Split(test.about, ","), func(p string) bool { return strings.HasPrefix(point, p) }) {
				t.Errorf("%q: round %d is about %s", test.about, n, point)
			}
		}
	}
}

func TestOnlyOneScenariosFactsAreItsOwn(t *testing.T) {
	t.Parallel()
	l := load{name: "cut"}
	mine, other := l.order(7), (&load{name: "leader"}).order(7)
	f := facts{
		creates:  []simulator.Create{create(mine, 0, "201", true), create(other, 0, "201", true)},
		invoices: []simulator.Invoice{invoice(mine, "v1"), invoice(other, "v2")},
		events:   []event{told(mine, "provisioning", "v1"), told(other, "provisioning", "v2")},
	}
	got := f.only("cut-")
	if len(got.creates) != 1 || len(got.invoices) != 1 || len(got.events) != 1 || got.creates[0].Name != mine.name {
		t.Errorf("have %d creates, %d invoices, %d events, want the one of %s", len(got.creates), len(got.invoices), len(got.events), mine.name)
	}
	if len(f.creates) != 2 {
		t.Error("what was chosen from has changed")
	}
}

func TestLongestGapIsBetweenNeighbours(t *testing.T) {
	t.Parallel()
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	if got := longestGap([]time.Time{at(9), at(1), at(3), at(4)}); got != 5*time.Second {
		t.Errorf("have %s, want 5s", got)
	}
	if got := longestGap(nil); got != 0 {
		t.Errorf("have %s for nothing, want 0", got)
	}
}

func TestScenariosAreChosen(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		names string
		short bool
		want  int // 0 is an error
	}{
		{"", false, len(scenarios)},
		{"", true, 3},
		{"cut,pause", true, 2},
		{"cut,pauze", false, 0},
		{",", false, 0},
	} {
		got, err := (&suite{scenarios: test.names, short: test.short}).chosen()
		if (err != nil) != (test.want == 0) || err == nil && len(got) != test.want {
			t.Errorf("%q, short %t: have %d, %v, want %d", test.names, test.short, len(got), err, test.want)
		}
	}
}
