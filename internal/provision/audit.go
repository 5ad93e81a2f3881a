package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// FindingKind is what an audit found.
type FindingKind string

// The three findings.
const (
	// FindingOrphan: a live pay-as-you-go server that no request is known for.
	FindingOrphan FindingKind = "orphan"
	// FindingSuspectedDouble: one whose name a request has that was given
	// another server.
	FindingSuspectedDouble FindingKind = "suspected-double"
	// FindingVanished: a server that was announced and is not in the account
	// any more, or not alive.
	FindingVanished FindingKind = "vanished"
)

// Finding is one difference between the ledger and the account.
type Finding struct {
	Finding        FindingKind `json:"finding"`
	VPSID          string      `json:"vpsId"`
	IdempotencyKey string      `json:"idempotencyKey,omitempty"`
	Name           string      `json:"name"`
	PricePerHour   float64     `json:"pricePerHour"`
	Currency       string      `json:"currency"`
	Detail         string      `json:"detail"`
}

// Audited is what an audit needs of one record.
type Audited struct {
	Hash  string
	State State
	Name  string
	VPSID string
	// StoredAt is when the record changed last.
	StoredAt time.Time
}

// Archive gives the whole ledger to an audit.
type Archive interface {
	// Scan gives every record, without reading what it need not read.
	Scan(ctx context.Context, each func(Audited)) error
	// LoadHash is Ledger.Load by KeyHash.
	LoadHash(ctx context.Context, hash string) (*Record, error)
}

// vanishedAfter is how long ago a server must have been announced to be missed:
// the account's lists may lag behind.
const vanishedAfter = 15 * time.Minute

