package simulator

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Config describes the simulated account and how the API in front of it
// behaves. The zero value is usable: every field says what its zero means.
// Slices are not modified and must not be modified after they were handed over.
type Config struct {
	// Token is the only bearer token that is accepted. Default "sim-token".
	Token string
	// Scopes are the scopes of that token. Nil means read:vm and
	// write:billing; an empty slice that is not nil means none.
	Scopes []string

	// Limits is what the account may have at once. Fields that are zero become
	// 256 cores, 1024 GB, 20000 GB and 100 instances: the documented example
	// (16/64/1000/10) is too small for a demo. Update can set real zeros.
	Limits Limits
	// Prices per hour; all zero means the documented example, in SEK.
	Prices Prices
	// Regions are the ids that a create may name. Default: stockholm.
	Regions []string
	// Gate is what actions.canDeploy says. The zero value is open.
	Gate Gate

	// Latency is spent before a request is looked at. A client that gives up
	// meanwhile does not stop a create: that is the worse of the two worlds.
	Latency time.Duration
	// VisibilityLag is how long a server that was just created is missing from
	// GET /vps and answered 404 by id. It counts against the limits at once.
	VisibilityLag time.Duration
	// ProvisionTime is how long a server stays pending/provisioning before it
	// is active/running with an address. Default 30 s.
	ProvisionTime time.Duration
	// Rate limits requests. The zero value does not.
	Rate Rate

	// Faults are asked in order; the first rule that matches, is not used up
	// and wins its draw decides. A server name of the form fault-… comes before
	// them all. Fault applies to every create that no rule claimed.
	Faults []Rule
	Fault  Fault
	// Seed decides ids and the draws of rules with a probability: the same
	// seed misbehaves at the same attempts of the same names, in whatever
	// order they arrive. Zero is a seed like any other.
	Seed uint64

	// KeepCreates bounds the log of creates; the oldest are forgotten first.
	// Default 100 000.
	KeepCreates int
	// Now is the clock of everything that is stamped or compared. Default
	// time.Now. Latency and delays use real timers whatever it says.
	Now func() time.Time
}

// Limits counts cores, GiB of memory, GiB of storage and instances.
type Limits struct {
	CPUCores  int `json:"cpuCores"`
	MemoryGB  int `json:"memoryGb"`
	StorageGB int `json:"storageGb"`
	Instances int `json:"instanceCount"`
}

func (l Limits) add(o Limits) Limits {
	return Limits{l.CPUCores + o.CPUCores, l.MemoryGB + o.MemoryGB, l.StorageGB + o.StorageGB, l.Instances + o.Instances}
}

func (l Limits) sub(o Limits) Limits {
	return Limits{l.CPUCores - o.CPUCores, l.MemoryGB - o.MemoryGB, l.StorageGB - o.StorageGB, l.Instances - o.Instances}
}

// Resources is the size of one server: cores, GiB of memory, GiB of storage.
type Resources struct {
	CPUCores  int `json:"cpuCores"`
	MemoryGB  int `json:"memoryGb"`
	StorageGB int `json:"storageGb"`
}

func (r Resources) usage() Limits {
	return Limits{r.CPUCores, r.MemoryGB, r.StorageGB, 1}
}

// Prices are per hour and unit, bandwidth per GB, all in CurrencyCode. The
// JSON is the documented billing object of GET /vps/payg/limits.
type Prices struct {
	CPUPerCoreHour   float64 `json:"cpuPerCoreHour"`
	MemoryPerGBHour  float64 `json:"memoryPerGbHour"`
	StoragePerGBHour float64 `json:"storagePerGbHour"`
	IPPerHour        float64 `json:"ipPerHour"`
	BandwidthPerGB   float64 `json:"bandwidthPerGb"`
	CurrencyCode     string  `json:"currencyCode"`
}

func (p Prices) perHour(r Resources) float64 {
	return p.CPUPerCoreHour*float64(r.CPUCores) + p.MemoryPerGBHour*float64(r.MemoryGB) +
		p.StoragePerGBHour*float64(r.StorageGB) + p.IPPerHour
}

// Gate is the account's permission to deploy at all. While it is closed a
// create is answered 403 with the blocker reasons.
type Gate struct {
	Closed         bool
	Reason         string
	BlockerReasons []string
}

// Rate allows Limit requests in each fixed window, counted from the first
// request after the last window ended, or, if it is Aligned, from one full
// multiple of Window on the clock to the next. Limit 0 turns it off. The account has
// one budget for all endpoints; with CreatesOnly only creates draw from it.
// With Quiet only a 429 has the X-RateLimit headers, so that nobody can know
// the limit before it is met.
type Rate struct {
	Limit       int
	Window      time.Duration
	CreatesOnly bool
	Quiet       bool
	Aligned     bool
}

func (c Config) withDefaults() Config {
	c.Token = cmp.Or(c.Token, "sim-token")
	if c.Scopes == nil {
		c.Scopes = []string{scopeRead, scopeWrite}
	}
	c.Limits.CPUCores = cmp.Or(c.Limits.CPUCores, 256)
	c.Limits.MemoryGB = cmp.Or(c.Limits.MemoryGB, 1024)
	c.Limits.StorageGB = cmp.Or(c.Limits.StorageGB, 20000)
	c.Limits.Instances = cmp.Or(c.Limits.Instances, 100)
	c.Prices = cmp.Or(c.Prices, Prices{0.12, 0.04, 0.003, 0.02, 0.1, "SEK"})
	if len(c.Regions) == 0 {
		c.Regions = []string{"stockholm"}
	}
	c.ProvisionTime = cmp.Or(c.ProvisionTime, 30*time.Second)
	c.KeepCreates = cmp.Or(c.KeepCreates, 100_000)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Validate reports everything that is wrong with c at once. Zero values that
// have a default are not wrong.
func (c Config) Validate() error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.Latency < 0, "latency %s is negative", c.Latency)
	bad(c.VisibilityLag < 0, "visibility lag %s is negative", c.VisibilityLag)
	bad(c.ProvisionTime < 0, "provision time %s is negative", c.ProvisionTime)
	bad(c.KeepCreates < 0, "number of creates to keep %d is negative", c.KeepCreates)
	bad(c.Rate.Limit < 0, "rate limit %d is negative", c.Rate.Limit)
	bad(c.Rate.Limit > 0 && c.Rate.Window <= 0, "rate window %s is not positive", c.Rate.Window)
	l := c.Limits
	bad(min(l.CPUCores, l.MemoryGB, l.StorageGB, l.Instances) < 0, "limits %+v are negative", l)
	bad(slices.Contains(c.Regions, ""), "a region id is empty")
	for _, r := range c.Faults {
		if err := r.validate(); err != nil {
			errs = append(errs, fmt.Errorf("fault rule %q: %w", r, err))
		}
	}
	return errors.Join(errs...)
}
