package ledgertest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Watched is a ledger that tells what changes.
type Watched interface {
	Ledger
	Tended
	// PutControl writes ctl.<name>.
	PutControl(ctx context.Context, name string, data []byte) error
}

// Tended is a ledger whose open rows are looked after.
type Tended interface {
	Watch(ctx context.Context, w ledger.Watch)
	Mend(ctx context.Context, hash string) (bool, error)
}

// RunWatch holds the ledgers that open returns to what Watch and Mend promise.
func RunWatch(t *testing.T, open func(t *testing.T) Watched) {
	t.Helper()
	cases := map[string]func(*testing.T, Watched){
		"the initial state is told before it is synced": initialState,
		"an empty ledger is synced at once":             emptySynced,
		"changes are told as they happen":               liveChanges,
		"changes of many names are told in their order": inOrder,
		"a take-over tells what it was left with":       toldTakeOver,
		"a row that nobody released is mended":          mended,
		"a row whose owner is gone is mended":           mendedWithoutOwner,
		"a row in use is not mended":                    notMended,
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// patience is how long what has to come is waited for.
const patience = 20 * time.Second

// Tale is what a watch told, as lines, in order.
type Tale struct {
	t     *testing.T
	lines chan string
	names map[string]string // by hash
}

// Listen watches l until the test or the returned function ends it. Names are
// those that the tale may mention.
func Listen(t *testing.T, l Watched, names ...string) (*Tale, func()) {
	t.Helper()
	tale := &Tale{t: t, lines: make(chan string, 10_000), names: make(map[string]string)}
	for _, n := range names {
		tale.names[provision.KeyHash(n)] = n
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Watch(ctx, ledger.Watch{
			Name:    func(hash string, row provision.NameRow) { tale.lines <- tale.row(hash, row) },
			Control: func(name string, data []byte, _ uint64) { tale.lines <- fmt.Sprintf("%s=%s", name, data) },
			Synced:  func(live bool) { tale.lines <- fmt.Sprint("synced ", live) },
		})
	}()
	end := func() {
		cancel()
		<-ended
	}
	t.Cleanup(end)
	return tale, end
}

func (s *Tale) row(hash string, row provision.NameRow) string {
	name := s.names[hash]
	if name == "" {
		name = "?" + hash
	}
	if row == (provision.NameRow{}) {
		return name + " gone"
	}
	owner := row.Owner
	for _, k := range []string{"a", "b", "c"} {
		if provision.KeyHash(k) == owner {
			owner = k
		}
	}
	size := fmt.Sprintf("%d/%d/%d/%d", row.Size.CPUCores, row.Size.MemoryGB, row.Size.StorageGB, row.Size.Instances)
	return strings.TrimSpace(fmt.Sprintf("%s open=%v owner=%s %s since=%v revision=%v %s", name, row.Open, owner, size, !row.Since.IsZero(), row.Revision > 0, row.VPSID))
}

// Next returns the next line.
func (s *Tale) Next() string {
	s.t.Helper()
	select {
	case line := <-s.lines:
		return line
	case <-time.After(patience):
		s.t.Fatal("the watch tells nothing")
		return ""
	}
}

// Want expects these lines next.
func (s *Tale) Want(lines ...string) {
	s.t.Helper()
	for _, want := range lines {
		if got := s.Next(); got != want {
			s.t.Errorf("the watch tells %q, want %q", got, want)
		}
	}
}

// Until expects a line, and returns what comes before it.
func (s *Tale) Until(line string) (before []string) {
	s.t.Helper()
	for got := s.Next(); got != line; got = s.Next() {
		before = append(before, got)
	}
	return before
}

// Lines of the orders that Record makes, about web-1.
func openLine(owner string) string {
	return "web-1 open=true owner=" + owner + " 2/4/80/1 since=true revision=true"
}

func closedLine(owner, vpsID string) string {
	return strings.TrimSpace("web-1 open=false owner=" + owner + " 2/4/80/1 since=true revision=true " + vpsID)
}

func release(t *testing.T, l Ledger, r *provision.Record, vpsID string) {
	t.Helper()
	r.State, r.VPSID = provision.StateDone, vpsID
	store(t, l, r)
	if err := l.Release(t.Context(), r); err != nil {
		t.Fatalf("Release: %v", err)
	}
}

func control(t *testing.T, l Watched, name, data string) {
	t.Helper()
	if err := l.PutControl(t.Context(), name, []byte(data)); err != nil {
		t.Fatalf("put the control %s: %v", name, err)
	}
}

func initialState(t *testing.T, l Watched) {
	t.Helper()
	intend(t, l, Record("a", "Web-1"))
	closed := Record("b", "web-2")
	intend(t, l, closed)
	release(t, l, closed, "vps_2")
	control(t, l, "gate", "x")
	s, _ := Listen(t, l, "web-1", "web-2")
	got := map[string]bool{s.Next(): true, s.Next(): true}
	if diff := cmp.Diff(map[string]bool{openLine("a"): true, "gate=x": true}, got); diff != "" {
		t.Errorf("the initial state (-want +got):\n%s", diff)
	}
	s.Want("synced true")
}

func emptySynced(t *testing.T, l Watched) {
	t.Helper()
	s, end := Listen(t, l)
	s.Want("synced true")
	end()
	s.Want("synced false")
}

func liveChanges(t *testing.T, l Watched) {
	t.Helper()
	s, _ := Listen(t, l, "web-1")
	s.Want("synced true")
	r := Record("a", "web-1")
	intend(t, l, r)
	s.Want(openLine("a"))
	r.Attempts = append(r.Attempts, provision.Attempt{Number: 2, Token: "t2", Within: time.Minute})
	intend(t, l, r)
	s.Want(openLine("a"))
	r.State = provision.StateAccepted
	store(t, l, r)
	if err := l.Release(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	s.Want(closedLine("a", ""))
	r.State = provision.StateCreating
	intend(t, l, r)
	s.Want(openLine("a"))
	release(t, l, r, "vps_1")
	s.Want(closedLine("a", "vps_1"))
	control(t, l, "gate", "1")
	s.Want("gate=1")
	control(t, l, "brake", "2")
	control(t, l, "gate", "3")
	s.Want("brake=2", "gate=3")
}

func inOrder(t *testing.T, l Watched) {
	t.Helper()
	const n = 20
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("web-%d", i))
	}
	s, _ := Listen(t, l, names...)
	s.Want("synced true")
	for _, name := range names {
		r := Record("a", name)
		r.Key += name
		intend(t, l, r)
	}
	for _, name := range names {
		if got := s.Next(); !strings.HasPrefix(got, name+" ") {
			t.Errorf("the watch tells %q, want %s", got, name)
		}
	}
}

func toldTakeOver(t *testing.T, l Watched) {
	t.Helper()
	s, _ := Listen(t, l, "web-1")
	s.Want("synced true")
	r := Record("a", "web-1")
	intend(t, l, r)
	s.Want(openLine("a"))
	r.State, r.VPSID = provision.StateCreated, "vps_1"
	store(t, l, r)
	intend(t, l, Record("b", "web-1"))
	s.Want(openLine("b") + " vps_1")
}

func mended(t *testing.T, l Watched) {
	t.Helper()
	s, _ := Listen(t, l, "web-1")
	s.Want("synced true")
	for _, state := range []provision.State{provision.StateAccepted, provision.StateFailed, provision.StateCreated, provision.StateDone} {
		r := load(t, l, "a")
		if r == nil {
			r = Record("a", "web-1")
		}
		r.State = provision.StateCreating
		intend(t, l, r)
		s.Want(openLine("a"))
		r.State, r.VPSID = state, ""
		if state == provision.StateDone {
			r.VPSID = "vps_1"
		}
		store(t, l, r)
		if did, err := l.Mend(t.Context(), provision.KeyHash("web-1")); !did || err != nil {
			t.Errorf("Mend of a row whose owner is %s = %v, %v", state, did, err)
		}
		s.Want(closedLine("a", r.VPSID))
	}
	if did, err := l.Mend(t.Context(), provision.KeyHash("web-1")); did || err != nil {
		t.Errorf("Mend of a closed row = %v, %v", did, err)
	}
	intend(t, l, Record("b", "web-1"))
	if past, err := l.Finished(t.Context(), "web-1"); err != nil || !past.Includes("vps_1") {
		t.Errorf("a mended row remembers %+v (%v), not the server that its owner was given", past, err)
	}
}

func mendedWithoutOwner(t *testing.T, l Watched) {
	t.Helper()
	r := Record("a", "web-1")
	intend(t, l, r)
	// The ledger lost the record, and the key was used again for another name.
	r.Request.Name = "web-2"
	intend(t, l, r)
	for name, want := range map[string]bool{"web-1": true, "web-2": false, "web-3": false} {
		if did, err := l.Mend(t.Context(), provision.KeyHash(name)); did != want || err != nil {
			t.Errorf("Mend(%s) = %v, %v, want %v", name, did, err, want)
		}
	}
}

func notMended(t *testing.T, l Watched) {
	t.Helper()
	r := Record("a", "web-1")
	intend(t, l, r)
	for _, state := range []provision.State{provision.StateCreating, provision.StateUnknown, provision.StateHeld} {
		r.State = state
		store(t, l, r)
		if did, err := l.Mend(t.Context(), provision.KeyHash("web-1")); did || err != nil {
			t.Errorf("Mend of a row whose owner is %s = %v, %v", state, did, err)
		}
	}
	wantTaken(t, l, Record("b", "web-1"), "a")
}
