package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
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

	opened []time.Time // since when
	// lost are the places that it knows no more, err what the next reading of any
	// other ends with.
	lost  map[*place]bool
	err   error
	gives []change
}

type place struct {
	cursor

	s *logged
}

func (s *logged) open(_ context.Context, of scope) (cursor, error) {
	s.opened = append(s.opened, of.since)
	return &place{s: s}, nil
}

func (p *place) rest(_ context.Context, each func(change) error) error {
	if p.s.lost[p] {
		return errGap
	}
	for _, c := range p.s.gives {
		if err := each(c); err != nil {
			return err
		}
	}
	return p.s.err
}

func (p *place) close() { p.s.lost[p] = true }

// A roll reads everything once, and goes on from there. When that place is lost it
// reads what has changed since the newest that it has read; everything again when
// that failed, and after an hour.
func TestRollReadsOnlyWhatHasChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &logged{lost: make(map[*place]bool)}
		roll := (&Ledger{store: s}).NewRoll(5 * time.Minute)
		// The store's clock, which is not ours.
		stored := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
		var want []time.Time
		// read expects to be answered with what is unfinished, by a reading that
		// begins anew, if it does, at the newest that was read.
		read := func(unfinished string, anew []time.Time, gives ...change) {
			t.Helper()
			s.gives = gives
			var got []string
			err := roll.Unfinished(t.Context(), func(u Unfinished) { got = append(got, u.Hash) })
			if (err != nil) != (s.err != nil) {
				t.Errorf("Unfinished: %v, with a store that says %v", err, s.err)
			}
			slices.Sort(got)
			if diff := cmp.Diff(unfinished, strings.Join(got, " ")); err == nil && diff != "" {
				t.Errorf("unfinished (-want +got):\n%s", diff)
			}
			want = append(want, anew...)
			if diff := cmp.Diff(want, s.opened); diff != "" {
				t.Errorf("read since (-want +got):\n%s", diff)
			}
			time.Sleep(5 * time.Minute)
		}
		lose := func() { s.lost[roll.at.(*place)] = true }
		record := func(hash string, state provision.State, after time.Duration) change {
			return change{key: recordPrefix + hash, label: label{state: state}, at: stored.Add(after)}
		}
		goesOn, all := []time.Time(nil), []time.Time{{}}
		since := func(after time.Duration) []time.Time { return []time.Time{stored.Add(after)} }

		read("a b", all, record("b", provision.StateHeld, time.Minute), record("a", provision.StateAccepted, 0), record("c", provision.StateDone, 0))
		read("a d", goesOn, record("b", provision.StateDone, 5*time.Minute), record("d", provision.StateUnknown, 3*time.Minute))
		read("a d", goesOn)
		lose()
		read("a d", since(5*time.Minute))
		// The marker of one that is gone.
		read("a", goesOn, record("d", "", 6*time.Minute))
		lose()
		s.err = context.DeadlineExceeded
		read("", since(6*time.Minute), record("x", provision.StateHeld, 7*time.Minute))
		s.err = nil
		read("a", all, record("a", provision.StateAccepted, 0))
		read("a", goesOn, record("a", provision.StateAccepted, 7*time.Minute))
		time.Sleep(rollEvery)
		read("", all)
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
	roll := New(js, Config{Bucket: "roll"}).NewRoll(time.Minute)
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
		for b.Loop() {
			read(b)
		}
	})
	b.Run("lost", func(b *testing.B) {
		roll.newest = roll.newest.Add(leaderSkew + time.Second) // as if all were old
		for b.Loop() {
			roll.at = nil
			read(b)
		}
	})
}
