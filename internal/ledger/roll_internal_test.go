package ledger

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/provision"
)

// logged is a store of which each reading is written down.
type logged struct {
	store

	asked []time.Time // since when
	err   error
	gives []change
}

func (s *logged) follow(_ context.Context, of scope, each func(change), live func(time.Time)) error {
	s.asked = append(s.asked, of.since)
	for i, c := range s.gives {
		c.left = uint64(len(s.gives) - 1 - i)
		if s.err != nil {
			c.left++ // and never comes
		}
		each(c)
	}
	if s.err == nil {
		live(of.since)
	}
	return s.err
}

// A roll reads everything once, and then what has changed since the newest that
// it has read; everything again when a reading failed, and after an hour.
func TestRollReadsOnlyWhatHasChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &logged{}
		roll := (&Ledger{store: s, skew: 2 * time.Minute}).NewRoll()
		// The store's clock, which is not ours.
		stored := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
		read := func(want map[string]bool, gives ...change) {
			t.Helper()
			s.gives = gives
			got := make(map[string]bool)
			err := roll.Unfinished(t.Context(), func(u Unfinished) { got[u.Hash] = true })
			if diff := cmp.Diff(want, got); err == nil && diff != "" {
				t.Errorf("unfinished (-want +got):\n%s", diff)
			}
			time.Sleep(10 * time.Minute)
		}
		record := func(hash string, state provision.State, after time.Duration) change {
			return change{key: recordPrefix + hash, label: label{state: state}, at: stored.Add(after)}
		}
		read(map[string]bool{"a": true, "b": true}, record("b", provision.StateHeld, time.Minute), record("a", provision.StateAccepted, 0), record("c", provision.StateDone, 0))
		read(map[string]bool{"a": true, "d": true}, record("b", provision.StateDone, 5*time.Minute), record("d", provision.StateUnknown, 3*time.Minute))
		// The marker of one that is gone.
		read(map[string]bool{"a": true}, record("d", "", 6*time.Minute))
		s.err = context.DeadlineExceeded
		read(nil, record("x", provision.StateHeld, 7*time.Minute))
		s.err = nil
		read(map[string]bool{"a": true}, record("a", provision.StateAccepted, 0))
		read(map[string]bool{"a": true}, record("a", provision.StateAccepted, 7*time.Minute))
		time.Sleep(time.Hour)
		read(map[string]bool{})
		all := time.Time{}
		want := []time.Time{all, stored.Add(-time.Minute), stored.Add(3 * time.Minute), stored.Add(4 * time.Minute), all, stored.Add(-2 * time.Minute), all}
		if diff := cmp.Diff(want, s.asked); diff != "" {
			t.Errorf("read since (-want +got):\n%s", diff)
		}
	})
}

// What a sweep reads of a ledger in which all is done: everything, and then what
// has changed, which is nothing.
func BenchmarkRoll(b *testing.B) {
	const records = 100_000
	_, js := brokertest.Connect(b, brokertest.Start(b))
	if _, err := js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "roll"}); err != nil {
		b.Fatal(err)
	}
	for i := range records {
		m := nats.NewMsg("$KV.roll.rec." + provision.KeyHash(fmt.Sprint(i)))
		m.Data = make([]byte, 1000)
		for k, v := range map[string]string{stateHeader: "done", nameHeader: fmt.Sprintf("web-%d", i), vpsHeader: "vps_0123456789", tokenHeader: "ABCDEFGHIJKLMNOPQRSTUVWXYZ"} {
			m.Header[k] = []string{v}
		}
		if _, err := js.PublishMsgAsync(m); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 999 {
			<-js.PublishAsyncComplete()
		}
	}
	roll := New(js, Config{Bucket: "roll"}).NewRoll()
	read := func(b *testing.B) {
		b.Helper()
		if err := roll.Unfinished(b.Context(), func(u Unfinished) { b.Errorf("%+v is not done", u) }); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			roll.whole = time.Time{}
			read(b)
		}
	})
	b.Run("next", func(b *testing.B) {
		roll.newest = roll.newest.Add(leaderSkew + time.Second) // as if all were old
		for b.Loop() {
			read(b)
		}
	})
}
