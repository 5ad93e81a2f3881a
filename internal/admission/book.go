package admission

import (
	"slices"
	"sync"
	"time"
)

// Book counts what the fleet has asked for or bought that the account's facts
// may not show yet, so that a burst does not spend the same free slot many times
// over: what this process is at, and the open name rows of the ledger, which are
// the reservation of everybody else. An owner counts once, however many of the
// two tell of it. It is safe for concurrent use. It is a courtesy to the API and
// to the requester, never a safety: HostUp remains the arbiter.
type Book struct {
	identify func(key string) string
	settle   time.Duration

	mu     sync.Mutex
	claims map[string]claim // by owner; every one of them counts
	rows   map[string]seenRow
	sum    Resources // of all claims
	bought []purchase
	freed  chan struct{}
}

// claim is the place that one owner takes.
type claim struct {
	of Resources
	// own: this process is at it. rows: so many open rows name the owner.
	// bought: it has a server that the facts may lack.
	own    bool
	rows   int
	bought bool
}

func (c claim) counts() bool { return c.own || c.rows > 0 || c.bought }

type seenRow struct {
	owner    string
	revision uint64
	at       time.Time
}

type purchase struct {
	owner string
	at    time.Time
}

// Row is what a name row of the ledger says.
type Row struct {
	// Open is whether the owner may have a server that nobody announced.
	Open bool
	// Owner is who has the row, or who just closed it; empty when it is gone.
	Owner string
	Of    Resources
	// Bought is whether the row was left with a server: by its owner when it is
	// closed, by the owner before when it is open.
	Bought bool
	// Revision tells a row that changed from one that is told again.
	Revision uint64
}

// NewBook returns an empty book. identify turns a key into the name that rows
// have for their owner. What an owner may have bought is in the facts by the
// time that its row has been seen unchanged for settle: facts that were asked
// for later need no reservation beside them, whatever the row still waits for.
func NewBook(settle time.Duration, identify func(key string) string) *Book {
	return &Book{
		identify: identify, settle: settle, claims: make(map[string]claim), rows: make(map[string]seenRow), freed: make(chan struct{}),
	}
}

// Admit decides on a request beside everything in the book and, on Admit,
// enters it under its key until Bought or Forget. A key that is entered
// already is not counted against itself.
func (b *Book) Admit(key string, f Facts, ask Resources) Decision {
	owner := b.identify(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(f.AskedAt)
	beside := b.sum.Sub(b.claims[owner].of)
	d := Decide(f, beside, ask)
	if d.Verdict == Crowded {
		d = Decide(f, beside.Sub(b.settled(owner, f.AskedAt)), ask)
	}
	b.change(owner, func(c *claim) {
		if c.own = d.Verdict == Admit; c.own {
			c.of = ask
		}
	})
	return d
}

// Bought turns the entry of a key into a purchase made at the given time. It
// counts until the facts are newer than that.
func (b *Book) Bought(key string, at time.Time) {
	owner := b.identify(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.claims[owner]; c.own {
		b.buy(owner, c.of, at)
	}
}

// Forget drops the entry of a key: nothing was bought, or nobody knows. Its
// open row, if it has one, goes on counting.
func (b *Book) Forget(key string) {
	owner := b.identify(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.change(owner, func(c *claim) { c.own = false })
}

// Row takes note of what the row of a name says, seen at the given time. A
// row that is closed with a server counts as a purchase made then; one that is
// closed without frees its room at once.
func (b *Book) Row(name string, r Row, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, known := b.rows[name]
	if known && r.Open && old.revision == r.Revision {
		return
	}
	delete(b.rows, name)
	if r.Open {
		b.rows[name] = seenRow{owner: r.Owner, revision: r.Revision, at: at}
		b.change(r.Owner, func(c *claim) {
			c.rows++
			if !c.own {
				c.of = r.Of
			}
		})
	}
	switch {
	case r.Bought && !r.Open:
		b.buy(r.Owner, r.Of, at)
	case r.Bought && known && old.owner != r.Owner:
		b.buy(old.owner, b.claims[old.owner].of, at)
	}
	if known {
		b.change(old.owner, func(c *claim) { c.rows-- })
	}
}

// Open lists the names whose rows have been open, and unchanged, since before
// a time.
func (b *Book) Open(before time.Time) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name, r := range b.rows {
		if r.at.Before(before) {
			names = append(names, name)
		}
	}
	return names
}

// Owners lists who has had a row open, and unchanged, since before a time, those
// first who have had it longest.
func (b *Book) Owners(before time.Time) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var open []seenRow
	for _, r := range b.rows {
		if r.at.Before(before) {
			open = append(open, r)
		}
	}
	slices.SortFunc(open, func(a, b seenRow) int { return a.at.Compare(b.at) })
	owners := make([]string, len(open))
	for i, r := range open {
		owners[i] = r.owner
	}
	return owners
}

// Freed returns a channel that is closed when something stops counting.
func (b *Book) Freed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.freed
}

// buy ends an owner's own entry with a purchase. The first time that is told
// counts: the process that bought knows before its row tells. There need be no
// claim yet: a row may be open for less time than it takes to see that.
func (b *Book) buy(owner string, of Resources, at time.Time) {
	first := !b.claims[owner].bought
	b.change(owner, func(c *claim) {
		if !c.counts() {
			c.of = of
		}
		c.own, c.bought = false, true
	})
	if first {
		b.bought = append(b.bought, purchase{owner: owner, at: at})
		// No process admits on facts older than settle, so that one which admits
		// nobody for a day remembers little.
		b.drop(at.Add(-b.settle))
	}
}

// drop ends the purchases which facts asked for at that time contain.
func (b *Book) drop(askedAt time.Time) {
	for len(b.bought) > 0 && b.bought[0].at.Before(askedAt) {
		b.change(b.bought[0].owner, func(c *claim) { c.bought = false })
		b.bought = b.bought[1:]
	}
}

// settled sums the claims of others which stand on a row alone that facts asked
// for at that time need no reservation for.
func (b *Book) settled(owner string, askedAt time.Time) Resources {
	var sum Resources
	for _, r := range b.rows {
		if c := b.claims[r.owner]; r.owner != owner && !c.own && !c.bought && c.rows == 1 && r.at.Add(b.settle).Before(askedAt) {
			sum = sum.Add(c.of)
		}
	}
	return sum
}

// change alters the claim of an owner and keeps the sum.
func (b *Book) change(owner string, alter func(*claim)) {
	c, counted := b.claims[owner]
	b.sum = b.sum.Sub(c.of)
	alter(&c)
	if c.counts() {
		b.claims[owner] = c
		b.sum = b.sum.Add(c.of)
		return
	}
	delete(b.claims, owner)
	if counted {
		close(b.freed)
		b.freed = make(chan struct{})
	}
}
