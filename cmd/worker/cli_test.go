package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/provision"
)

// A request that the broker does not answer says no more than that time is over:
// a person is told why that may be, and what to do.
func TestReportOfNoAnswer(t *testing.T) {
	t.Parallel()
	const why = "choosing a leader"
	for _, c := range []struct {
		err  error
		told bool
		code int
	}{
		{fmt.Errorf("read the ledger: %w", context.DeadlineExceeded), true, exitFailed},
		{fmt.Errorf("look at DEPLOY: %w", nats.ErrTimeout), true, exitFailed},
		{errors.New("no stream"), false, exitFailed},
		// Those two have words of their own.
		{timeoutError{fmt.Errorf("3 orders have no outcome: %w", context.DeadlineExceeded)}, false, exitTimeout},
		{&provision.ReadError{Err: context.DeadlineExceeded}, false, exitFailed},
	} {
		var said strings.Builder
		if code := report(&said, c.err); code != c.code || strings.Contains(said.String(), why) != c.told {
			t.Errorf("%v: exit code %d and\n%s", c.err, code, said.String())
		}
	}
}
