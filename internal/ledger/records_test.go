package ledger_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/ledger/ledgertest"
	"github.com/hostup/deploy-worker/internal/provision"
)

// One record that nobody can read must not hide the others from who looks for
// them at night, and must be named.
func TestRecordsGoOnBehindAnUnreadableOne(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	name := bucket(t, js)
	l := ledger.New(js, ledger.Config{Bucket: name})
	for _, key := range []string{"before", "broken", "after"} {
		if key != "broken" {
			if err := l.Intend(t.Context(), ledgertest.Record(key, "web-"+key)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		m := nats.NewMsg("$KV." + name + ".rec." + provision.KeyHash(key))
		m.Header.Set("deploy-state", string(provision.StateCreating))
		m.Data = []byte(`{"idempotencyKey":7}`)
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]bool{"before": true, "after": true}
	for what, states := range map[string][]provision.State{"all": nil, "creating": {provision.StateCreating}} {
		got := make(map[string]bool)
		err := l.Records(t.Context(), func(r *provision.Record) error {
			got[r.Key] = true
			return nil
		}, states...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		bad, ok := errors.AsType[*ledger.UnreadableError](err)
		if !ok || len(bad.Hashes) != 1 || bad.Hashes[0] != provision.KeyHash("broken") {
			t.Errorf("%s: %v, want an UnreadableError of one", what, err)
		}
	}
}
