package provision_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

// tenancy is an account with so many places of the size that order asks for. It
// is what the account tells, and it refuses what does not fit.
type tenancy struct {
	mu     sync.Mutex
	places int64
	used   int64
	most   int64
	takes  time.Duration // each call
}

// theirs is HostUp's document for a full account.
const theirs = `{"type":"about:blank","title":"Forbidden","status":403,"code":"payg_blocked","detail":"limits","blockerReasons":["instance_limit_exceeded"],"n":12345678901234567890}`

// tenancy makes the world's account and API those of one tenancy.
func (w *world) tenancy(places int64, takes time.Duration) *tenancy {
	a := &tenancy{places: places, takes: takes}
	w.account.apart = true
	w.account.ask = func(int) (admission.Facts, error) { return a.facts(), nil }
	w.api.answers = func(int, provision.Request) reply { return a.create() }
	return a
}

func (a *tenancy) facts() admission.Facts {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.places - a.used
	return admission.Facts{CanDeploy: true, Remaining: admission.Resources{CPUCores: 2 * n, MemoryGB: 4 * n, StorageGB: 80 * n, Instances: n}}
}

func (a *tenancy) create() reply {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := refused(403, provision.RefusalLimit)
	r.answer.Problem = json.RawMessage(theirs)
	if a.used < a.places {
		a.used++
		a.most = max(a.most, a.used)
		r = created()
	}
	r.takes = a.takes
	return r
}

// let changes how many places are used, as another user of the account does.
func (a *tenancy) let(change int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used += change
}

// fleet is several workers that watch one ledger, and a broker that hands out
// what is not acked.
type fleet struct {
	w       *world
	ctx     context.Context
	mu      sync.Mutex
	workers []*worker
	next    int
}

// fleet hires n workers; the watches end with ctx.
func (w *world) fleet(ctx context.Context, n int) *fleet {
	f := &fleet{w: w, ctx: ctx}
	for range n {
		wk := w.worker()
		f.workers = append(f.workers, wk)
		go w.shelf.ledger().Watch(ctx, ledger.Watch{Name: wk.NameChanged})
	}
	synctest.Wait()
	return f
}

// turn is whose turn it is to be handed a message: somebody alive.
func (f *fleet) turn() *worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		f.next++
		if wk := f.workers[f.next%len(f.workers)]; !wk.life.gone() {
			return wk
		}
	}
}

// ackWait is how long the broker waits for a worker that died.
const ackWait = 30 * time.Second

// serve delivers a message until it is acked, and says how it ended.
func (f *fleet) serve(m provision.Message, until time.Time) provision.Disposition {
	for ; time.Now().Before(until); m.Deliveries++ {
		d, alive := f.turn().deliver(f.ctx, m)
		if alive && d.Action != provision.Retry {
			return d
		}
		if !alive {
			d.After = ackWait
		}
		pass(max(d.After, time.Millisecond))
	}
	return provision.Disposition{}
}

// orders serves n orders, so long apart, and returns their keys when all have
// ended.
func (f *fleet) orders(n int, apart, within time.Duration) []string {
	var wg sync.WaitGroup
	var keys []string
	until := time.Now().Add(within)
	for i := range n {
		key := fmt.Sprintf("k%02d", i)
		keys = append(keys, key)
		m := order(key)
		m.Sequence = uint64(i + 1)
		wg.Go(func() {
			pass(time.Duration(i) * apart)
			if d := f.serve(m, until); d.Action != provision.Done {
				f.w.t.Errorf("%q did not end within %s: %s", key, within, f.w.shelf.state(key))
			}
		})
	}
	wg.Wait()
	synctest.Wait()
	for i, key := range keys { // a "done" that died with its worker is made good
		m := order(key)
		m.Sequence = uint64(i + 1001)
		f.serve(m, time.Now().Add(time.Hour))
	}
	synctest.Wait()
	return keys
}

// outcomes counts what the records say, and reports what is wrong with any.
func (f *fleet) outcomes(keys []string) map[string]int {
	got := make(map[string]int)
	for _, key := range keys {
		for _, wrong := range f.w.safe(key, true) {
			f.w.t.Error(wrong)
		}
		o := f.w.record(key).Outcome
		got[string(o.Kind)+" "+string(o.Reason)]++
		if o.Reason == provision.ReasonLimitExceeded && string(o.Problem) != theirs {
			var p provision.Problem
			if err := json.Unmarshal(o.Problem, &p); err != nil {
				f.w.t.Error(err)
			}
			for _, limit := range []string{"cpuCores: 0 left, 2 asked", "memoryGb: 0 left, 4 asked", "storageGb: 0 left, 80 asked", "instanceCount: 0 left, 1 asked"} {
				if !strings.Contains(p.Detail, limit) {
					f.w.t.Errorf("%q: the detail %q lacks %q", key, p.Detail, limit)
				}
			}
		}
	}
	return got
}

