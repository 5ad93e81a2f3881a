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
	for about, labelled := range map[string]bool{"by labels": true, "by the records, as older versions wrote them": false} {
		t.Run(about, func(t *testing.T) {
			t.Parallel()
			sweep(t, labelled)
		})
	}
}

func sweep(t *testing.T, labelled bool) {
	t.Helper()
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
		"not-yet":   record("not-yet", "DEPLOY", 3, stored[2].Add(time.Hour), provision.StateCreated),
		"forgotten": nil,
	}
	var mu sync.Mutex
	driven := make(map[string]bool)
	sweeper := consumer.NewSweeper(consumer.SweepPorts{
		JetStream: r.js, Consumers: []string{"worker", "worker-batch"}, Log: slog.New(slog.DiscardHandler),
		Unfinished: func(_ context.Context, each func(consumer.Unfinished)) error {
			for hash, rec := range ledger {
				at := time.Now().Add(-time.Hour)
				if hash == "young" {
					at = time.Now()
				}
				u := consumer.Unfinished{Hash: hash, StoredAt: at}
				if labelled && rec != nil {
					u.Origin = consumer.Origin{Stream: rec.Stream, Sequence: rec.Sequence, At: rec.RequestedAt}
				}
				each(u)
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
	if diff := cmp.Diff(map[string]bool{"purged": true, "no-stream": true, "anew": true, "not-yet": true}, driven); diff != "" || n != 4 {
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
				each(consumer.Unfinished{Hash: r.Key, StoredAt: time.Now().Add(-time.Hour), Origin: consumer.Origin{Stream: r.Stream, Sequence: r.Sequence, At: r.RequestedAt}})
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

// crowdOf is a work queue in which so many requests wait, and their records, as
// the ledger's headers tell of them.
func crowdOf(t *testing.T, n int) (*rig, jetstream.Stream, []consumer.Unfinished) {
	t.Helper()
	r := newRigs(t, time.Hour, 1)
	bodies := make([]string, n)
	for i := range bodies {
		bodies[i] = fmt.Sprintf("waits-%04d", i)
	}
	r.publish(bodies...)
	cons, err := r.js.Consumer(t.Context(), "DEPLOY", "worker")
	if err != nil {
		t.Fatal(err)
	}
	var waiting []consumer.Unfinished
	for len(waiting) < n {
		batch, err := cons.Fetch(n - len(waiting))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				t.Fatal(err)
			}
			waiting = append(waiting, consumer.Unfinished{
				Hash: string(m.Data()), StoredAt: time.Now().Add(-time.Hour),
				Origin: consumer.Origin{Stream: "DEPLOY", Sequence: meta.Sequence.Stream, At: meta.Timestamp},
			})
		}
	}
	s, err := r.js.Stream(t.Context(), "DEPLOY")
	if err != nil {
		t.Fatal(err)
	}
	return r, s, waiting
}

// requests counts what the broker's API was asked during f.
func requests(t *testing.T, js jetstream.JetStream, f func()) int {
	t.Helper()
	asked := func() int {
		i, err := js.AccountInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return int(i.API.Total)
	}
	before := asked()
	f()
	return asked() - before - 1 // the second count is a request, too
}

// What waits costs a sweep no request each, however many there are: only a fixed
// number of messages is looked for, each in its turn.
func TestSweepOfManyWaitingRequests(t *testing.T) {
	t.Parallel()
	const most = 300 // requests of one sweep
	for _, n := range []int{600, 2400} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			r, s, waiting := crowdOf(t, n)
			// These leave no trace but their absence: the ack floor stays below them.
			lost := map[string]bool{waiting[n/2].Hash: true, waiting[n-1].Hash: true}
			for _, u := range []consumer.Unfinished{waiting[n/2], waiting[n-1]} {
				if err := s.DeleteMsg(t.Context(), u.Origin.Sequence); err != nil {
					t.Fatal(err)
				}
			}
			var mu sync.Mutex
			var driven []string
			loads := 0
			sweeper := consumer.NewSweeper(consumer.SweepPorts{
				JetStream: r.js, Consumers: []string{"worker", "worker-batch"}, Log: slog.New(slog.DiscardHandler),
				Unfinished: func(_ context.Context, each func(consumer.Unfinished)) error {
					for _, u := range waiting {
						each(u)
					}
					return nil
				},
				Load: func(_ context.Context, hash string) (*provision.Record, error) {
					mu.Lock()
					defer mu.Unlock()
					loads++
					return &provision.Record{Key: hash, State: provision.StateAccepted}, nil
				},
				Resume: func(_ context.Context, key string) provision.Disposition {
					mu.Lock()
					defer mu.Unlock()
					driven = append(driven, key)
					return provision.Disposition{}
				},
			}, time.Hour, time.Minute)
			sweeps := 0
			for ; len(driven) < len(lost) && sweeps < n; sweeps++ {
				asked := requests(t, r.js, func() {
					if _, err := sweeper.Sweep(t.Context()); err != nil {
						t.Error(err)
					}
				})
				if asked > most {
					t.Fatalf("a sweep over %d waiting requests asked the broker %d times", n, asked)
				}
			}
			if len(driven) != len(lost) || !lost[driven[0]] || !lost[driven[1]] || loads != len(lost) {
				t.Errorf("drove %d with %d loads in %d sweeps, want those %d that are gone", len(driven), loads, sweeps, len(lost))
			}
			if sweeps > n/200+1 {
				t.Errorf("it took %d sweeps to look for each of %d messages", sweeps, n)
			}
		})
	}
}

// What the queue itself says is gone is driven at once, without looking for it.
func TestSweepOfAPurge(t *testing.T) {
	t.Parallel()
	const n = 900
	r, s, waiting := crowdOf(t, n)
	if err := s.Purge(t.Context(), jetstream.WithPurgeKeep(1)); err != nil {
		t.Fatal(err)
	}
	unfinished := make([]*provision.Record, n)
	for i, u := range waiting {
		unfinished[i] = &provision.Record{Key: u.Hash, State: provision.StateAccepted, Stream: "DEPLOY", Sequence: u.Origin.Sequence, RequestedAt: u.Origin.At}
	}
	var driven []string
	if asked := requests(t, r.js, func() { driven = sweepOnce(t, r.js, unfinished...) }); asked > n/10 {
		t.Errorf("a sweep after a purge asked the broker %d times", asked)
	}
	if len(driven) != n-1 || driven[n-2] == waiting[n-1].Hash {
		t.Errorf("drove %d of %d purged requests", len(driven), n-1)
	}
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
