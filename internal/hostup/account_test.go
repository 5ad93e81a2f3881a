package hostup

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// accountServer answers both reads and can be told to wait or to fail.
type accountServer struct {
	reads atomic.Int64 // of the limits
	gate  chan struct{}
	fail  atomic.Pointer[http.HandlerFunc]
	begun chan struct{}
}

func (s *accountServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/limits") {
		s.reads.Add(1)
		if s.begun != nil {
			s.begun <- struct{}{}
			<-s.gate
		}
	}
	if f := s.fail.Load(); f != nil {
		(*f)(w, r)
		return
	}
	if strings.HasSuffix(r.URL.Path, "/limits") {
		respond(200, "application/json", limitsBody)(w, r)
		return
	}
	respond(200, "application/json", optionsBody)(w, r)
}

func TestAccountCaches(t *testing.T) {
	t.Parallel()
	s := &accountServer{}
	now := time.Date(2026, 4, 27, 12, 0, 0, 0, time.UTC)
	a := NewAccount(serve(t, Config{Now: func() time.Time { return now }}, s.ServeHTTP))
	start := now
	want := admission.Facts{
		Remaining: admission.Resources{CPUCores: 12, MemoryGB: 56, StorageGB: 880, Instances: 8},
		Max:       admission.Resources{CPUCores: 16, MemoryGB: 64, StorageGB: 1000, Instances: 10},
		Prices:    prices, CanDeploy: true, Regions: []string{"stockholm", "helsinki"}, AskedAt: start,
	}
	for _, step := range []struct {
		after  time.Duration
		oldest time.Duration // before then
		reads  int64
	}{{0, 10 * time.Second, 1}, {9 * time.Second, 10 * time.Second, 1}, {time.Second, 10 * time.Second, 1}, {time.Second, 10 * time.Second, 2}, {0, 0, 2}, {0, -time.Hour, 2}, {1, 0, 3}} {
		now = now.Add(step.after)
		f, err := a.Facts(t.Context(), now.Add(-step.oldest))
		if err != nil || s.reads.Load() != step.reads {
			t.Fatalf("%+v: %d reads, %v", step, s.reads.Load(), err)
		}
		if step.reads == 1 {
			if diff := cmp.Diff(want, f); diff != "" {
				t.Fatalf("facts (-want +got):\n%s", diff)
			}
		}
	}
}

// TestAccountSharesReads: many callers cause one read, and one that gives up
// - the one that began it - does not disturb the others.
func TestAccountSharesReads(t *testing.T) {
	t.Parallel()
	s := &accountServer{gate: make(chan struct{}), begun: make(chan struct{}, 1)}
	a := NewAccount(serve(t, Config{}, s.ServeHTTP))
	impatient, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	oldest := time.Now().Add(-time.Minute)
	go func() {
		_, err := a.Facts(impatient, oldest)
		gaveUp <- err
	}()
	<-s.begun
	var others sync.WaitGroup
	for range 8 {
		others.Go(func() {
			if _, err := a.Facts(t.Context(), oldest); err != nil {
				t.Error(err)
			}
		})
	}
	cancel()
	var re *provision.ReadError
	if err := <-gaveUp; !errors.As(err, &re) || !errors.Is(err, context.Canceled) || re.Status != 0 {
		t.Errorf("the impatient one got %v", err)
	}
	close(s.gate)
	others.Wait()
	if n := s.reads.Load(); n != 1 {
		t.Errorf("%d reads", n)
	}
}

// TestAccountReadTooEarly: a caller that joins a read which began before what
// it asks for waits for a second one.
func TestAccountReadTooEarly(t *testing.T) {
	t.Parallel()
	s := &accountServer{gate: make(chan struct{}), begun: make(chan struct{}, 2)}
	a := NewAccount(serve(t, Config{}, s.ServeHTTP))
	var both sync.WaitGroup
	both.Go(func() { _, _ = a.Facts(t.Context(), time.Time{}) })
	<-s.begun
	oldest := time.Now()
	both.Go(func() {
		f, err := a.Facts(t.Context(), oldest)
		if err != nil || f.AskedAt.Before(oldest) {
			t.Errorf("asked %v before %v, %v", f.AskedAt, oldest, err)
		}
	})
	close(s.gate)
	both.Wait()
	if n := s.reads.Load(); n != 2 {
		t.Errorf("%d reads", n)
	}
}

// A read of which half has to wait for its turn goes on where it stopped, unless
// that is too long ago for who asks.
func TestAccountGoesOn(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fresh bool
		want  int64
	}{"Goes on": {false, 1}, "Begins anew": {true, 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &accountServer{}
			at := &turns{left: 1, used: &provision.ReadsUsedUpError{After: time.Minute}}
			a := NewAccount(serve(t, Config{Reads: at}, s.ServeHTTP))
			began := time.Now()
			if _, err := a.Facts(t.Context(), began); err == nil {
				t.Fatal("facts without options")
			}
			at.left = 2
			oldest := began
			if tc.fresh {
				oldest = time.Now()
			}
			f, err := a.Facts(t.Context(), oldest)
			if n := s.reads.Load(); err != nil || f.AskedAt.Before(oldest) || !f.CanDeploy || n != tc.want {
				t.Errorf("%v, %+v after %d reads of the limits", err, f, n)
			}
		})
	}
}

func TestAccountErrors(t *testing.T) {
	t.Parallel()
	s := &accountServer{}
	a := NewAccount(serve(t, Config{}, s.ServeHTTP))
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		want    provision.ReadError
	}{
		"401":  {respond(401, "application/problem+json", problemBody(401, "unauthorized")), provision.ReadError{Status: 401, Auth: true}},
		"403":  {respond(403, "application/problem+json", problemBody(403, "forbidden")), provision.ReadError{Status: 403}},
		"edge": {respond(403, "text/html", "<html>"), provision.ReadError{Status: 403, Auth: true}},
		"503":  {respond(503, "text/html", "<html>"), provision.ReadError{Status: 503}},
		"throttled": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "9")
			w.WriteHeader(http.StatusTooManyRequests)
		}, provision.ReadError{Status: 429, Throttled: true, RetryAfter: 9 * time.Second}},
	} {
		s.fail.Store(&tc.handler)
		_, err := a.Facts(t.Context(), time.Now())
		var re *provision.ReadError
		if !errors.As(err, &re) {
			t.Fatalf("%s: %v", name, err)
		}
		got := *re
		got.Err = nil
		got.Problem = nil // held against the bytes by the tests of documents
		if diff := cmp.Diff(tc.want, got); diff != "" || re.Err == nil {
			t.Errorf("%s, %v (-want +got):\n%s", name, re.Err, diff)
		}
	}
	s.fail.Store(nil)
	if _, err := a.Facts(t.Context(), time.Now()); err != nil {
		t.Errorf("a failure was cached: %v", err)
	}
}
