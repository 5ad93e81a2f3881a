package main

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

type listCmd struct {
	State   []string `name:"state" env:"WORKER_LIST_STATE" placeholder:"STATE" help:"Only requests in this state; repeat it for more: accepted, creating, unknown, held, created, failed, done (once its outcome was published)."`
	Outcome string   `name:"outcome" env:"WORKER_LIST_OUTCOME" placeholder:"KIND" help:"Only requests that ended so: provisioning or failed."`
	Since   string   `name:"since" env:"WORKER_LIST_SINCE" placeholder:"TIME" help:"Only requests accepted at this time or later: RFC 3339, or an age like 2h or 7d."`
	Until   string   `name:"until" env:"WORKER_LIST_UNTIL" placeholder:"TIME" help:"Only requests accepted before this time."`
	Region  string   `name:"region" env:"WORKER_LIST_REGION" help:"Only requests for this region."`
	Name    string   `name:"name" env:"WORKER_LIST_NAME" help:"Only servers with this in their name; with * or ? it is a pattern of the whole name."`
	Reason  []string `name:"reason" env:"WORKER_LIST_REASON" help:"Only requests that failed or wait for this reason, whose problem has this code, or that are held with this in the reason; repeat it for more."`
	Limit   *int     `name:"limit" env:"WORKER_LIST_LIMIT" placeholder:"N" help:"At most so many, the newest; 0 is all of them. Unless given: 100 in a table, all in JSON."`

	readerFlags
}

// Help is printed below the flags' summary.
func (*listCmd) Help() string {
	return `Examples:
  worker list                                  the newest 100
  worker list --state held                     what waits for a person
  worker list --state accepted --reason limits
  worker list --outcome failed --since 24h
  worker list --reason limit-exceeded
  worker list --name 'web-*' --region stockholm -o jsonl --limit 0

Newest first, by when the request was accepted; # is how many create calls were sent. Requests in
states other than done are cheap to list beside millions of finished ones. It needs no API key and
changes nothing.`
}

// tableLimit is how many a person gets without asking for more.
const tableLimit = 100

func (c *listCmd) validate() error {
	errs := []error{c.readerFlags.validate(), validPattern("WORKER_LIST_NAME", c.Name)}
	for _, s := range c.State {
		errs = append(errs, oneOf("WORKER_LIST_STATE", s, "accepted", "creating", "unknown", "held", "created", "failed", "done"))
	}
	if c.Outcome != "" {
		errs = append(errs, oneOf("WORKER_LIST_OUTCOME", c.Outcome, "provisioning", "failed"))
	}
	_, err := c.filter(time.Now())
	errs = append(errs, err)
	if c.Limit != nil && *c.Limit < 0 {
		errs = append(errs, fmt.Errorf("WORKER_LIST_LIMIT=%d: must not be negative", *c.Limit))
	}
	return errors.Join(errs...)
}

// Run lists what the ledger knows.
func (c *listCmd) Run(ctx context.Context, t *terminal) error {
	now := time.Now()
	wanted, err := c.filter(now)
	if err != nil {
		return usageError{err}
	}
	var found newest
	switch {
	case c.Limit != nil:
		found.limit = *c.Limit
	case c.people():
		found.limit = tableLimit
	}
	err = c.ledger(ctx, func(l *ledger.Ledger) error {
		return l.Records(ctx, func(r *provision.Record) error {
			if wanted.matches(r) {
				found.add(r)
			}
			return nil
		}, wanted.states...)
	})
	unreadable, some := errors.AsType[*ledger.UnreadableError](err)
	if err != nil && !some {
		return err
	}
	if err := c.print(t, found.sorted(), now); err != nil {
		return err
	}
	if some {
		return fmt.Errorf("the list is not complete: %w; a newer version or a person may have written it: look with nats stream get", unreadable)
	}
	if left := found.seen - len(found.records); left > 0 {
		_, err = fmt.Fprintf(t.err, "the newest %d of %d; --limit N shows more, --limit 0 all\n", len(found.records), found.seen)
	}
	return err
}

