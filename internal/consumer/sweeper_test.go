package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Only what is quiet, unfinished and without its message is driven.
func TestSweep(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 1)
	r.publish("one", "two")
	s, err := r.js.Stream(t.Context(), "DEPLOY")
	if err != nil {
		t.Fatal(err)
	}
	stored := make(map[uint64]time.Time)
	for seq := uint64(1); seq <= 2; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		stored[seq] = m.Time
	}
	if err := s.DeleteMsg(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	record := func(key, stream string, seq uint64, at time.Time, state provision.State) *provision.Record {
		return &provision.Record{Key: key, State: state, Stream: stream, Sequence: seq, RequestedAt: at}
	}
	ledger := map[string]*provision.Record{
		"waiting":   record("waiting", "DEPLOY", 1, stored[1], provision.StateAccepted),
		"purged":    record("purged", "DEPLOY", 2, stored[2], provision.StateUnknown),
		"young":     record("young", "DEPLOY", 2, stored[2], provision.StateUnknown),
		"finished":  record("finished", "DEPLOY", 2, stored[2], provision.StateDone),
		"no-stream": record("no-stream", "GONE", 9, stored[1], provision.StateCreated),
		// The stream was made anew: number 1 is somebody else's message.
		"anew":      record("anew", "DEPLOY", 1, stored[1].Add(-time.Hour), provision.StateHeld),
		"forgotten": nil,
	}
	var mu sync.Mutex
	driven := make(map[string]bool)
	sweeper := consumer.NewSweeper(consumer.SweepPorts{
		JetStream: r.js, Log: slog.New(slog.DiscardHandler),
		Unfinished: func(_ context.Context, each func(consumer.Unfinished)) error {
			for hash := range ledger {
				at := time.Now().Add(-time.Hour)
				if hash == "young" {
					at = time.Now()
				}
				each(consumer.Unfinished{Hash: hash, StoredAt: at})
			}
			return nil
		},
		Load: func(_ context.Context, hash string) (*provision.Record, error) { return ledger[hash], nil },
		Resume: func(_ context.Context, key string) provision.Disposition {
			mu.Lock()
			defer mu.Unlock()
			driven[key] = true
			return provision.Disposition{}
		},
	}, time.Hour, time.Minute)
	n, err := sweeper.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]bool{"purged": true, "no-stream": true, "anew": true}, driven); diff != "" || n != 3 {
		t.Errorf("drove %d (-want +got):\n%s", n, diff)
	}
}

func TestSweepReportsWhatItCannotRead(t *testing.T) {
	t.Parallel()
	broken := errors.New("no leader")
	sweeper := consumer.NewSweeper(consumer.SweepPorts{
		Log:        slog.New(slog.DiscardHandler),
		Unfinished: func(context.Context, func(consumer.Unfinished)) error { return broken },
	}, time.Hour, time.Minute)
	if _, err := sweeper.Sweep(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Sweep = %v", err)
	}
}

// Where acked messages stay in the stream, what its consumer is done with is
// gone: nobody will deliver it again. A lane that has nothing to do holds nothing
// back.
func TestSweepWhereAckedMessagesStay(t *testing.T) {
	t.Parallel()
	for _, retention := range []jetstream.RetentionPolicy{jetstream.LimitsPolicy, jetstream.InterestPolicy} {
		t.Run(retention.String(), func(t *testing.T) {
			t.Parallel()
			_, js := brokertest.Connect(t, brokertest.Start(t))
			s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "THEIRS", Subjects: []string{"deploy.>"}, Retention: retention})
			if err != nil {
				t.Fatal(err)
			}
			lane := func(name, subject string) jetstream.Consumer {
				c, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{
					Durable: name, AckPolicy: jetstream.AckExplicitPolicy, FilterSubjects: []string{subject},
				})
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			singles := lane("worker", subject)
			lane("worker-batch", batches)
			// Somebody else's consumer, which keeps the messages of an interest stream.
			lane("theirs", "deploy.>")
			answer := map[string]func(jetstream.Msg) error{
				"acked": jetstream.Msg.Ack, "buried": jetstream.Msg.Term,
				"waits":   func(m jetstream.Msg) error { return m.NakWithDelay(time.Hour) },
				"in hand": jetstream.Msg.InProgress,
			}
			keys := []string{"acked", "buried", "waits", "in hand", "new"}
			for _, key := range keys {
				if _, err := js.Publish(t.Context(), subject, []byte(key)); err != nil {
					t.Fatal(err)
				}
			}
			for range len(keys) - 1 {
				m, err := singles.Next()
				if err != nil {
					t.Fatal(err)
				}
				if err := answer[string(m.Data())](m); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "the broker to have the acks", func() bool {
				i, err := singles.Info(t.Context())
				return err == nil && i.AckFloor.Stream == 2
			})
			var unfinished []*provision.Record
			for i, key := range keys {
				m, err := s.GetMsg(t.Context(), uint64(i+1))
				if err != nil {
					t.Fatal(err)
				}
				unfinished = append(unfinished, &provision.Record{Key: key, State: provision.StateUnknown, Stream: "THEIRS", Sequence: m.Sequence, RequestedAt: m.Time})
			}
			if driven := sweepOnce(t, js, unfinished...); !slices.Equal(driven, []string{"acked", "buried"}) {
				t.Errorf("drove %q", driven)
			}
		})
	}
}

