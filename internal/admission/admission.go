// Package admission decides whether one more server fits the account. It is
// pure: it reads no clock, no network and no store, and it imports nothing of
// this module. Its callers fetch the facts and act on the decision.
package admission

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Resources is a quantity in the four dimensions that HostUp limits per
// account: cores, GiB of memory, GiB of storage and instances. It is signed:
// support may lower a limit below what is in use.
type Resources struct {
	CPUCores  int64
	MemoryGB  int64
	StorageGB int64
	Instances int64
}

// Add returns the sum of r and o.
func (r Resources) Add(o Resources) Resources {
	return Resources{r.CPUCores + o.CPUCores, r.MemoryGB + o.MemoryGB, r.StorageGB + o.StorageGB, r.Instances + o.Instances}
}

// Sub returns r less o.
func (r Resources) Sub(o Resources) Resources {
	return Resources{r.CPUCores - o.CPUCores, r.MemoryGB - o.MemoryGB, r.StorageGB - o.StorageGB, r.Instances - o.Instances}
}

// Limit is one of the four dimensions, under the name that HostUp's limits
// document has for it.
type Limit struct {
	Name   string
	Amount int64
}

// Limits lists the dimensions of r in a fixed order.
func (r Resources) Limits() [4]Limit {
	return [...]Limit{{"cpuCores", r.CPUCores}, {"memoryGb", r.MemoryGB}, {"storageGb", r.StorageGB}, {"instanceCount", r.Instances}}
}

// Prices are the account's own rates per hour, from GET /vps/payg/limits.
// Never assume a rate: the documented examples differ eightfold.
type Prices struct {
	CPUPerCoreHour   float64
	MemoryPerGBHour  float64
	StoragePerGBHour float64
	IPPerHour        float64
	CurrencyCode     string
}

// PerHour returns what a server of this size costs per hour, its address
// included.
func (p Prices) PerHour(r Resources) float64 {
	return p.CPUPerCoreHour*float64(r.CPUCores) + p.MemoryPerGBHour*float64(r.MemoryGB) +
		p.StoragePerGBHour*float64(r.StorageGB) + p.IPPerHour*float64(r.Instances)
}

// Facts is what the account's two read endpoints said, and when.
type Facts struct {
	// Remaining is max less current as HostUp counts it, Max the limit itself.
	Remaining Resources
	Max       Resources
	Prices    Prices
	// CanDeploy is actions.canDeploy.allowed; absent counts as false. The
	// reasons are HostUp's words.
	CanDeploy      bool
	Reason         string
	BlockerReasons []string
	// Regions lists the region ids that the account may use. Empty means that
	// HostUp did not list any, which forbids none.
	Regions []string
	// AskedAt is when the older of the two reads was sent. What was bought
	// after it may be missing from Remaining.
	AskedAt time.Time
}

// AllowsRegion reports whether a request may name the region.
func (f Facts) AllowsRegion(region string) bool {
	return len(f.Regions) == 0 || slices.Contains(f.Regions, region)
}

// Verdict is the kind of a Decision.
type Verdict int

// The three things admission can say.
const (
	// Admit: the request fits, also beside everything in flight.
	Admit Verdict = iota
	// Full: the request does not fit what HostUp says is left.
	Full
	// Crowded: it fits what HostUp says is left, but not together with what
	// is in flight, which may or may not be counted in it already. Ask again
	// when something in flight has ended; never refuse.
	Crowded
)

// Violation is one limit that does not allow the request.
type Violation struct {
	// Limit is HostUp's name for the dimension, as in the limits document.
	Limit     string
	Remaining int64
	Asked     int64
}

// Decision is the answer to one request.
type Decision struct {
	Verdict    Verdict
	Violations []Violation
	// Detail says it for people, naming each limit, what is left and what was
	// asked. Empty when admitted.
	Detail string
}

// Decide judges one request against the account's facts and what is in
// flight beside it.
func Decide(f Facts, inFlight, ask Resources) Decision {
	if !f.CanDeploy {
		return Decision{Verdict: Full, Detail: "the account may not deploy: " + blockers(f)}
	}
	if v := violations(f.Remaining, ask); len(v) > 0 {
		return Decision{Verdict: Full, Violations: v, Detail: "the account's limits do not allow it: " + describe(v)}
	}
	if v := violations(f.Remaining.Sub(inFlight), ask); len(v) > 0 {
		return Decision{Verdict: Crowded, Violations: v, Detail: "fits only when creates in flight have settled: " + describe(v)}
	}
	return Decision{Verdict: Admit}
}

func violations(left, ask Resources) []Violation {
	var broken []Violation
	asked := ask.Limits()
	for i, l := range left.Limits() {
		if asked[i].Amount > l.Amount {
			broken = append(broken, Violation{Limit: l.Name, Remaining: l.Amount, Asked: asked[i].Amount})
		}
	}
	return broken
}

func describe(vs []Violation) string {
	parts := make([]string, len(vs))
	for i, v := range vs {
		parts[i] = fmt.Sprintf("%s: %d left, %d asked", v.Limit, v.Remaining, v.Asked)
	}
	return strings.Join(parts, "; ")
}

func blockers(f Facts) string {
	reason := f.Reason
	if reason == "" {
		reason = "HostUp gave no reason"
	}
	if len(f.BlockerReasons) > 0 {
		reason += " (" + strings.Join(f.BlockerReasons, ", ") + ")"
	}
	return reason
}
