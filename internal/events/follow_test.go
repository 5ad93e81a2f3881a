//go:build !fuzz

package events

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/provision"
)

// followed reads keys until n are there.
func followed(t *testing.T, js jetstream.JetStream, c FollowConfig, n int, ready func()) []string {
	t.Helper()
	c.Stream, c.Prefix = "DEPLOY_EVENTS", "deploy"
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got []string
	err := Follow(ctx, js, c, ready, func(f Followed) error {
		key := f.Key
		if f.Unreadable != nil {
			key = "unreadable"
		}
		got = append(got, fmt.Sprintf("%d %s", f.Sequence, key))
		if n > 0 && len(got) == n {
			return ErrEnough
		}
		return nil
	})
	if n > 0 && !errors.Is(err, ErrEnough) || n == 0 && err != nil {
		t.Fatalf("Follow: %v after %v", err, got)
	}
	return got
}

func eventStream(t *testing.T, js jetstream.JetStream) func(k provision.Kind, key string) {
	t.Helper()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "DEPLOY_EVENTS", Subjects: []string{"deploy.>"}}); err != nil {
		t.Fatal(err)
	}
	return func(k provision.Kind, key string) {
		t.Helper()
		m, err := Encode("deploy", provision.Event{ID: key + string(k), Kind: k, Key: key, Problem: []byte(`{}`)})
		if err != nil {
			t.Fatal(err)
		}
		// Again and again: a broker that was restarted needs its time, and the id
		// makes it one event.
		again := time.NewTicker(20 * time.Millisecond)
		defer again.Stop()
		for range 1000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err = js.PublishMsg(ctx, m)
			cancel()
			if err == nil {
				return
			}
			<-again.C
		}
		t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	publish := eventStream(t, js)
	publish(provision.KindProvisioning, "a")
	publish(provision.KindHeld, "b")
	publish(provision.KindFailed, "b")
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "deploy.failed", Data: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		about string
		cfg   FollowConfig
		want  []string
	}{
		{"from the beginning", FollowConfig{From: 1, Ended: stored}, []string{"1 a", "2 b", "3 b", "4 unreadable"}},
		{"from a sequence on", FollowConfig{From: 3, Ended: stored}, []string{"3 b", "4 unreadable"}},
		{"from a time on", FollowConfig{Since: time.Now().Add(-time.Hour), Ended: stored}, []string{"1 a", "2 b", "3 b", "4 unreadable"}},
		{"some kinds", FollowConfig{From: 1, Ended: stored, Kinds: []provision.Kind{provision.KindHeld}}, []string{"2 b"}},
		{"nothing there", FollowConfig{Ended: stored}, nil},
	} {
		if diff := cmp.Diff(c.want, followed(t, js, c.cfg, 0, nil)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.about, diff)
		}
	}
	got := followed(t, js, FollowConfig{}, 1, func() { publish(provision.KindProvisioning, "c") })
	if diff := cmp.Diff([]string{"5 c"}, got); diff != "" {
		t.Errorf("what is new (-want +got):\n%s", diff)
	}
	err := Follow(t.Context(), js, FollowConfig{Stream: "NONE", Prefix: "deploy"}, nil, func(Followed) error { return nil })
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("Follow of no stream: %v", err)
	}
}

// A broker that goes away and comes back loses no event on the way.
func TestFollowOutlivesTheBroker(t *testing.T) {
	t.Parallel()
	brokertest.NeedsProcess(t)
	srv := brokertest.Start(t)
	_, js := brokertest.Connect(t, srv)
	publish := eventStream(t, js)
	got := followed(t, js, FollowConfig{}, 2, func() {
		srv.Restart()
		publish(provision.KindProvisioning, "a")
		publish(provision.KindProvisioning, "b")
	})
	if diff := cmp.Diff([]string{"1 a", "2 b"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
