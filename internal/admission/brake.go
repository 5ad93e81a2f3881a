package admission

import (
	"slices"
	"time"
)

// Brake stops every create of the fleet until a person lifts it. It is one row
// that every replica watches.
type Brake struct {
	On bool `json:"on"`
	// Reason, By and At say why, who and when, of the last change.
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at,omitzero"`
	// Cap is set when a cap was reached: what was within it may go on.
	Cap Cap `json:"cap,omitempty"`
	// Doubles are the suspected doubles that have set the brake already: once
	// a person has lifted it, the same ones do not set it again.
	Doubles []string `json:"doubles,omitempty"`

	// Revision is the ledger's.
	Revision uint64 `json:"-"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// Set puts the brake on. A brake that is on already keeps its first reason,
// unless that was a cap, which stops less.
func (b Brake) Set(now time.Time, by, reason string) (Brake, bool) {
	if b.On && b.Cap == CapNone {
		return b, false
	}
	b.On, b.By, b.Reason, b.At, b.Cap = true, by, reason, now, CapNone
	return b, true
}

// Reach puts the brake on because a cap is reached.
func (b Brake) Reach(now time.Time, by string, c Cap) (Brake, bool) {
	if b.On {
		return b, false
	}
	b, changed := b.Set(now, by, "the cap "+string(c)+" is reached")
	if changed {
		b.Cap = c
	}
	return b, changed
}

// Suspect puts the brake on for servers that may have been bought twice, unless
// it was on for all of them before.
func (b Brake) Suspect(now time.Time, by, reason string, vpsIDs []string) (Brake, bool) {
	known := len(b.Doubles)
	b.Doubles = slices.Clone(b.Doubles)
	for _, id := range vpsIDs {
		if !slices.Contains(b.Doubles, id) {
			b.Doubles = append(b.Doubles, id)
		}
	}
	if len(b.Doubles) == known {
		return b, false
	}
	set, _ := b.Set(now, by, reason)
	return set, true
}

// Lift takes the brake off.
func (b Brake) Lift(now time.Time, by, reason string) (Brake, bool) {
	if !b.On {
		return b, false
	}
	b.On, b.By, b.Reason, b.At, b.Cap = false, by, reason, now, CapNone
	return b, true
}

// Caps bound what the fleet buys. Zero is off.
type Caps struct {
	// CreatesPerHour bounds the creates of any hour.
	CreatesPerHour int
	// HourlyCost bounds the summed price per hour of what was created in the
	// last 24 hours, in the account's currency.
	HourlyCost float64
}

// Set reports whether there is any.
func (c Caps) Set() bool { return c.CreatesPerHour > 0 || c.HourlyCost > 0 }

// Spend counts what the fleet has bought lately, in buckets of a minute and of
// a quarter of an hour: a bucket counts until all of it is too old, so that the
// count is never too low. A purchase is entered before its call and taken out
// again when the call provably bought nothing.
type Spend struct {
	Creates []Bucket `json:"creates,omitempty"`
	Costs   []Bucket `json:"costs,omitempty"`
	// Since is when a person last started the counts anew.
	Since time.Time `json:"since,omitzero"`
	// Revision is the ledger's.
	Revision uint64 `json:"-"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// Bucket is the sum of one span.
type Bucket struct {
	From time.Time `json:"from"`
	Sum  float64   `json:"sum"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

const (
	createSpan, createBucket = time.Hour, time.Minute
	costSpan, costBucket     = 24 * time.Hour, 15 * time.Minute
	// costSlack absorbs what adding many prices loses.
	costSlack = 1e-9
)

// Purchase is one create to be counted.
type Purchase struct {
	At    time.Time
	Price float64
}

// Enter counts a purchase, unless a cap forbids it; then it says which one.
func (s Spend) Enter(p Purchase, caps Caps) (next Spend, exceeded Cap) {
	s.Creates = add(s.Creates, p.At, createSpan, createBucket, 1)
	s.Costs = add(s.Costs, p.At, costSpan, costBucket, p.Price)
	switch {
	case caps.CreatesPerHour > 0 && sum(s.Creates) > float64(caps.CreatesPerHour):
		return s, CapCreates
	case caps.HourlyCost > 0 && sum(s.Costs) > caps.HourlyCost*(1+costSlack):
		return s, CapCost
	}
	return s, CapNone
}

// Cap names a cap that was reached.
type Cap string

// The caps.
const (
	CapNone    Cap = ""
	CapCreates Cap = "WORKER_MAX_CREATES_PER_HOUR"
	CapCost    Cap = "WORKER_MAX_HOURLY_COST"
)

// Remove takes a purchase out that bought nothing. One that was entered before
// the counts were started anew is not in them.
func (s Spend) Remove(p Purchase) Spend {
	if p.At.Before(s.Since) {
		return s
	}
	s.Creates = add(s.Creates, p.At, createSpan, createBucket, -1)
	s.Costs = add(s.Costs, p.At, costSpan, costBucket, -p.Price)
	return s
}

// Within tells what counts at a moment: the creates of the last hour, and the
// summed price per hour of those of the last day.
func (s Spend) Within(now time.Time) (creates, cost float64) {
	return sum(add(s.Creates, now, createSpan, createBucket, 0)), sum(add(s.Costs, now, costSpan, costBucket, 0))
}

// Anew starts the counts anew: a person has decided that the fleet goes on.
func (s Spend) Anew(now time.Time) Spend { return Spend{Since: now, Newer: s.Newer} }

// add adds to the bucket of a moment and drops those that are too old for it.
func add(buckets []Bucket, at time.Time, span, width time.Duration, by float64) []Bucket {
	from := at.UTC().Truncate(width)
	kept := make([]Bucket, 0, len(buckets)+1)
	found := false
	for _, b := range buckets {
		if b.From.Equal(from) {
			b.Sum = max(b.Sum+by, 0)
			found = true
		}
		if b.From.Add(width).After(at.Add(-span)) && b.Sum > 0 {
			kept = append(kept, b)
		}
	}
	if !found && by > 0 {
		kept = append(kept, Bucket{From: from, Sum: by})
	}
	return kept
}

func sum(buckets []Bucket) float64 {
	var total float64
	for _, b := range buckets {
		total += b.Sum
	}
	return total
}