func (c *listCmd) print(t *terminal, records []*provision.Record, now time.Time) error {
	var views []recordView
	if !c.people() {
		for _, r := range records {
			views = append(views, listed(r))
		}
	}
	return printAll(t.out, c.outputFlag, views, func() error {
		if len(records) == 0 {
			_, err := fmt.Fprintln(t.out, "no such requests")
			return err
		}
		tab := newTable(t.out, []string{"KEY", "NAME", "STATE", "SERVER OR REASON", "#", "AGE"}, "KEY", "NAME", "SERVER OR REASON")
		tab.spare(3) // an id in two pieces cannot be copied
		for _, r := range records {
			tab.row(r.Key, r.Request.Name, string(r.State), because(r), r.Sent, span(max(now.Sub(r.CreatedAt), 0)))
		}
		return tab.print()
	})
}

// because is the server of a request, or in a few words why it has none.
func because(r *provision.Record) string {
	switch {
	case r.VPSID != "":
		return r.VPSID
	case r.Outcome != nil:
		return "failed: " + string(r.Outcome.Reason)
	case r.State == provision.StateHeld && (r.Evidence == nil || len(r.Evidence.Candidates) == 0):
		return "no candidate"
	case r.State == provision.StateHeld:
		return fmt.Sprintf("candidates: %d", len(r.Evidence.Candidates))
	default:
		return cmp.Or(r.WaitReason, "-")
	}
}

// filter says which requests are wanted.
type filter struct {
	states       []provision.State
	outcome      provision.Kind
	since, until time.Time
	region, name string
	reasons      []string
}

func (c *listCmd) filter(now time.Time) (filter, error) {
	since, sinceErr := moment("WORKER_LIST_SINCE", c.Since, now)
	until, untilErr := moment("WORKER_LIST_UNTIL", c.Until, now)
	f := filter{outcome: provision.Kind(c.Outcome), since: since, until: until, region: c.Region, name: c.Name, reasons: c.Reason}
	for _, s := range c.State {
		f.states = append(f.states, provision.State(s))
	}
	return f, errors.Join(sinceErr, untilErr)
}

func (f *filter) matches(r *provision.Record) bool {
	switch {
	case r.CreatedAt.Before(f.since), !f.until.IsZero() && !r.CreatedAt.Before(f.until):
		return false
	case f.outcome != "" && (r.Outcome == nil || r.Outcome.Kind != f.outcome):
		return false
	case f.region != "" && !strings.EqualFold(f.region, r.Request.Region), !named(f.name, r.Request.Name):
		return false
	}
	return len(f.reasons) == 0 || slices.ContainsFunc(f.reasons, func(reason string) bool { return isReason(r, reason) })
}

// isReason reports whether a request failed, waits or is held for a reason.
func isReason(r *provision.Record, reason string) bool {
	switch {
	case r.Outcome != nil:
		return r.Outcome.Kind == provision.KindFailed && (string(r.Outcome.Reason) == reason || problemOf(r.Outcome.Problem).Code == reason)
	case r.State == provision.StateHeld:
		return strings.Contains(strings.ToLower(r.HeldReason), strings.ToLower(reason))
	default:
		return r.WaitReason == reason
	}
}

// newest keeps the newest of the records it is given: limit of them, or all
// when that is 0.
type newest struct {
	limit   int
	seen    int
	records []*provision.Record // a heap, the oldest at its top, while limit is set
}

func (n *newest) add(r *provision.Record) {
	n.seen++
	// What lists do not show is not kept in memory.
	r.Attempts, r.Notes, r.LastProblem, r.Search = nil, nil, nil, nil
	if r.Evidence != nil {
		r.Evidence.Attempts = nil
	}
	switch {
	case n.limit == 0:
		n.records = append(n.records, r)
	case len(n.records) < n.limit:
		heap.Push(n, r)
	case older(n.records[0], r):
		n.records[0] = r
		heap.Fix(n, 0)
	}
}

// sorted gives the records, the newest first.
func (n *newest) sorted() []*provision.Record {
	slices.SortFunc(n.records, func(a, b *provision.Record) int { return compare(b, a) })
	return n.records
}

func compare(a, b *provision.Record) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Key, b.Key))
}

func older(a, b *provision.Record) bool { return compare(a, b) < 0 }

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (n *newest) Len() int           { return len(n.records) }
func (n *newest) Less(i, j int) bool { return older(n.records[i], n.records[j]) }
func (n *newest) Swap(i, j int)      { n.records[i], n.records[j] = n.records[j], n.records[i] }
func (n *newest) Push(x any) {
	if r, ok := x.(*provision.Record); ok {
		n.records = append(n.records, r)
	}
}

func (n *newest) Pop() any {
	last := n.records[len(n.records)-1]
	n.records = n.records[:len(n.records)-1]
	return last
}
