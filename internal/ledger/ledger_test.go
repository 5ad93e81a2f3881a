package ledger_test

import (
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/ledger/ledgertest"
)

func TestMain(m *testing.M) { os.Exit(brokertest.Main(m)) }

func TestMemoryConforms(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, func(*testing.T) ledgertest.Ledger { return ledger.NewMemory() })
}

func TestJetStreamConforms(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, func(t *testing.T) ledgertest.Ledger {
		t.Helper()
		_, js := brokertest.Connect(t, brokertest.Start(t))
		return ledger.New(js, ledger.Config{Bucket: bucket(t, js)})
	})
}

// bucket makes the ledger's bucket as `worker setup` does.
func bucket(t testing.TB, js jetstream.JetStream) string {
	t.Helper()
	const name = "deploy-ledger"
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"}, MaxMsgsPerSubject: 1,
		Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true,
		AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Minute, Storage: jetstream.FileStorage,
	})
	if err != nil {
		t.Fatalf("create the bucket: %v", err)
	}
	return name
}