// Audits is the row that the timed audits of a fleet share: one replica lists
// the account, all of them report what it found.
type Audits struct {
	// At is when the newest audit began, zero when it did not end well, By which
	// replica made it.
	At time.Time `json:"at,omitzero"`
	By string    `json:"by,omitempty"`
	// Findings counts what it found.
	Findings map[FindingKind]int64 `json:"findings,omitempty"`
	// Revision is the ledger's.
	Revision uint64 `json:"-"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// Turn takes the next audit for by, unless one began less than every ago. A
// clock that is wrong makes an audit come early or late, and harms nothing else.
func (a Audits) Turn(now time.Time, by string, every time.Duration) (next Audits, mine bool) {
	if age := now.Sub(a.At); age >= 0 && age < every-every/10 {
		return a, false
	}
	a.At, a.By = now, by
	return a, true
}

// Told is the row after the audit of by, which found that or did not end.
func (a Audits) Told(by string, found []Finding, err error) (next Audits, changed bool) {
	if a.By != by {
		return a, false // somebody thought it had died
	}
	if err != nil {
		a.At = time.Time{}
		return a, true
	}
	a.Findings = countFindings(found)
	return a, true
}

func countFindings(found []Finding) map[FindingKind]int64 {
	counts := map[FindingKind]int64{FindingOrphan: 0, FindingSuspectedDouble: 0, FindingVanished: 0}
	for _, f := range found {
		counts[f.Finding]++
	}
	return counts
}

// Audited takes note of what another replica's audit found.
func (p *Provisioner) Audited(ctx context.Context, findings map[FindingKind]int64) {
	p.meter.audited(ctx, findings)
}

// Audit compares the ledger with the account's inventory. It changes nothing.
func (p *Provisioner) Audit(ctx context.Context, archive Archive) ([]Finding, error) {
	// The servers first: one bought after this look is in the ledger by the
	// time that is read, or else in a record that owns its name.
	servers, err := p.ports.Inventory.Named(ctx, "")
	if err != nil {
		if re, ok := errors.AsType[*ReadError](err); ok && re.Throttled {
			p.raise(ctx, re, 1)
		}
		return nil, fmt.Errorf("list the account's servers: %w", err)
	}
	facts, err := p.ports.Account.Facts(ctx, time.Now().Add(-time.Hour))
	if err != nil {
		return nil, fmt.Errorf("read the account's prices: %w", err)
	}
	p.meter.know(facts)
	compared := newComparison(servers, time.Now().Add(-vanishedAfter))
	if err := archive.Scan(ctx, compared.record); err != nil {
		return nil, err
	}
	found := compared.findings(facts.Prices)
	for i := range found {
		if err := p.explain(ctx, archive, &found[i], facts.Prices); err != nil {
			return nil, err
		}
	}
	p.meter.audited(ctx, countFindings(found))
	return found, nil
}

// explain puts the key in the place of its hash, says what a server that is gone
// cost, and tells an older namesake from a double.
func (p *Provisioner) explain(ctx context.Context, archive Archive, f *Finding, prices admission.Prices) error {
	if f.IdempotencyKey == "" {
		return nil
	}
	r, err := archive.LoadHash(ctx, f.IdempotencyKey)
	if err != nil {
		return err
	}
	f.IdempotencyKey = ""
	if r == nil {
		return nil
	}
	f.IdempotencyKey = r.Key
	switch f.Finding {
	case FindingVanished:
		f.PricePerHour = prices.PerHour(r.Request.Resources())
		return nil
	case FindingOrphan:
		return nil
	case FindingSuspectedDouble:
	}
	created, err := p.ports.Inventory.CreatedAt(ctx, f.VPSID)
	if err != nil {
		return fmt.Errorf("read when %s was created: %w", f.VPSID, err)
	}
	if !created.IsZero() && created.Before(r.RequestedAt.Add(-clockSkew)) {
		f.Finding, f.IdempotencyKey = FindingOrphan, ""
		f.Detail = "no request is known for it; it is older than the requests of its name"
	}
	return nil
}

// comparison is the pure part of an audit. It keeps what concerns the account's
// servers, which are hundreds, of records that may be millions.
type comparison struct {
	servers []Server
	// live are the servers that cost money, by id, and whether a record has them.
	live map[string]bool
	// namesakes are the records of the live servers' names, by name.
	namesakes map[string][]Audited
	newest    time.Time
	vanished  []Finding
}

// newComparison begins with the account's servers. Records that changed after
// newest are not missed yet.
func newComparison(servers []Server, newest time.Time) *comparison {
	c := &comparison{servers: servers, live: make(map[string]bool), namesakes: make(map[string][]Audited), newest: newest}
	for _, s := range servers {
		if s.Live {
			c.live[s.ID] = false
			c.namesakes[strings.ToLower(s.Name)] = nil
		}
	}
	return c
}

// record compares one record.
func (c *comparison) record(r Audited) {
	if _, live := c.live[r.VPSID]; live {
		c.live[r.VPSID] = true
	} else if r.VPSID != "" && r.StoredAt.Before(c.newest) {
		c.vanished = append(c.vanished, Finding{
			Finding: FindingVanished, VPSID: r.VPSID, IdempotencyKey: r.Hash, Name: r.Name,
			Detail: "it was announced and is not in the account any more, or not alive",
		})
	}
	name := strings.ToLower(r.Name)
	if of, ok := c.namesakes[name]; ok {
		c.namesakes[name] = append(of, r)
	}
}

// findings is what the comparison comes to, once every record was compared.
func (c *comparison) findings(prices admission.Prices) []Finding {
	found := c.vanished
	for _, s := range c.servers {
		if known, live := c.live[s.ID]; live && !known && s.PAYG {
			found = append(found, unknownServer(s, c.namesakes[strings.ToLower(s.Name)], prices))
		}
	}
	for i := range found {
		found[i].Currency = prices.CurrencyCode
	}
	slices.SortFunc(found, func(a, b Finding) int {
		return strings.Compare(string(a.Finding)+a.VPSID, string(b.Finding)+b.VPSID)
	})
	return found
}

// unknownServer judges a live server that no record has, by the records of its
// name.
func unknownServer(s Server, namesakes []Audited, prices admission.Prices) Finding {
	f := Finding{
		Finding: FindingOrphan, VPSID: s.ID, Name: s.Name,
		PricePerHour: prices.PerHour(admission.Resources{CPUCores: s.CPUCores, MemoryGB: s.MemoryGB, StorageGB: s.StorageGB, Instances: 1}),
		Detail:       "no request is known for it: somebody else made it, or the ledger has forgotten",
	}
	for _, r := range namesakes {
		switch {
		case r.State.Owns():
			// An orphan for now: whose it is will be known when that has ended.
			f.Finding, f.IdempotencyKey = FindingOrphan, r.Hash
			f.Detail = fmt.Sprintf("may be what a request of this name has bought, which is %s", r.State)
			return f
		case r.VPSID != "":
			f.Finding, f.IdempotencyKey = FindingSuspectedDouble, r.Hash
			f.Detail = "a request of this name was given " + r.VPSID
		case f.IdempotencyKey == "":
			f.IdempotencyKey = r.Hash
		}
	}
	return f
}
