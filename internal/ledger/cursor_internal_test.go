package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// opened is a cursor behind one row of a bucket, with what puts others there.
func opened(t *testing.T, cfg Config) (at *consumerCursor, put func(key string)) {
	t.Helper()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "b"}); err != nil {
		t.Fatal(err)
	}
	cfg.Bucket = "b"
	put = func(key string) {
		t.Helper()
		if _, err := js.Publish(t.Context(), "$KV.b."+recordPrefix+key, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	put("first")
	c, err := New(js, cfg).store.open(t.Context(), scope{prefix: recordPrefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c.(*consumerCursor), put
}

// counted waits until the broker has counted what there is for a cursor, which it
// does a moment after it has said that it is stored.
func counted(t *testing.T, at *consumerCursor, pending uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		cons, err := at.bucket.js.Consumer(ctx, "KV_b", at.name)
		if err != nil {
			t.Fatal(err)
		}
		if cons.CachedInfo().NumPending == pending {
			return
		}
	}
}

func keys(to *[]string) func(change) error {
	return func(c change) error {
		*to = append(*to, c.key)
		return nil
	}
}

// What was given is not given again, of many as of few.
func TestCursorGoesOn(t *testing.T) {
	t.Parallel()
	at, put := opened(t, Config{})
	var got []string
	rest := func(want ...string) {
		t.Helper()
		got = nil
		counted(t, at, uint64(len(want)))
		if err := at.rest(t.Context(), keys(&got)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the rest (-want +got):\n%s", diff)
		}
	}
	rest("rec.first")
	rest()
	put("second")
	put("first")
	rest("rec.second", "rec.first")
	var many []string
	for i := range 2*batch + 1 {
		put(fmt.Sprint(i))
		many = append(many, fmt.Sprint("rec.", i))
	}
	rest(many...)
	put("third")
	ctx, cancel := context.WithCancel(t.Context())
	got = nil
	err := at.follow(ctx, func(c change) {
		if got = append(got, c.key); len(got) == 1 {
			put("fourth")
			return
		}
		cancel()
	}, func(live bool) { t.Errorf("live %v", live) })
	if want := []string{"rec.third", "rec.fourth"}; !errors.Is(err, context.Canceled) || !slices.Equal(got, want) {
		t.Errorf("followed %v until %v, want %v until it is canceled", got, err, want)
	}
}

// snatch takes a message that was meant for a cursor.
func snatch(t *testing.T, at *consumerCursor) {
	t.Helper()
	cons, err := at.bucket.js.Consumer(t.Context(), "KV_b", at.name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cons.Next(); err != nil {
		t.Fatal(err)
	}
}

// A message that was sent and did not arrive is noticed, also when none comes
// behind it.
func TestCursorNoticesWhatIsLost(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(at *consumerCursor, put func(string), each func(change) error) error{
		"one of several": func(at *consumerCursor, put func(string), each func(change) error) error {
			put("behind")
			counted(t, at, 1)
			return at.rest(t.Context(), each)
		},
		"the last": func(at *consumerCursor, _ func(string), each func(change) error) error {
			return at.follow(t.Context(), func(c change) { _ = each(c) }, func(bool) {})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at, put := opened(t, Config{})
			var got []string
			if err := at.rest(t.Context(), keys(&got)); err != nil {
				t.Fatal(err)
			}
			put("lost")
			snatch(t, at)
			if err := read(at, put, keys(&got)); !errors.Is(err, errGap) || len(got) != 1 {
				t.Errorf("a lost message: %v, given %q", err, got)
			}
		})
	}
}

// A broker that says too early that there is no more is not believed.
func TestCursorReadsBehindAFalseEnd(t *testing.T) {
	t.Parallel()
	at, put := opened(t, Config{})
	put("second")
	put("third")
	broker := at.next
	var lies atomic.Int32
	lies.Store(1)
	at.next = "says.no"
	_, err := at.conn.Subscribe(at.next, func(m *nats.Msg) {
		if lies.Add(-1) >= 0 {
			_ = at.conn.PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{"Status": {statusNoMore}}})
			return
		}
		_ = at.conn.PublishRequest(broker, m.Reply, m.Data)
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := at.rest(t.Context(), keys(&got)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"rec.first", "rec.second", "rec.third"}, got); diff != "" {
		t.Errorf("given (-want +got):\n%s", diff)
	}
	// Whole batches have their end by itself.
	for i := range batch {
		put(fmt.Sprint(i))
	}
	counted(t, at, batch)
	at.left = batch
	lies.Store(maxEmpty - 1)
	if err := at.rest(t.Context(), keys(&got)); err != nil || len(got) != 3+batch {
		t.Errorf("%v, given %d", err, len(got))
	}
	// Nor when it says so all the time.
	put("fourth")
	counted(t, at, 1)
	at.left = 1
	lies.Store(100)
	if err := at.rest(t.Context(), keys(&got)); !errors.Is(err, errSilent) || len(got) != 3+batch {
		t.Errorf("%v, given %d; want %v", err, len(got), errSilent)
	}
}

// A reading that gets nothing of what there is ends, and does not say that it has
// read everything.
func TestCursorNoticesSilence(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]struct {
		by   func(at *consumerCursor) error
		want error
	}{
		"a broker that stands still": {func(at *consumerCursor) error {
			at.next, at.bucket.cfg.AnswerTimeout = "nobody.answers", 500*time.Millisecond
			_, err := at.conn.SubscribeSync(at.next)
			return err
		}, errSilent},
		"a consumer that is gone": {func(at *consumerCursor) error {
			return at.bucket.js.DeleteConsumer(t.Context(), "KV_b", at.name)
		}, nats.ErrNoResponders},
		"a connection that was lost": {func(at *consumerCursor) error {
			connected := at.conn.StatusChanged(nats.CONNECTED)
			defer at.conn.RemoveStatusListener(connected)
			err := at.conn.ForceReconnect()
			<-connected
			return err
		}, errReconnect},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at, put := opened(t, Config{AnswerTimeout: time.Minute})
			var got []string
			if err := at.rest(t.Context(), keys(&got)); err != nil {
				t.Fatal(err)
			}
			put("second")
			if err := spoil.by(at); err != nil {
				t.Fatal(err)
			}
			if err := at.rest(t.Context(), keys(&got)); !errors.Is(err, spoil.want) || len(got) != 1 {
				t.Errorf("%v, given %q; want %v", err, got, spoil.want)
			}
		})
	}
}
