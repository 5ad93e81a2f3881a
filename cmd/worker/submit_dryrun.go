package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/batch"
	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/hostup"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

// rehearsal is what submit --dry-run finds.
type rehearsal struct {
	Orders     int `json:"orders"`
	Duplicates int `json:"duplicates"`
	// Known counts orders whose key is in the ledger, Conflicts those of them
	// whose key is that of another request; null where it could not be read.
	Known     *int `json:"known"`
	Conflicts *int `json:"conflicts"`
	// New is what would be ordered, the rest is about these.
	New          int              `json:"new"`
	PricePerHour float64          `json:"pricePerHour"`
	Currency     string           `json:"currency"`
	CanDeploy    bool             `json:"canDeploy"`
	Reason       string           `json:"reason,omitempty"`
	Regions      []rehearsedPlace `json:"regions"`
	Limits       []rehearsedLimit `json:"limits"`
	// Fits is set when nothing above stands against it.
	Fits bool `json:"fits"`
}

type rehearsedPlace struct {
	Region  string `json:"region"`
	Orders  int    `json:"orders"`
	Offered bool   `json:"offered"`
}

type rehearsedLimit struct {
	Limit string `json:"limit"`
	Asked int64  `json:"asked"`
	Left  int64  `json:"left"`
	Fits  bool   `json:"fits"`
}

// maxRegions is how many regions are told apart; an account has a handful.
const maxRegions = 100

// rehearse tells what a submission would come to, and orders nothing.
func (c *submitCmd) rehearse(ctx context.Context, t *terminal, b *batch.Batch) error {
	facts, err := c.facts(ctx)
	if err != nil {
		return err
	}
	known, conflicts, ledgerErr := c.known(ctx, b)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r := &rehearsal{
		Orders: b.Counts().Orders, Duplicates: b.Counts().Repeated,
		Currency: facts.Prices.CurrencyCode, CanDeploy: facts.CanDeploy,
	}
	if !facts.CanDeploy {
		r.Reason = strings.Join(append([]string{facts.Reason}, facts.BlockerReasons...), ", ")
	}
	asked, regions := admission.Resources{}, make(map[string]int)
	if err := b.Each(func(i int, row batch.Row) error {
		if _, repeated := b.Repeated(i); repeated || known[i] {
			return nil
		}
		r.New++
		asked = asked.Add(row.Request.Resources())
		place := row.Request.Region
		if _, there := regions[place]; !there && len(regions) >= maxRegions {
			place = "(others)"
		}
		regions[place]++
		return nil
	}); err != nil {
		return err
	}
	if ledgerErr == nil {
		n := len(known)
		r.Known, r.Conflicts = &n, &conflicts
	}
	r.PricePerHour = facts.Prices.PerHour(asked)
	r.judge(facts, asked, regions)
	if err := printOne(t.out, outputFlag{c.Output}, r, func() error { return r.print(t, ledgerErr) }); err != nil {
		return err
	}
	if !r.Fits {
		return quietError{errors.New("not everything would be ordered")}
	}
	return nil
}

// facts reads the account.
func (c *submitCmd) facts(ctx context.Context) (admission.Facts, error) {
	tokens, err := c.tokens()
	if err != nil {
		return admission.Facts{}, usageError{err}
	}
	client, err := hostup.New(hostup.Config{BaseURL: c.APIURL, AllowHTTP: c.AllowHTTP, Token: tokens, ReadTimeout: c.ReadTimeout, UserAgent: "deploy-worker/" + version})
	if err != nil {
		return admission.Facts{}, usageError{err}
	}
	defer client.Close()
	facts, err := hostup.NewAccount(client).Facts(ctx, time.Now())
	if err != nil {
		return facts, fmt.Errorf("read the account's prices and limits: %w\nsee `worker doctor`", err)
	}
	return facts, nil
}

