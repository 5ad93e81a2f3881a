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
//
// STATE is the state being stored. After means that the call has succeeded,
// for create that it has returned, and for handle that the ack comes next.
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
	armed map[string]map[int]failpoint // by point and nth

	mu   sync.Mutex
	hits map[string]int
}

// failpoint is what one armed point does.
type failpoint struct {
	kind string
	d    time.Duration
}

// arm puts failpoints around the ports, and gives what puts them around the
// handler.
func arm(ports provision.Ports) (provision.Ports, func(consumer.Handler) consumer.Handler, error) {
	f := &failpoints{armed: make(map[string]map[int]failpoint), hits: make(map[string]int)}
	if err := f.parse(os.Getenv("WORKER_FAILPOINTS")); err != nil {
		return ports, nil, usageError{fmt.Errorf("WORKER_FAILPOINTS: %w", err)}
	}
	switch mode := os.Getenv("WORKER_FAILPOINTS_UNSAFE"); mode {
	case "":
	case "blind-retry":
		ports.API = blindAPI{ports.API}
	case "no-lookup":
		ports.Inventory = blindInventory{ports.Inventory}
	default:
		return ports, nil, usageError{fmt.Errorf("WORKER_FAILPOINTS_UNSAFE=%q: must be blind-retry or no-lookup", mode)}
	}
	ports.Ledger = ledgerPoints{ports.Ledger, f}
	ports.Names = namesPoints{ports.Names, f}
	ports.API = apiPoints{ports.API, f}
	ports.Inventory = inventoryPoints{ports.Inventory, f}
	ports.Events = eventsPoints{ports.Events, f}
	return ports, func(h consumer.Handler) consumer.Handler { return handlerPoints{h, f} }, nil
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
