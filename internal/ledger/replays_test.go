package ledger_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/ledger"
)

func TestReplaysAreCountedAndKept(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) *ledger.Ledger{
		"memory": func(*testing.T) *ledger.Ledger { return ledger.NewMemory() },
		"JetStream": func(t *testing.T) *ledger.Ledger {
			t.Helper()
			_, js := brokertest.Connect(t, brokertest.Start(t))
			return patient(t, js, ledger.Config{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := open(t)
			if got, err := l.Replays(t.Context()); err != nil || len(got) != 0 {
				t.Errorf("of nothing: %v, %v", got, err)
			}
			if r, err := l.Replayed(t.Context(), "a"); err != nil || r.Times != 0 {
				t.Errorf("a before: %+v, %v", r, err)
			}
			at := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
			want := map[string]ledger.Replay{
				"a": {Letter: "a", Times: 2, At: at, By: "ann", Key: "k", Stream: "DEPLOY", Sequence: 9},
				"b": {Letter: "b", Times: 1, At: at, By: "bob", Stream: "DEPLOY", Sequence: 4},
			}
			for _, r := range []ledger.Replay{{Letter: "a", By: "old"}, want["b"], want["a"]} {
				r.Times = 0
				if err := l.NoteReplay(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
			got, err := l.Replays(t.Context())
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(ledger.Replay{}, "Revision")); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			one, err := l.Replayed(t.Context(), "a")
			if diff := cmp.Diff(want["a"], one, cmpopts.IgnoreFields(ledger.Replay{}, "Revision")); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}
