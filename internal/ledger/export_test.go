package ledger

import (
	"context"
	"time"
)

// PutControl writes ctl.<name> over whatever is there.
func (l *Ledger) PutControl(ctx context.Context, name string, data []byte) error {
	current, err := l.store.get(ctx, controlPrefix+name)
	if err != nil {
		return err
	}
	_, err = l.store.start(ctx, write{key: controlPrefix + name, data: data, revision: current.revision})()
	return err
}

// SetSkew makes a ledger on a bucket believe that its brokers' clocks agree so
// well.
func SetSkew(l *Ledger, skew time.Duration) {
	l.store.(*bucket).skew = skew
}

// SetMissed makes a ledger on a bucket bear so many missed heartbeats.
func SetMissed(l *Ledger, n int) { l.store.(*bucket).missed = n }

// SetClock makes a ledger on a bucket believe a clock.
func SetClock(l *Ledger, now func() time.Time) {
	l.now = now
	l.store.(*bucket).now = now
}