// sweepOnce sweeps some records with both consumers, and says which it drove.
func sweepOnce(t *testing.T, js jetstream.JetStream, unfinished ...*provision.Record) []string {
	t.Helper()
	var mu sync.Mutex
	var driven []string
	sweeper := consumer.NewSweeper(consumer.SweepPorts{
		JetStream: js, Consumers: []string{"worker", "worker-batch"}, Log: slog.New(slog.DiscardHandler),
		Unfinished: func(_ context.Context, each func(consumer.Unfinished)) error {
			for _, r := range unfinished {
				each(consumer.Unfinished{Hash: r.Key, StoredAt: time.Now().Add(-time.Hour)})
			}
			return nil
		},
		Load: func(_ context.Context, hash string) (*provision.Record, error) {
			i := slices.IndexFunc(unfinished, func(r *provision.Record) bool { return r.Key == hash })
			return unfinished[i], nil
		},
		Resume: func(_ context.Context, key string) provision.Disposition {
			mu.Lock()
			defer mu.Unlock()
			driven = append(driven, key)
			return provision.Disposition{}
		},
	}, time.Hour, time.Minute)
	if n, err := sweeper.Sweep(t.Context()); err != nil || n != len(driven) {
		t.Errorf("Sweep = %d, %v, and %d were driven", n, err, len(driven))
	}
	slices.Sort(driven)
	return driven
}

// deaf is a broker that does not answer for one stream.
type deaf struct {
	jetstream.JetStream
}

var errDeaf = errors.New("no answer")

func (d deaf) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	if name == "DEAF" {
		return nil, errDeaf
	}
	return d.JetStream.Stream(ctx, name)
}

// What cannot be read, looked for or handled keeps nobody else from being
// driven, wherever it stands, and each is told of.
func TestSweepGoesOnPastWhatIsBroken(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute, 1)
	unreadable := errors.New("decode revision 7")
	const others = 40
	broken := []string{"unreadable", "deaf", "poison"}
	hashes := slices.Clone(broken)
	for i := range others {
		hashes = append(hashes, fmt.Sprintf("gone-%d", i))
	}
	var driven atomic.Int64
	sweeper := consumer.NewSweeper(consumer.SweepPorts{
		JetStream: deaf{r.js}, Log: slog.New(slog.NewTextHandler(r.logs, nil)),
		Unfinished: func(_ context.Context, each func(consumer.Unfinished)) error {
			for _, hash := range hashes {
				each(consumer.Unfinished{Hash: hash, StoredAt: time.Now().Add(-time.Hour)})
			}
			return nil
		},
		Load: func(ctx context.Context, hash string) (*provision.Record, error) {
			if hash == "unreadable" {
				return nil, unreadable
			}
			stream := "GONE"
			if hash == "deaf" {
				stream = "DEAF"
			}
			return &provision.Record{Key: hash, State: provision.StateUnknown, Stream: stream, Sequence: 1}, ctx.Err()
		},
		Resume: func(ctx context.Context, key string) provision.Disposition {
			if key == "poison" {
				panic("boom")
			}
			if ctx.Err() == nil {
				driven.Add(1)
			}
			return provision.Disposition{}
		},
	}, time.Hour, time.Minute)
	n, err := sweeper.Sweep(t.Context())
	if n != others || driven.Load() != others {
		t.Errorf("drove %d, counted %d, want %d", driven.Load(), n, others)
	}
	if !errors.Is(err, unreadable) || !errors.Is(err, errDeaf) || !strings.Contains(fmt.Sprint(err), "boom") {
		t.Errorf("Sweep = %v", err)
	}
	for _, hash := range broken {
		if !strings.Contains(fmt.Sprint(err), hash) {
			t.Errorf("%q does not say which record is meant: %s", err, hash)
		}
	}
}

// One row that cannot be mended does not keep the others.
func TestSweepNames(t *testing.T) {
	t.Parallel()
	broken := errors.New("no leader")
	var asked []string
	sweeper := consumer.NewSweeper(consumer.SweepPorts{
		Log: slog.New(slog.DiscardHandler),
		OpenNames: func(quiet time.Duration) []string {
			if quiet != time.Minute {
				t.Errorf("rows open for %s are asked for", quiet)
			}
			return []string{"broken", "left", "in use"}
		},
		Mend: func(_ context.Context, hash string) (bool, error) {
			asked = append(asked, hash)
			if hash == "broken" {
				return false, broken
			}
			return hash == "left", nil
		},
	}, time.Hour, time.Minute)
	n, err := sweeper.SweepNames(t.Context())
	if n != 1 || !errors.Is(err, broken) || len(asked) != 3 {
		t.Errorf("SweepNames = %d, %v after asking for %q", n, err, asked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := sweeper.SweepNames(ctx); n != 0 || err != nil || len(asked) != 3 {
		t.Errorf("SweepNames at the end = %d, %v", n, err)
	}
}
