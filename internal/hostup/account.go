package hostup

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

var _ provision.Account = (*Account)(nil)

// Account tells what the account may still buy. It implements
// provision.Account and may be used concurrently.
//
// Only successes are cached. Callers that come while a read is under way share
// it and its failure, so that a dead API sees one read at a time; pausing
// between failures is left to the core's backoff.
type Account struct {
	client *Client
	flight singleflight.Group
	newest atomic.Pointer[admission.Facts]
	// begun are facts without the options, whose read had to wait for its turn:
	// where a window holds two reads, those of several processes would keep each
	// other from ever having both. Only the one read under way uses it.
	begun *admission.Facts
}

// NewAccount returns the account that the client's key belongs to.
func NewAccount(c *Client) *Account { return &Account{client: c} }

// Facts returns facts that were asked for not before oldest (not before now,
// if oldest is in the future). Giving up by ctx does not disturb others who
// wait for the same read. Every error is a *provision.ReadError.
func (a *Account) Facts(ctx context.Context, oldest time.Time) (admission.Facts, error) {
	if now := a.client.now(); oldest.After(now) {
		oldest = now
	}
	// Twice, since a read that is joined may have begun too early. The one
	// after it has not, whatever the clocks say.
	for range 2 {
		if f := a.newest.Load(); f != nil && !f.AskedAt.Before(oldest) {
			return *f, nil
		}
		// The read keeps the trace of whoever began it, and nothing else. It
		// ends by itself, each GET having a timeout.
		shared := context.WithoutCancel(ctx)
		result := a.flight.DoChan("", func() (any, error) { return nil, a.read(shared, oldest) })
		select {
		case <-ctx.Done():
			return admission.Facts{}, &provision.ReadError{Err: fmt.Errorf("wait for the account's limits: %w", context.Cause(ctx))}
		case r := <-result:
			if r.Err != nil {
				return admission.Facts{}, readError(r.Err)
			}
		}
	}
	return *a.newest.Load(), nil
}

func (a *Account) read(ctx context.Context, oldest time.Time) error {
	if a.begun == nil || a.begun.AskedAt.Before(oldest) {
		asked := a.client.now()
		limits, err := a.client.Limits(ctx)
		if err != nil {
			return err
		}
		a.begun = &admission.Facts{Remaining: limits.Remaining, Max: limits.Max, Prices: limits.Prices, AskedAt: asked}
	}
	options, err := a.client.Options(ctx)
	if err != nil {
		return err
	}
	facts := *a.begun
	facts.CanDeploy, facts.Reason, facts.BlockerReasons, facts.Regions = options.CanDeploy, options.Reason, options.BlockerReasons, options.Regions
	a.newest.Store(&facts)
	a.begun = nil
	return nil
}

func readError(err error) *provision.ReadError {
	var e *Error
	if !errors.As(err, &e) {
		return &provision.ReadError{Err: err}
	}
	return &provision.ReadError{
		Status: e.StatusCode, Auth: e.Auth(), Throttled: e.Throttled(), RetryAfter: e.RetryAfter, Rate: e.Rate, Problem: e.Problem, Err: err,
	}
}
