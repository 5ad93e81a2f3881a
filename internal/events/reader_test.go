//go:build !fuzz

package events

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/provision"
)

// durable makes the consumer of a reader. What is not acked comes again when the
// wait is over; nothing that a test waits for does, where it is an hour.
func durable(t *testing.T, js jetstream.JetStream, wait time.Duration) jetstream.Consumer {
	t.Helper()
	cons, err := js.CreateConsumer(t.Context(), "DEPLOY_EVENTS", jetstream.ConsumerConfig{
		Durable: "reader", AckPolicy: jetstream.AckExplicitPolicy, AckWait: wait, MaxAckPending: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return cons
}

func stored() bool { return true }

// A reader goes on where the one before ended, and takes each event once.
func TestReaderGoesOn(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	publish := eventStream(t, js)
	cons := durable(t, js, time.Hour)
	for _, key := range []string{"a", "b", "c", "d"} {
		publish(provision.KindFailed, key)
	}
	publish(provision.KindHeld, "d")
	reader := FollowConfig{Reader: "reader"}
	ended := FollowConfig{Reader: "reader", Ended: stored}
	for _, c := range []struct {
		about string
		cfg   FollowConfig
		n     int
		want  []string
	}{
		{"the first", reader, 1, []string{"1 a"}},
		{"the next", reader, 2, []string{"2 b", "3 c"}},
		{"only what is held", FollowConfig{Reader: "reader", Ended: stored, Kinds: []provision.Kind{provision.KindHeld}}, 0, []string{"5 d"}},
		{"nothing", ended, 0, nil},
	} {
		if diff := cmp.Diff(c.want, followed(t, js, c.cfg, c.n, nil)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.about, diff)
		}
	}
	got := followed(t, js, reader, 1, func() { publish(provision.KindProvisioning, "e") })
	if diff := cmp.Diff([]string{"6 e"}, got); diff != "" {
		t.Errorf("what is new (-want +got):\n%s", diff)
	}
	info, err := cons.Info(t.Context())
	if err != nil || info.AckFloor.Stream != 6 || info.Delivered.Consumer != 6 || info.NumAckPending != 0 {
		t.Errorf("%+v, %v", info, err)
	}
}

// What was not taken is the next event that anybody gets: the one that could not
// be used, and the one that came when nobody waited any more.
func TestReaderGivesBack(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	publish := eventStream(t, js)
	cons := durable(t, js, time.Hour)
	publish(provision.KindFailed, "a")
	broken := errors.New("broken pipe")
	err := Follow(t.Context(), js, FollowConfig{Stream: "DEPLOY_EVENTS", Prefix: "deploy", Reader: "reader"}, nil, func(Followed) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("Follow: %v", err)
	}
	if diff := cmp.Diff([]string{"1 a"}, followed(t, js, FollowConfig{Reader: "reader", Ended: stored}, 0, nil)); diff != "" {
		t.Errorf("what could not be used (-want +got):\n%s", diff)
	}

	f := &following{FollowConfig: FollowConfig{Stream: "DEPLOY_EVENTS", Prefix: "deploy", Reader: "reader"}}
	if err := errors.Join(f.open(t.Context(), js), f.begin()); err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := f.next(waiting)
		ended <- err
	}()
	watched(t, cons, "it waits", func(i *jetstream.ConsumerInfo) bool { return i.NumWaiting == 1 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("next: %v", err)
	}
	publish(provision.KindFailed, "b")
	watched(t, cons, "an event is on its way", func(i *jetstream.ConsumerInfo) bool { return i.NumAckPending == 1 })
	f.stop()
	publish(provision.KindFailed, "c")
	if diff := cmp.Diff([]string{"2 b", "3 c"}, followed(t, js, FollowConfig{Reader: "reader", Ended: stored}, 0, nil)); diff != "" {
		t.Errorf("what came too late (-want +got):\n%s", diff)
	}
}

// watched waits until a consumer is in a state.
func watched(t *testing.T, cons jetstream.Consumer, what string, is func(*jetstream.ConsumerInfo) bool) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	var info *jetstream.ConsumerInfo
	var err error
	for range 6000 {
		if info, err = cons.Info(t.Context()); err == nil && is(info) {
			return
		}
		<-again.C
	}
	t.Fatalf("it did not come about: %s: %+v, %v", what, info, err)
}

