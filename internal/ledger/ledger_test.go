package ledger_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/ledger/ledgertest"
	"github.com/hostup/deploy-worker/internal/provision"
)

func TestMain(m *testing.M) { os.Exit(brokertest.Main(m)) }

// patient is a ledger in a new bucket that does not take a broker for gone that is
// only slow.
func patient(t testing.TB, js jetstream.JetStream, cfg ledger.Config) *ledger.Ledger {
	t.Helper()
	cfg.Bucket, cfg.AnswerTimeout, cfg.Timeout = bucket(t, js), time.Minute, time.Minute
	l := ledger.New(js, cfg)
	ledger.SetMissed(l, 60)
	return l
}

func TestMemoryConforms(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, func(*testing.T) ledgertest.Ledger { return ledger.NewMemory() })
}

func TestJetStreamConforms(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, func(t *testing.T) ledgertest.Ledger {
		t.Helper()
		_, js := brokertest.Connect(t, brokertest.Start(t))
		return patient(t, js, ledger.Config{})
	})
}

// Every write is told of, before it is sent and when it is stored: the row of an
// intent after the intent was sent, and what was refused is not told as stored.
func TestStepsAreTold(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	var steps []string
	l := patient(t, js, ledger.Config{Step: func(key string, stored bool) {
		kind, _, _ := strings.Cut(key, ".")
		steps = append(steps, fmt.Sprintf("%s %t", kind, stored))
	}})
	r := ledgertest.Record("k", "web-01")
	if err := l.Intend(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	stale := *r
	r.State = provision.StateCreated
	if err := l.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := l.Store(t.Context(), &stale); !errors.Is(err, provision.ErrConflict) {
		t.Errorf("Store at a stale revision = %v", err)
	}
	if err := l.Release(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := l.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b, false }); err != nil {
		t.Fatal(err)
	}
	if _, err := l.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b.Set(time.Now(), "me", "why") }); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"rec false", "name false", "rec true", "name true", // the intent
		"rec false", "rec true", "rec false", "name false", "name true", "ctl false", "ctl true",
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// The usual request, whose name nobody else has used, costs one write to give
// its name back and no read.
func TestNewNamesAreReleasedUnread(t *testing.T) {
	t.Parallel()
	nc, js := brokertest.Connect(t, brokertest.Start(t))
	l := patient(t, js, ledger.Config{})
	r := ledgertest.Record("k", "web-01")
	if err := l.Intend(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	reads, err := nc.SubscribeSync("$JS.API.STREAM.MSG.GET.>")
	if err != nil {
		t.Fatal(err)
	}
	r.VPSID = "vps_1"
	if err := l.Release(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	past, err := l.Finished(t.Context(), "web-01") // reads once
	if err != nil || !slices.Equal(past.IDs, []string{"vps_1"}) {
		t.Errorf("after Release the name remembers %v, %v", past.IDs, err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := reads.Pending(); err != nil || n != 1 {
		t.Errorf("%d reads, %v; want the one of Finished", n, err)
	}
}

// bucket makes the ledger's bucket as `worker setup` does.
func bucket(t testing.TB, js jetstream.JetStream) string {
	t.Helper()
	const name = "deploy-ledger"
	cfg := jetstream.StreamConfig{
		Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"}, MaxMsgsPerSubject: 1,
		Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true,
		AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Minute, Storage: jetstream.FileStorage,
	}
	// One that was just deleted may still be in the way.
	const storeInTheWay = 10049
	for {
		_, err := js.CreateStream(t.Context(), cfg)
		var refused *jetstream.APIError
		switch {
		case err == nil:
			return name
		case !errors.As(err, &refused) || refused.ErrorCode != storeInTheWay:
			t.Fatalf("create the bucket: %v", err)
		}
	}
}
