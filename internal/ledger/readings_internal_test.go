package ledger

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/provision"
)

// What a reading of what has changed costs when it begins and when it goes on, in
// a ledger of so many requests: its own time, and how long a write beside it takes
// at most.
func BenchmarkReadings(b *testing.B) {
	const requests = 100_000
	_, js := brokertest.Connect(b, brokertest.Start(b))
	if _, err := js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "b"}); err != nil {
		b.Fatal(err)
	}
	put := func(key string, size int) *nats.Msg {
		return &nats.Msg{Subject: "$KV.b." + key, Data: make([]byte, size)}
	}
	for i := range requests {
		hash := provision.KeyHash(fmt.Sprint(i))
		for _, m := range []*nats.Msg{put(recordPrefix+hash, 1200), put(namePrefix+hash, 300)} {
			if _, err := js.PublishMsgAsync(m); err != nil {
				b.Fatal(err)
			}
		}
		if i%1000 == 999 {
			<-js.PublishAsyncComplete()
		}
	}
	l := New(js, Config{Bucket: "b"})
	SetSkew(l, 0)
	begin := func(b *testing.B, of scope) cursor {
		b.Helper()
		at, err := l.store.open(b.Context(), of)
		if err != nil {
			b.Fatal(err)
		}
		rest(b, at)
		return at
	}
	lately := func() scope { return scope{prefix: namePrefix, since: time.Now().Add(-100 * time.Millisecond)} }
	kept := begin(b, lately())
	for name, read := range map[string]func(*testing.B){
		"begin": func(b *testing.B) { b.Helper(); begin(b, lately()) },
		"go-on": func(b *testing.B) { b.Helper(); rest(b, kept) },
		"all":   func(b *testing.B) { b.Helper(); begin(b, scope{prefix: namePrefix}) },
	} {
		b.Run(name, func(b *testing.B) {
			slowest := beside(b, js, put)
			for b.Loop() {
				read(b)
			}
			b.ReportMetric(float64(slowest().Microseconds())/1000, "ms/slowest-write")
		})
	}
}

func rest(b *testing.B, at cursor) {
	b.Helper()
	if err := at.rest(b.Context(), func(change) error { return nil }); err != nil {
		b.Fatal(err)
	}
}

// beside changes one record after the other, until slowest says how long a change
// took at most.
func beside(b *testing.B, js jetstream.JetStream, put func(string, int) *nats.Msg) (slowest func() time.Duration) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	var longest atomic.Int64
	ended := make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			began := time.Now()
			if _, err := js.PublishMsg(ctx, put(recordPrefix+provision.KeyHash(fmt.Sprint(i%1000)), 1200)); err != nil {
				ended <- err
				return
			}
			longest.Store(max(longest.Load(), int64(time.Since(began))))
		}
	}()
	return func() time.Duration {
		cancel()
		if err := <-ended; ctx.Err() == nil {
			b.Error(err)
		}
		return time.Duration(longest.Load())
	}
}
