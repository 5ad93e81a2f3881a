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
	var records []Audited
	if err := archive.Scan(ctx, func(a Audited) { records = append(records, a) }); err != nil {
		return nil, err
	}
	found := compare(records, servers, facts.Prices, time.Now().Add(-vanishedAfter))
	for i := range found {
		if err := p.explain(ctx, archive, &found[i]); err != nil {
			return nil, err
		}
	}
	p.meter.audited(ctx, found)
	return found, nil
}

// explain puts the key in the place of its hash, and tells an older namesake
// from a double.
func (p *Provisioner) explain(ctx context.Context, archive Archive, f *Finding) error {
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
	if f.Finding != FindingSuspectedDouble {
		return nil
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

// compare is the pure part of an audit. Records that changed after newest are
// not missed yet.
func compare(records []Audited, servers []Server, prices admission.Prices, newest time.Time) []Finding {
	byVPS := make(map[string]Audited, len(records))
	byName := make(map[string][]Audited)
	for _, r := range records {
		if r.VPSID != "" {
			byVPS[r.VPSID] = r
		}
		name := strings.ToLower(r.Name)
		byName[name] = append(byName[name], r)
	}
	var found []Finding
	alive := make(map[string]bool, len(servers))
	for _, s := range servers {
		if !s.Live {
			continue
		}
		alive[s.ID] = true
		if _, known := byVPS[s.ID]; known || !s.PAYG {
			continue
		}
		found = append(found, unknownServer(s, byName[strings.ToLower(s.Name)], prices))
	}
	for id, r := range byVPS {
		if !alive[id] && r.StoredAt.Before(newest) {
			found = append(found, Finding{
				Finding: FindingVanished, VPSID: id, IdempotencyKey: r.Hash, Name: r.Name, Currency: prices.CurrencyCode,
				Detail: "it was announced and is not in the account any more, or not alive",
			})
		}
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
		Finding: FindingOrphan, VPSID: s.ID, Name: s.Name, Currency: prices.CurrencyCode,
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
