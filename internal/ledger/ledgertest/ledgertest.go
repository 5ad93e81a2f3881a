// Package ledgertest is the conformance suite of the ledger: what the core
// relies on, shown for every implementation of it. It is for tests only.
package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Ledger is what is tested.
type Ledger interface {
	ports
	reader
}

// reader is what reads many records.
type reader interface {
	provision.Archive

	NewRoll(every time.Duration) *ledger.Roll
	Records(ctx context.Context, each func(*provision.Record) error, states ...provision.State) error
}

type ports interface {
	provision.Ledger
	provision.Names
}

// Run holds the ledgers that open returns to the contract of provision.Ledger
// and provision.Names. Each call of open gives an empty one.
func Run(t *testing.T, open func(t *testing.T) Ledger) {
	t.Helper()
	cases := map[string]func(*testing.T, Ledger){
		"an unknown key has no record":                          unknownKey,
		"a record comes back as it was stored":                  roundTrip,
		"a stale revision is refused":                           staleRevision,
		"of many writers one wins each revision":                oneWinner,
		"of many creators one wins":                             oneCreator,
		"an intent takes the name":                              intentTakesName,
		"a name is refused while its owner is unfinished":       nameRefused,
		"names are the same in any case of letters":             nameFolded,
		"a name is taken over from an owner that is not at it":  takeOver,
		"a released name is free and remembers its servers":     released,
		"an old attempt does not release the name of a new one": oldAttempt,
		"of many intents under one name one proceeds":           oneIntent,
		"a cancelled caller reads nothing":                      cancelled,
		"a scan tells the newest state of every record":         scan,
		"a scan beside changes misses nothing":                  scanBesideChanges,
		"a scan of the unfinished tells where they came from":   unfinished,
		"the records of some states, or all, are read once":     records,
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// Record returns a record in creating with its first attempt.
func Record(key, name string) *provision.Record {
	now := time.Date(2026, 11, 23, 10, 0, 0, 123456789, time.UTC)
	return &provision.Record{
		Key: key, State: provision.StateCreating,
		Request: provision.Request{
			Name: name, CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm",
			Metadata: map[string]string{"customer": "c-17"}, Deadline: now.Add(time.Hour),
		},
		Encoding: provision.Protobuf, CausationID: "ce-1", Trace: provision.Trace{Parent: "00-1", State: "a=b"},
		Stream: "DEPLOY", Sequence: 7, RequestedAt: now, Deadline: now.Add(time.Hour),
		Attempts: []provision.Attempt{{Number: 1, Token: "t-" + key, StartedAt: now, Within: time.Minute}},
		Sent:     1, LastProblem: []byte(`{"type":"about:blank","detail":"<a> & \u2028","n":12345678901234567890}`),
		CreatedAt: now, UpdatedAt: now,
	}
}

func unknownKey(t *testing.T, l Ledger) {
	t.Helper()
	r, err := l.Load(t.Context(), "nobody")
	if r != nil || err != nil {
		t.Errorf("Load of an unknown key = %v, %v; want neither", r, err)
	}
}

func roundTrip(t *testing.T, l Ledger) {
	t.Helper()
	want := Record("k", "web-01")
	store(t, l, want)
	if want.Revision == 0 {
		t.Error("Store did not set the revision")
	}
	if diff := cmp.Diff(want, load(t, l, "k")); diff != "" {
		t.Errorf("the record changed on the way (-stored +loaded):\n%s", diff)
	}
	if other := load(t, l, "K"); other != nil {
		t.Errorf("keys are folded: K gives %+v", other)
	}
}

func staleRevision(t *testing.T, l Ledger) {
	t.Helper()
	r := Record("k", "web-01")
	store(t, l, r)
	stale := load(t, l, "k")
	r.State = provision.StateUnknown
	store(t, l, r)
	before := stale.Revision
	stale.State = provision.StateFailed
	if err := l.Store(t.Context(), stale); !errors.Is(err, provision.ErrConflict) {
		t.Errorf("Store at a stale revision = %v, want ErrConflict", err)
	}
	if stale.Revision != before {
		t.Errorf("a refused Store moved the revision from %d to %d", before, stale.Revision)
	}
	again := Record("k", "web-01")
	if err := l.Store(t.Context(), again); !errors.Is(err, provision.ErrConflict) {
		t.Errorf("creating an existing record = %v, want ErrConflict", err)
	}
	if got := load(t, l, "k").State; got != provision.StateUnknown {
		t.Errorf("state is %q after refused writes", got)
	}
}

func oneWinner(t *testing.T, l Ledger) {
	t.Helper()
	r := Record("k", "web-01")
	store(t, l, r)
	const writers, rounds = 8, 10
	for round := range rounds {
		wins := race(t, writers, func(ctx context.Context, i int) error {
			mine, err := l.Load(ctx, "k")
			if err != nil {
				return err
			}
			mine.Revision = r.Revision // all start from the same
			mine.CausationID = fmt.Sprintf("%d/%d", round, i)
			err = l.Store(ctx, mine)
			return err
		})
		if wins != 1 {
			t.Fatalf("round %d: %d writers of one revision succeeded", round, wins)
		}
		r = load(t, l, "k")
	}
}

func oneCreator(t *testing.T, l Ledger) {
	t.Helper()
	if wins := race(t, 8, func(ctx context.Context, _ int) error { return l.Store(ctx, Record("k", "web-01")) }); wins != 1 {
		t.Errorf("%d creators succeeded", wins)
	}
}

func intentTakesName(t *testing.T, l Ledger) {
	t.Helper()
	first := Record("a", "web-01")
	intend(t, l, first)
	if got := load(t, l, "a"); got.State != provision.StateCreating || got.Revision != first.Revision {
		t.Errorf("after Intend the ledger has %q at %d, want creating at %d", got.State, got.Revision, first.Revision)
	}
	// The same request at its next attempt keeps the name.
	first.Attempts = append(first.Attempts, provision.Attempt{Number: 2, Token: "t2", Within: time.Minute})
	intend(t, l, first)
	wantTaken(t, l, Record("b", "web-01"), "a")
}

func nameRefused(t *testing.T, l Ledger) {
	t.Helper()
	owner := Record("a", "web-01")
	intend(t, l, owner)
	for _, s := range []provision.State{provision.StateCreating, provision.StateUnknown, provision.StateHeld} {
		owner.State = s
		store(t, l, owner)
		rival := Record("b-"+string(s), "web-01")
		wantTaken(t, l, rival, "a")
		if got := load(t, l, rival.Key); got == nil || got.Revision != rival.Revision {
			t.Errorf("after NameTakenError the rival's revision %d is not the stored one (%+v)", rival.Revision, got)
		}
	}
	intend(t, l, Record("c", "web-02"))
}

func nameFolded(t *testing.T, l Ledger) {
	t.Helper()
	intend(t, l, Record("a", "Web-01"))
	wantTaken(t, l, Record("b", "wEB-01"), "a")
}

func takeOver(t *testing.T, l Ledger) {
	t.Helper()
	for _, s := range []provision.State{provision.StateAccepted, provision.StateCreated, provision.StateFailed, provision.StateDone} {
		name := "web-" + string(s)
		owner := Record("a-"+string(s), name)
		intend(t, l, owner)
		owner.State = s
		store(t, l, owner)
		heir := Record("b-"+string(s), name)
		intend(t, l, heir)
		// The old owner must find out when it wants to go on.
		owner.State = provision.StateCreating
		owner.Attempts = append(owner.Attempts, provision.Attempt{Number: 2, Token: "t2-" + string(s)})
		wantTaken(t, l, owner, heir.Key)
	}
}

func released(t *testing.T, l Ledger) {
	t.Helper()
	first := Record("a", "web-01")
	intend(t, l, first)
	first.State, first.VPSID = provision.StateCreated, "vps_1"
	store(t, l, first)
	for range 2 { // repeating it is safe
		if err := l.Release(t.Context(), first); err != nil {
			t.Fatalf("Release: %v", err)
		}
	}
	second := Record("b", "web-01")
	intend(t, l, second)
	wantTaken(t, l, Record("c", "web-01"), "b")
}

func oldAttempt(t *testing.T, l Ledger) {
	t.Helper()
	r := Record("a", "web-01")
	intend(t, l, r)
	old := *r
	r.Attempts = append([]provision.Attempt(nil), r.Attempts...)
	r.Attempts = append(r.Attempts, provision.Attempt{Number: 2, Token: "newer"})
	intend(t, l, r)
	if err := l.Release(t.Context(), &old); err != nil {
		t.Fatalf("Release: %v", err)
	}
	wantTaken(t, l, Record("b", "web-01"), "a")
}

func oneIntent(t *testing.T, l Ledger) {
	t.Helper()
	const rivals = 8
	wins := race(t, rivals, func(ctx context.Context, i int) error {
		return l.Intend(ctx, Record(fmt.Sprintf("k%d", i), "web-01"))
	})
	if wins != 1 {
		t.Errorf("%d of %d requests got the same name", wins, rivals)
	}
}

func cancelled(t *testing.T, l Ledger) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Load(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("Load with a cancelled context = %v", err)
	}
}

// race runs f at once in n goroutines and counts the successes. A failure must
// be a refusal.
func race(t *testing.T, n int, f func(ctx context.Context, i int) error) int {
	t.Helper()
	var (
		ready, done sync.WaitGroup
		mu          sync.Mutex
		wins        int
	)
	start := make(chan struct{})
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			<-start
			err := f(t.Context(), i)
			var taken *provision.NameTakenError
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				wins++
			case !errors.Is(err, provision.ErrConflict) && !errors.As(err, &taken):
				t.Errorf("rival %d: %v", i, err)
			}
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	return wins
}

func wantTaken(t *testing.T, l Ledger, r *provision.Record, owner string) {
	t.Helper()
	err := l.Intend(t.Context(), r)
	var taken *provision.NameTakenError
	if !errors.As(err, &taken) || taken.Owner != owner {
		t.Errorf("Intend of %q under a taken name = %v, want NameTakenError by %q", r.Key, err, owner)
	}
}

func store(t *testing.T, l Ledger, r *provision.Record) {
	t.Helper()
	if err := l.Store(t.Context(), r); err != nil {
		t.Fatalf("Store %q: %v", r.Key, err)
	}
}

func intend(t *testing.T, l Ledger, r *provision.Record) {
	t.Helper()
	if err := l.Intend(t.Context(), r); err != nil {
		t.Fatalf("Intend %q: %v", r.Key, err)
	}
}

func load(t *testing.T, l Ledger, key string) *provision.Record {
	t.Helper()
	r, err := l.Load(t.Context(), key)
	if err != nil {
		t.Fatalf("Load %q: %v", key, err)
	}
	return r
}