// What another process had in hand when it was killed comes again, before
// anything newer; the end waits for it.
func TestReaderWaitsForWhatOthersHave(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	publish := eventStream(t, js)
	cons := durable(t, js, time.Second)
	for _, more := range []string{"", "b"} {
		publish(provision.KindFailed, "a"+more)
		m, err := cons.Next(jetstream.FetchMaxWait(30 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		want := []string{fmt.Sprintf("%d a%s", meta.Sequence.Stream, more)}
		if more != "" {
			publish(provision.KindFailed, more)
			want = append(want, fmt.Sprintf("%d %s", meta.Sequence.Stream+1, more))
		}
		if diff := cmp.Diff(want, followed(t, js, FollowConfig{Reader: "reader", Ended: stored}, 0, nil)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// A broker that goes away and comes back loses no event on the way, and brings
// none twice.
func TestReaderOutlivesTheBroker(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)
	srv := brokertest.Start(t)
	_, js := brokertest.Connect(t, srv)
	publish := eventStream(t, js)
	durable(t, js, 300*time.Millisecond)
	got := followed(t, js, FollowConfig{Reader: "reader"}, 3, func() {
		publish(provision.KindProvisioning, "a")
		srv.Restart()
		publish(provision.KindProvisioning, "b")
		publish(provision.KindProvisioning, "c")
	})
	if diff := cmp.Diff([]string{"1 a", "2 b", "3 c"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What cannot be read on with is said, also when it is removed meanwhile.
func TestReaderIsMissing(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	eventStream(t, js)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	follow := func(ready func()) error {
		return Follow(ctx, js, FollowConfig{Stream: "DEPLOY_EVENTS", Prefix: "deploy", Reader: "reader"}, ready, func(Followed) error { return nil })
	}
	if err := follow(nil); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("Follow without a consumer: %v", err)
	}
	remove := func() {
		if err := js.DeleteConsumer(t.Context(), "DEPLOY_EVENTS", "reader"); err != nil {
			t.Error(err)
		}
	}
	durable(t, js, time.Hour)
	if err := follow(remove); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("Follow of a consumer that is removed: %v", err)
	}
	if _, err := js.CreateConsumer(t.Context(), "DEPLOY_EVENTS", jetstream.ConsumerConfig{Durable: "reader", AckPolicy: jetstream.AckNonePolicy}); err != nil {
		t.Fatal(err)
	}
	if err := follow(nil); err == nil || !strings.Contains(err.Error(), "ack_policy") {
		t.Errorf("Follow of a consumer that remembers nothing: %v", err)
	}
}

// delivery is a message whose acks are answered by the test.
type delivery struct {
	jetstream.Msg

	acks []error
}

func (d *delivery) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: 7}}, nil
}

func (*delivery) Subject() string      { return "deploy.failed" }
func (*delivery) Headers() nats.Header { return nil }
func (*delivery) Data() []byte         { return nil }

func (d *delivery) DoubleAck(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err := d.acks[0]
	d.acks = d.acks[1:]
	return err
}

// An event whose ack was not confirmed comes again, and is not given again. An
// interrupt does not keep what was taken from being acked.
func TestReaderAcksWhatItTook(t *testing.T) {
	t.Parallel()
	lost := errors.New("no answer")
	m := &delivery{acks: []error{lost, lost, nil, nil}}
	given := 0
	interrupted, cancel := context.WithCancel(t.Context())
	f := &following{FollowConfig: FollowConfig{Reader: "reader"}, unconfirmed: make(map[uint64]bool), each: func(Followed) error {
		given++
		cancel()
		return nil
	}}
	for i, want := range []int{1, 1, 1, 2} {
		if err := f.take(interrupted, m); err != nil || given != want {
			t.Errorf("delivery %d: given %d times, %v", i+1, given, err)
		}
	}
	// The last one is told to have been acked only if it was.
	m.acks = []error{lost, nil}
	f.each = func(Followed) error { return ErrEnough }
	if err := f.take(t.Context(), m); !errors.Is(err, lost) || errors.Is(err, ErrEnough) {
		t.Errorf("the last one, not acked: %v", err)
	}
	if err := f.take(t.Context(), m); !errors.Is(err, ErrEnough) {
		t.Errorf("the last one, acked: %v", err)
	}
}
