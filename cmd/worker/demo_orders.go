package main

import (
	"fmt"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// demoOrder is one order of the demo and what has to come of it.
type demoOrder struct {
	key     string
	about   string
	request provision.Request
	// times is how often it is published; 0 counts as 1.
	times int
	// late orders are placed when all others have been answered: of two
	// messages with one key the worker accepts whichever it meets first.
	late bool
	// body replaces the request, header adds to it.
	body   []byte
	header map[string]string
	// kind and reason are the outcome it should have; no kind means a dead
	// letter and no event.
	kind   provision.Kind
	reason provision.Reason
	// adopted tells that the server is found by looking it up.
	adopted bool

	placedAt time.Time
	// sequence is its message's, the last one's of several; trace is the id of
	// its trace, if spans are written.
	sequence uint64
	trace    string
	events   []provision.Event
	took     time.Duration
}

// Sizes of the demo's plain servers.
const (
	demoCores  = 2
	demoMemory = 4
	demoDisk   = 80
)

// demoNamesake is the name of an order whose answer gets lost while somebody
// else makes a server of the same name and size.
const demoNamesake = "fault-cut-after-x1-h"

// demoLimits are the account's: in every dimension room for every order but
// the one that is too large, whose storage is.
func demoLimits(have simulator.Limits, plain int) simulator.Limits {
	servers := plain + 16
	have.Instances = max(have.Instances, servers)
	have.CPUCores = max(have.CPUCores, servers*demoCores)
	have.MemoryGB = max(have.MemoryGB, servers*demoMemory)
	have.StorageGB = servers * demoDisk
	return have
}

// demoOrders is the program of the demo.
func demoOrders(plain int) []*demoOrder {
	var all []*demoOrder
	add := func(o demoOrder) *demoOrder {
		if o.key == "" {
			o.key = fmt.Sprintf("order-%d", 1001+len(all))
		}
		o.request.Key = o.key
		if o.request.CPUCores == 0 {
			o.request.CPUCores = demoCores
		}
		o.request.MemoryGB, o.request.Region = demoMemory, "stockholm"
		if o.request.StorageGB == 0 {
			o.request.StorageGB = demoDisk
		}
		all = append(all, &o)
		return all[len(all)-1]
	}
	named := func(name string) provision.Request { return provision.Request{Name: name} }
	for i := range plain {
		add(demoOrder{about: "plain order", request: named(fmt.Sprintf("web-%02d", i+1)), kind: provision.KindProvisioning})
	}
	add(demoOrder{about: "sent three times", request: named("twice-01"), times: 3, kind: provision.KindProvisioning})
	first := add(demoOrder{about: "the first of a conflict", request: named("conflict-01"), kind: provision.KindProvisioning})
	add(demoOrder{key: first.key, about: "same key, other size", late: true, request: provision.Request{Name: "conflict-01", CPUCores: 8}, kind: provision.KindFailed, reason: provision.ReasonIdempotencyConflict})
	add(demoOrder{about: "throttled: Retry-After 1 s", request: named("fault-429-retry-after-1-x1-a"), kind: provision.KindProvisioning})
	add(demoOrder{about: "throttled: as an HTTP date", request: named("fault-429-date-1s-x1-b"), kind: provision.KindProvisioning})
	add(demoOrder{about: "throttled without a header", request: named("fault-429-none-x1-c"), kind: provision.KindProvisioning})
	add(demoOrder{about: "answer lost, server billed", request: named("fault-cut-after-x1-d"), adopted: true, kind: provision.KindProvisioning})
	add(demoOrder{about: "answer lost, nothing billed", request: named("fault-cut-before-x1-e"), kind: provision.KindProvisioning})
	add(demoOrder{about: "HostUp says 500", request: named("fault-500-x1-f"), kind: provision.KindProvisioning})
	add(demoOrder{about: "answer lost, two candidates", request: named(demoNamesake), kind: provision.KindHeld})
	add(demoOrder{about: "HostUp says 409", request: named("fault-409-x1-g"), kind: provision.KindFailed, reason: provision.ReasonRefused})
	add(demoOrder{about: "too large for the account", request: provision.Request{Name: "large-01", StorageGB: 2000, CPUCores: 32}, kind: provision.KindFailed, reason: provision.ReasonLimitExceeded})
	add(demoOrder{about: "100 cores", request: provision.Request{Name: "wide-01", CPUCores: 100}, kind: provision.KindFailed, reason: provision.ReasonInvalidRequest})
	add(demoOrder{about: "deadline already past", request: provision.Request{Name: "late-01", Deadline: time.Now().Add(-time.Minute)}, kind: provision.KindFailed, reason: provision.ReasonDeadlineExceeded})
	add(demoOrder{about: "not JSON, key in a header", body: []byte("{oops"), header: map[string]string{"Idempotency-Key": "order-broken"}, key: "order-broken", kind: provision.KindFailed, reason: provision.ReasonUndecodable})
	add(demoOrder{key: "(none)", about: "no key at all", body: []byte(`{"name":"nokey-01"}`)})
	return all
}