// known finds the orders whose key the ledger knows, by row, and counts those
// that it knows for another request.
func (c *submitCmd) known(ctx context.Context, b *batch.Batch) (map[int]bool, int, error) {
	nc, js, err := broker.Connect(c.options())
	if err != nil {
		return nil, 0, err
	}
	defer nc.Close()
	book := ledger.New(js, ledger.Config{Bucket: c.Ledger})
	if _, err := js.Stream(ctx, "KV_"+c.Ledger); err != nil {
		return nil, 0, fmt.Errorf("the ledger %s: %w", c.Ledger, err)
	}
	rows := make([]bool, b.Len())
	var conflicts atomic.Int64
	reads, ctx := errgroup.WithContext(ctx)
	reads.SetLimit(looksAtOnce)
	err = b.Each(func(i int, row batch.Row) error {
		if _, repeated := b.Repeated(i); repeated {
			return nil
		}
		reads.Go(func() error { return knows(ctx, book, row.Request, &rows[i], &conflicts) })
		return ctx.Err()
	})
	if err := errors.Join(reads.Wait(), err); err != nil {
		return nil, 0, err
	}
	known := make(map[int]bool)
	for i, is := range rows {
		if is {
			known[i] = true
		}
	}
	return known, int(conflicts.Load()), nil
}

func knows(ctx context.Context, book *ledger.Ledger, q provision.Request, is *bool, conflicts *atomic.Int64) error {
	r, err := book.Load(ctx, q.Key)
	if err != nil || r == nil {
		return err
	}
	*is = true
	if !r.Request.Same(q) {
		conflicts.Add(1)
	}
	return nil
}

// judge says what stands against the new orders.
func (r *rehearsal) judge(f admission.Facts, asked admission.Resources, regions map[string]int) {
	r.Fits = (f.CanDeploy || r.New == 0) && (r.Conflicts == nil || *r.Conflicts == 0)
	for _, region := range slices.Sorted(maps.Keys(regions)) {
		p := rehearsedPlace{region, regions[region], f.AllowsRegion(region)}
		r.Regions = append(r.Regions, p)
		r.Fits = r.Fits && p.Offered
	}
	for _, l := range []rehearsedLimit{
		{Limit: "cpuCores", Asked: asked.CPUCores, Left: f.Remaining.CPUCores},
		{Limit: "memoryGb", Asked: asked.MemoryGB, Left: f.Remaining.MemoryGB},
		{Limit: "storageGb", Asked: asked.StorageGB, Left: f.Remaining.StorageGB},
		{Limit: "instanceCount", Asked: asked.Instances, Left: f.Remaining.Instances},
	} {
		l.Fits = l.Asked <= l.Left || l.Asked == 0
		r.Limits = append(r.Limits, l)
		r.Fits = r.Fits && l.Fits
	}
}

func (r *rehearsal) print(t *terminal, ledgerErr error) error {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(t.out, format+"\n", args...) }
	said := amount(r.Orders, "order")
	if r.Duplicates > 0 {
		said += fmt.Sprintf(", not counting %s that would not be sent because an earlier one says the same", amount(r.Duplicates, "row"))
	}
	say("%s", said)
	switch {
	case ledgerErr != nil:
		say("the ledger cannot be read, so all are taken for new: %v", ledgerErr)
	case *r.Known > 0:
		say("known already, so that nothing would be ordered: %d", *r.Known)
		if *r.Conflicts > 0 {
			say("of these have the key of another order, and would fail: %d", *r.Conflicts)
		}
	default:
		say("none of them is known yet")
	}
	say("new: %s, for %.4f %s per hour", amount(r.New, "order"), r.PricePerHour, r.Currency)
	if r.CanDeploy {
		say("the account may deploy")
	} else {
		say("the account may not deploy: %s", r.Reason)
	}
	for _, p := range r.Regions {
		if p.Offered {
			say("region %s: %s", p.Region, amount(p.Orders, "order"))
		} else {
			say("region %s: %s, but it is not offered to this account", p.Region, amount(p.Orders, "order"))
		}
	}
	tab := newTable(t.out, []string{"LIMIT", "ASKED", "LEFT", ""})
	for _, l := range r.Limits {
		left, mark := any(l.Left), "fits"
		if l.Left == hostup.Unlimited {
			left = "no limit"
		}
		if !l.Fits {
			mark = "too much"
		}
		tab.row(l.Limit, l.Asked, left, mark)
	}
	return tab.print()
}
