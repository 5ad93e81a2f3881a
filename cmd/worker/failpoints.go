//go:build failpoints

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Failpoints make the worker crash, stop or dawdle at a named step of the
// order of effects. They exist only in builds with the tag failpoints, which
// `make crash` makes; every other build refuses WORKER_FAILPOINTS.
//
//	WORKER_FAILPOINTS="create.after:3=kill,store.created.before:1=stop:400ms"
//
// is a list of point:nth=action. A point is counted from 1 in each process:
//
//	load, intend, release, create, lookup, handle .before and .after
//	store, store.STATE, publish, publish.KIND     .before and .after
//	row, gate, brake, spend, mend, bury           .before and .after
//
// STATE is the state being stored. row, gate, brake and spend are single writes
// of the ledger: of a name row (row.before:1 is mostly the gap between an intent
// that is stored and its row), and of what the fleet shares. mend is the sweeper
// closing a row that nobody released, bury the publish of a dead letter. After
// means that the call has succeeded, for create that it has returned, and for
// handle that the ack comes next.
//
//	kill      SIGKILL to itself
//	stop:D    says so and stops itself; whoever runs it sends SIGCONT after D
//	term      SIGTERM to itself: a drain in the middle of things
//	delay:D   waits
//
// WORKER_FAILPOINTS_UNSAFE makes the very mistakes that this program exists to
// avoid, for the crash suite to show that it would notice: blind-retry takes
// every unknown outcome for one that was never sent, no-lookup finds nothing
// whenever it looks.
type failpoints struct {
	armed  map[string]map[int]failpoint // by point and nth
	unsafe string
	// sent returns when the broker has all that was sent to it.
	sent func()

	mu   sync.Mutex
	hits map[string]int
}

// failpoint is what one armed point does.
type failpoint struct {
	kind string
	d    time.Duration
}

// sentTimeout bounds the wait for a broker that may be away.
const sentTimeout = time.Second

// arm reads what the environment asks for.
func arm(nc *nats.Conn) (*failpoints, error) {
	f := &failpoints{
		armed: make(map[string]map[int]failpoint), hits: make(map[string]int), unsafe: os.Getenv("WORKER_FAILPOINTS_UNSAFE"),
		sent: func() { _ = nc.FlushTimeout(sentTimeout) }, // a broker that is away gets nothing
	}
	if err := f.parse(os.Getenv("WORKER_FAILPOINTS")); err != nil {
		return nil, usageError{fmt.Errorf("WORKER_FAILPOINTS: %w", err)}
	}
	switch f.unsafe {
	case "", "blind-retry", "no-lookup":
		return f, nil
	default:
		return nil, usageError{fmt.Errorf("WORKER_FAILPOINTS_UNSAFE=%q: must be blind-retry or no-lookup", f.unsafe)}
	}
}

// ports puts failpoints around the core's ports.
func (f *failpoints) ports(ports provision.Ports) provision.Ports {
	switch f.unsafe {
	case "blind-retry":
		ports.API = blindAPI{ports.API}
	case "no-lookup":
		ports.Inventory = blindInventory{ports.Inventory}
	}
	ports.Ledger = ledgerPoints{ports.Ledger, f}
	ports.Names = namesPoints{ports.Names, f}
	ports.API = apiPoints{ports.API, f}
	ports.Inventory = inventoryPoints{ports.Inventory, f}
	ports.Events = eventsPoints{ports.Events, f}
	return ports
}

// input puts them around what the consumer works with.
func (f *failpoints) input(ports consumer.Ports) consumer.Ports {
	ports.Handler = handlerPoints{ports.Handler, f}
	ports.JetStream = letterPoints{ports.JetStream, f}
	return ports
}

// sweep puts them around what the sweeper writes by itself.
func (f *failpoints) sweep(ports consumer.SweepPorts) consumer.SweepPorts {
	mend := ports.Mend
	ports.Mend = func(ctx context.Context, hash string) (bool, error) {
		f.hit("mend", "", "before")
		did, err := mend(ctx, hash)
		if did && err == nil {
			f.hit("mend", "", "after")
		}
		return did, err
	}
	return ports
}

// step is told the writes of the ledger. Those of records are points of their
// own, by what they store.
func (f *failpoints) step(key string, stored bool) {
	kind, name, _ := strings.Cut(key, ".")
	switch kind {
	case "name":
		name = "row"
	case "ctl":
	default:
		return
	}
	when := "before"
	if stored {
		when = "after"
	}
	f.hit(name, "", when)
}

func (f *failpoints) parse(text string) error {
	if text == "" {
		return nil
	}
	for item := range strings.SplitSeq(text, ",") {
		where, what, ok := strings.Cut(item, "=")
		point, count, counted := strings.Cut(where, ":")
		nth, err := strconv.Atoi(count)
		if !ok || !counted || err != nil || nth < 1 {
			return fmt.Errorf("%q: want point:nth=action", item)
		}
		do, err := parseFailpoint(what)
		if err != nil {
			return fmt.Errorf("%q: %w", item, err)
		}
		if f.armed[point] == nil {
			f.armed[point] = make(map[int]failpoint)
		}
		f.armed[point][nth] = do
	}
	return nil
}

