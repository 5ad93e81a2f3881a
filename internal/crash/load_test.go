package crash

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// What becomes of the creates of a load, one after the other: more than a third
// of their answers are lost, with and without a server behind them, so that
// looking matters while the cluster misbehaves.
var loadFaults = []struct{ kind, fault string }{
	{"none", "none"},
	{"created-then-cut", "cut-after*1"},
	{"none", "none"},
	{"nothing-and-cut", "cut*1"},
	{"slow", "slow=150ms"},
	{"created-then-5xx", "502-after*1"},
	{"none", "none"},
	{"created-then-timeout", "hang-after*1"},
	{"none", "none"},
	{"nothing-and-5xx", "500*1"},
	{"refused", "422"},
	{"created-then-garbage", "truncated*1"},
	{"none", "none"},
	{"created-too-late", "slow-before=1200ms*1"},
	{"slow", "slow-before=100ms"},
	{"none", "none"},
}

// load is a steady stream of requests.
type load struct {
	name    string
	every   time.Duration
	witness *witness

	mu      sync.Mutex
	orders  []order
	stored  atomic.Int64 // copies that the broker has for sure
	sending sync.WaitGroup
}

// prefix is what the names of one fault have in common.
func (l *load) prefix(fault int) string { return fmt.Sprintf("%s-%02d-", l.name, fault) }

func (l *load) rules() []simulator.Rule {
	var rules []simulator.Rule
	for i, f := range loadFaults {
		rules = append(rules, simulator.Rule{Prefix: l.prefix(i), Fault: simulator.MustFault(f.fault)})
	}
	return rules
}

// run sends one request after the other until ctx ends. What has begun to be
// sent is sent until patience ends. Each fifth goes out twice.
func (l *load) run(ctx, patience context.Context) {
	next := time.NewTicker(l.every)
	defer next.Stop()
	for n := 0; ; n++ {
		o := l.order(n)
		l.mu.Lock()
		l.orders = append(l.orders, o)
		l.mu.Unlock()
		copies := 1
		if n%5 == 0 {
			copies = 2
		}
		for range copies {
			l.sending.Go(func() {
				if l.witness.send(patience, o.request(), 250*time.Millisecond) {
					l.stored.Add(1)
				}
			})
		}
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *load) order(n int) order {
	i := n % len(loadFaults)
	name := fmt.Sprintf("%s%05d", l.prefix(i), n)
	return order{
		key: "key-" + name, name: name, cores: 1 + n%4, memory: 1 + n%8, storage: 50 + n%50,
		kind: loadFaults[i].kind, fault: loadFaults[i].fault,
	}
}

// sent are the orders so far.
func (l *load) sent() []order {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]order(nil), l.orders...)
}
