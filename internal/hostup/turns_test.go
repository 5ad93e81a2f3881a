package hostup

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// turns gives every read its turn, unless they are used up: then only those left.
type turns struct {
	left    int
	used    error
	answers []provision.ReadAnswer
}

func (t *turns) Enter(context.Context) (func(provision.ReadAnswer), error) {
	if t.left--; t.left < 0 && t.used != nil {
		return nil, t.used
	}
	return func(a provision.ReadAnswer) { t.answers = append(t.answers, a) }, nil
}

func TestReadsTakeTurns(t *testing.T) {
	t.Parallel()
	throttled := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.Header().Set("X-RateLimit-Limit", "60")
		respond(429, "application/json", problemBody(429, "rate_limited"))(w, r)
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		want    provision.ReadAnswer
	}{
		"Answered":  {respond(200, "application/json", limitsBody), provision.ReadAnswer{Status: 200}},
		"Throttled": {throttled, provision.ReadAnswer{Status: 429, RetryAfter: 7 * time.Second, Rate: admission.Rate{Limit: 60}}},
		"HungUp":    {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, provision.ReadAnswer{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := &turns{}
			_, _ = serve(t, Config{Reads: at}, tc.handler).Limits(t.Context())
			if diff := cmp.Diff([]provision.ReadAnswer{tc.want}, at.answers); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A read without a turn is not sent, and whoever asked for it can tell that
// from one that failed.
func TestReadsUsedUp(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	c := serve(t, Config{Reads: &turns{used: &provision.ReadsUsedUpError{After: time.Minute}}}, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	_, err := NewInventory(c).Named(t.Context(), "web-01")
	used, ok := errors.AsType[*provision.ReadsUsedUpError](err)
	if !ok || used.After != time.Minute || calls.Load() != 0 {
		t.Errorf("%v, %d calls", err, calls.Load())
	}
}