// 10 places, 50 orders, 4 replicas, half of which are killed on the way: 10
// servers, 40 clear refusals, nobody lost. That the replicas know of each other
// keeps all but a few calls from being sent in vain; those of one moment cross.
func TestFleetSharesTheRoom(t *testing.T) {
	for apart, calls := range map[time.Duration]int{0: 40, 50 * time.Millisecond: 13} {
		for _, die := range []int{0, 20, 50, 90, 140} {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprint(apart, die, after), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						w := newWorld(t)
						a := w.tenancy(10, 5*time.Second)
						ctx, cancel := context.WithCancel(t.Context())
						f := w.fleet(ctx, 4)
						if die > 0 {
							f.workers[0].life.doom(die, after)
							f.workers[2].life.doom(die/2+1, after)
						}
						got := f.outcomes(f.orders(50, apart, time.Hour))
						if got["provisioning "] != 10 || got["failed limit-exceeded"] != 40 || a.used != 10 {
							t.Errorf("%v and %d servers, want 10 servers and 40 refusals for the limit", got, a.used)
						}
						if n := len(w.api.sent()); n > calls {
							t.Errorf("%d creates were sent for 10 places", n)
						}
						cancel()
						synctest.Wait()
					})
				})
			}
		}
	}
}

// Under wait the rest follow as servers are deleted, and never too many.
func TestFleetWaitsForRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.LimitWait = true
		a := w.tenancy(10, 5*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		f := w.fleet(ctx, 3)
		f.workers[1].life.doom(60, true)
		var keys []string
		done := make(chan struct{})
		go func() { defer close(done); keys = f.orders(30, time.Second, 3*time.Hour) }()
		pass(30 * time.Minute)
		if n := a.facts().Remaining.Instances; n != 0 {
			t.Errorf("%d places are free although 20 wait", n)
		}
		for range 20 {
			a.let(-1)
			pass(time.Minute)
		}
		<-done
		if got := f.outcomes(keys); got["provisioning "] != 30 || a.most != 10 {
			t.Errorf("%v, at most %d servers at once, want all 30, 10 at once", got, a.most)
		}
		cancel()
		synctest.Wait()
	})
}

// Somebody else may eat the room after it was read: then HostUp refuses, and
// its document is the answer.
func TestOthersEatTheRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tenancy(1, 0)
		wk := w.worker()
		a.let(+1)
		w.account.ask = func(int) (admission.Facts, error) { return roomy(), nil }
		if d := wk.finish(order("a")); d.Reason != string(provision.ReasonLimitExceeded) {
			t.Errorf("got %+v", d)
		}
		o := w.record("a").Outcome
		if string(o.Problem) != theirs || !o.Retryable || o.Billed != provision.BilledNo {
			t.Errorf("the answer is %+v with the document\n%s, want HostUp's unchanged:\n%s", o, o.Problem, theirs)
		}
		if n := len(w.events.outcomes("a")); n != 1 {
			t.Errorf("%d outcomes", n)
		}
	})
}

// A replica does not send a create for a place that another one is filling,
// and goes on in the moment that it is free.
func TestCrowdedIsWokenByAnotherReplica(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.BackoffInitial, w.cfg.BackoffMax, w.cfg.InlineWait = 10*time.Minute, 20*time.Minute, time.Hour
		w.tenancy(1, 0)
		no := refused(400, provision.RefusalFinal)
		no.takes = 30 * time.Second
		w.api.script = []reply{no}
		ctx, cancel := context.WithCancel(t.Context())
		f := w.fleet(ctx, 2)
		until := time.Now().Add(time.Hour)
		go f.workers[0].drive(order("a"), until)
		pass(time.Second)
		began := time.Now()
		b := order("b")
		b.Sequence = 2
		f.workers[1].drive(b, until)
		if took := time.Since(began); took != 29*time.Second || w.api.made("b") != 1 {
			t.Errorf("b took %s and has %d servers; the place was free after 29s", took, w.api.made("b"))
		}
		cancel()
		synctest.Wait()
	})
}

// A worker that was killed between its result and the release leaves its row
// open. It is mended: the room comes back, and the next request of the name
// does not take that server for its own.
func TestLeftoverRowIsMended(t *testing.T) {
	for _, op := range []string{"publish", "store", "release"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.tenancy(2, 0)
				ctx, cancel := context.WithCancel(t.Context())
				f := w.fleet(ctx, 2)
				dead, wk := f.workers[0], f.workers[1]
				// load, facts, intend, create, store, and then this one.
				dead.life.doom(map[string]int{"publish": 6, "store": 7, "release": 8}[op], false)
				dead.deliver(ctx, order("a"))
				synctest.Wait()
				if r := w.record("a"); r.State.Owns() || r.VPSID != "vps_1" || !dead.life.gone() {
					t.Fatalf("the record is %s of %q, the worker dead: %v", r.State, r.VPSID, dead.life.gone())
				}
				other := order("b")
				other.Sequence = 2
				if d := wk.once(other); d.Reason != provision.WaitCrowded {
					t.Errorf("beside the row that was left the last place is %+v", d)
				}
				pass(time.Minute)
				open := wk.OpenNames(time.Minute)
				if len(open) != 1 || len(wk.OpenNames(2*time.Minute)) != 0 {
					t.Fatalf("open for a minute: %q", open)
				}
				if did, err := w.shelf.ledger().Mend(ctx, open[0]); !did || err != nil {
					t.Fatalf("Mend = %v, %v", did, err)
				}
				synctest.Wait()
				pass(time.Second)
				next := order("c")
				next.Request.Name, next.Sequence = "WEB-a", 3
				w.api.script = []reply{created(), lost(0, false)}
				if d := wk.finish(next); d.Result != provision.ResultProvisioning || w.record("c").VPSID == "vps_1" {
					t.Errorf("the next of the name: %+v with %s", d, w.record("c").VPSID)
				}
				if n := len(wk.OpenNames(0)); n != 0 {
					t.Errorf("%d rows are open at rest", n)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}
