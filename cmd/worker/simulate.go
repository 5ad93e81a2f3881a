package main

import (
	"context"
	"fmt"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

type simulateCmd struct {
	Listen        string        `name:"listen" env:"SIMULATE_LISTEN" default:"127.0.0.1:8080" help:"Address to serve on."`
	Token         string        `name:"token" env:"SIMULATE_TOKEN" default:"sim-token" help:"The API key that is accepted."`
	Scopes        []string      `name:"scopes" env:"SIMULATE_SCOPES" default:"read:vm,write:billing" help:"Scopes of the key."`
	Regions       []string      `name:"regions" env:"SIMULATE_REGIONS" default:"stockholm" help:"Regions on offer."`
	MaxCores      int           `name:"max-cores" env:"SIMULATE_MAX_CORES" default:"256" help:"The account's limit of cores."`
	MaxMemory     int           `name:"max-memory-gb" env:"SIMULATE_MAX_MEMORY_GB" default:"1024" help:"The account's limit of memory."`
	MaxStorage    int           `name:"max-storage-gb" env:"SIMULATE_MAX_STORAGE_GB" default:"20000" help:"The account's limit of storage."`
	MaxInstances  int           `name:"max-instances" env:"SIMULATE_MAX_INSTANCES" default:"100" help:"The account's limit of servers."`
	NoDeploy      string        `name:"no-deploy" env:"SIMULATE_NO_DEPLOY" placeholder:"REASON" help:"Close the deploy gate for this reason."`
	Latency       time.Duration `name:"latency" env:"SIMULATE_LATENCY" default:"0s" help:"Time before each answer."`
	VisibilityLag time.Duration `name:"visibility-lag" env:"SIMULATE_VISIBILITY_LAG" default:"0s" help:"How long a new server is missing from the lists."`
	RateLimit     int           `name:"rate-limit" env:"SIMULATE_RATE_LIMIT" default:"0" help:"Requests per window; 0 is no limit."`
	RateWindow    time.Duration `name:"rate-window" env:"SIMULATE_RATE_WINDOW" default:"1m" help:"Window of the rate limit."`
	RateCreates   bool          `name:"rate-creates-only" env:"SIMULATE_RATE_CREATES_ONLY" help:"Only creates count against the rate limit."`
	RateAligned   bool          `name:"rate-aligned" env:"SIMULATE_RATE_ALIGNED" help:"Windows begin with the clock, not with a request."`
	RateQuiet     bool          `name:"rate-quiet" env:"SIMULATE_RATE_QUIET" help:"Only a refusal has the rate limit's headers."`
	Fault         []string      `name:"fault" env:"SIMULATE_FAULTS" sep:";" placeholder:"RULE" help:"What goes wrong, and for whom; see below. Repeat the flag, or separate rules by semicolons."`
	Seed          uint64        `name:"seed" env:"SIMULATE_SEED" default:"0" help:"Seed of ids and of random faults; 0 draws one and prints it."`
}

// Help is printed below the flags' summary.
func (*simulateCmd) Help() string {
	return "Faults:\n\n" + simulator.FaultHelp() + `

Examples:
  worker simulate
  worker simulate --fault 'cut-after@0.1' --seed 7        one create in ten is billed and its answer lost
  worker simulate --fault 'web-*/429:retry-after=3*1'     the first create of each web-… is throttled
  worker simulate --rate-limit 60 --visibility-lag 20s
  HOSTUP_API_URL=http://127.0.0.1:8080/api/v2 HOSTUP_API_TOKEN=sim-token worker run

What was billed: GET /_sim/invoices`
}

// Run serves the simulated API until ctx is cancelled.
func (c *simulateCmd) Run(ctx context.Context, t *terminal) error {
	cfg := simulator.Config{
		Token: c.Token, Scopes: c.Scopes, Regions: c.Regions,
		Limits:  simulator.Limits{CPUCores: c.MaxCores, MemoryGB: c.MaxMemory, StorageGB: c.MaxStorage, Instances: c.MaxInstances},
		Gate:    simulator.Gate{Closed: c.NoDeploy != "", Reason: c.NoDeploy},
		Latency: c.Latency, VisibilityLag: c.VisibilityLag,
		Rate: simulator.Rate{Limit: c.RateLimit, Window: c.RateWindow, CreatesOnly: c.RateCreates, Quiet: c.RateQuiet, Aligned: c.RateAligned},
		Seed: c.Seed,
	}
	if cfg.Seed == 0 {
		cfg.Seed = uint64(time.Now().UnixNano())
	}
	for _, text := range c.Fault {
		rule, err := simulator.ParseRule(text)
		if err != nil {
			return usageError{fmt.Errorf("SIMULATE_FAULTS=%q: %w", text, err)}
		}
		cfg.Faults = append(cfg.Faults, rule)
	}
	if err := cfg.Validate(); err != nil {
		return usageError{err}
	}
	sim := simulator.New(cfg)
	addr, stop, err := serve(ctx, c.Listen, "SIMULATE_LISTEN", sim)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(t.err, "worker: simulated HostUp API on http://%s/api/v2, seed %d, billed so far: http://%s/_sim/invoices\n", addr, cfg.Seed, addr)
	<-ctx.Done()
	_ = sim.Close()
	stop()
	_, _ = fmt.Fprintf(t.err, "worker: %d creates were asked for, %d servers were billed\n", len(sim.Creates()), len(sim.Invoices()))
	return nil
}