func parseFailpoint(text string) (failpoint, error) {
	kind, length, timed := strings.Cut(text, ":")
	switch {
	case (kind == "kill" || kind == "term") && !timed:
		return failpoint{kind: kind}, nil
	case kind == "stop" || kind == "delay":
		d, err := time.ParseDuration(length)
		return failpoint{kind, d}, err
	default:
		return failpoint{}, errors.New("want kill, term, stop:D or delay:D")
	}
}

// hit counts a point, by its operation alone and with its detail, and does
// what is armed for that count.
func (f *failpoints) hit(operation, detail, when string) {
	points := []string{operation + "." + when}
	if detail != "" {
		points = append(points, operation+"."+detail+"."+when)
	}
	for _, point := range points {
		f.mu.Lock()
		f.hits[point]++
		nth := f.hits[point]
		do, armed := f.armed[point][nth]
		f.mu.Unlock()
		if armed {
			if point == "row.before" {
				f.sent() // the intent before it, or there is no gap
			}
			do.fire(point, nth)
		}
	}
}

// fire announces itself first: a killed process tells nothing afterwards.
func (do failpoint) fire(point string, nth int) {
	announced := do.kind
	if do.d > 0 {
		announced += ":" + do.d.String()
	}
	fmt.Fprintf(os.Stderr, "failpoint: %s at %s:%d\n", announced, point, nth)
	self := syscall.Getpid()
	switch do.kind {
	case "kill":
		_ = syscall.Kill(self, syscall.SIGKILL)
		select {} // the signal is on its way; nothing more may happen here
	case "stop":
		_ = syscall.Kill(self, syscall.SIGSTOP)
		wait := time.NewTimer(time.Millisecond) // for the signal to arrive
		<-wait.C
	case "term":
		_ = syscall.Kill(self, syscall.SIGTERM)
	case "delay":
		wait := time.NewTimer(do.d)
		<-wait.C
	}
}

// around hits a point before and, unless it failed, after a call.
func (f *failpoints) around(operation, detail string, call func() error) error {
	f.hit(operation, detail, "before")
	err := call()
	if err == nil {
		f.hit(operation, detail, "after")
	}
	return err
}

// Each decorator embeds the port, so that a method it does not know passes.

type ledgerPoints struct {
	provision.Ledger

	f *failpoints
}

func (l ledgerPoints) Load(ctx context.Context, key string) (r *provision.Record, err error) {
	err = l.f.around("load", "", func() error {
		r, err = l.Ledger.Load(ctx, key)
		return err
	})
	return r, err
}

func (l ledgerPoints) Store(ctx context.Context, r *provision.Record) error {
	return l.f.around("store", string(r.State), func() error { return l.Ledger.Store(ctx, r) })
}

func (l ledgerPoints) Intend(ctx context.Context, r *provision.Record) error {
	return l.f.around("intend", "", func() error { return l.Ledger.Intend(ctx, r) })
}

type namesPoints struct {
	provision.Names

	f *failpoints
}

func (n namesPoints) Release(ctx context.Context, r *provision.Record) error {
	return n.f.around("release", "", func() error { return n.Names.Release(ctx, r) })
}

type apiPoints struct {
	provision.API

	f *failpoints
}

func (a apiPoints) Create(ctx context.Context, r provision.Request) provision.Answer {
	a.f.hit("create", "", "before")
	answer := a.API.Create(ctx, r)
	a.f.hit("create", "", "after")
	return answer
}

type inventoryPoints struct {
	provision.Inventory

	f *failpoints
}

func (i inventoryPoints) Named(ctx context.Context, name string) (found []provision.Server, err error) {
	err = i.f.around("lookup", "", func() error {
		found, err = i.Inventory.Named(ctx, name)
		return err
	})
	return found, err
}

type eventsPoints struct {
	provision.Publisher

	f *failpoints
}

func (p eventsPoints) Publish(ctx context.Context, e provision.Event) error {
	return p.f.around("publish", string(e.Kind), func() error { return p.Publisher.Publish(ctx, e) })
}

type handlerPoints struct {
	consumer.Handler

	f *failpoints
}

func (h handlerPoints) Handle(ctx context.Context, m provision.Message) provision.Disposition {
	h.f.hit("handle", "", "before")
	d := h.Handler.Handle(ctx, m)
	h.f.hit("handle", "", "after")
	return d
}

// letterPoints is the consumer's JetStream: all it publishes is dead letters.
type letterPoints struct {
	jetstream.JetStream

	f *failpoints
}

func (l letterPoints) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (ack *jetstream.PubAck, err error) {
	err = l.f.around("bury", "", func() error {
		ack, err = l.JetStream.PublishMsg(ctx, m, opts...)
		return err
	})
	return ack, err
}

// blindAPI is a worker that retries without looking.
type blindAPI struct{ provision.API }

func (b blindAPI) Create(ctx context.Context, r provision.Request) provision.Answer {
	answer := b.API.Create(ctx, r)
	if answer.Verdict == provision.VerdictUnknown {
		answer.Verdict, answer.VPSID = provision.VerdictNeverSent, ""
	}
	return answer
}

// blindInventory is a worker that looks and never sees anything.
type blindInventory struct{ provision.Inventory }

func (blindInventory) Named(context.Context, string) ([]provision.Server, error) { return nil, nil }
