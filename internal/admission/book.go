package admission

import (
	"sync"
	"time"
)

// Book counts what this process has asked for or bought that the account's
// facts may not show yet, so that a burst does not spend the same free slot
// many times over. It is safe for concurrent use. It is a courtesy to the API
// and to the requester, never a safety: HostUp remains the arbiter.
type Book struct {
	mu     sync.Mutex
	open   map[string]Resources
	bought []purchase
}

type purchase struct {
	at time.Time
	of Resources
}

// NewBook returns an empty book.
func NewBook() *Book { return &Book{open: make(map[string]Resources)} }

// Admit decides on a request beside everything in the book and, on Admit,
// enters it under its key until Bought or Forget. A key that is entered
// already is not counted against itself.
func (b *Book) Admit(key string, f Facts, ask Resources) Decision {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, key)
	d := Decide(f, b.inFlight(f.AskedAt), ask)
	if d.Verdict == Admit {
		b.open[key] = ask
	}
	return d
}

// Bought turns the entry of a key into a purchase made at the given time. It
// counts until the facts are newer than that.
func (b *Book) Bought(key string, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r, ok := b.open[key]; ok {
		delete(b.open, key)
		b.bought = append(b.bought, purchase{at: at, of: r})
	}
}

// Forget drops the entry of a key: nothing was bought, or nobody knows.
func (b *Book) Forget(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, key)
}

// inFlight sums the book and drops purchases which facts asked for at askedAt
// contain.
func (b *Book) inFlight(askedAt time.Time) Resources {
	var sum Resources
	for _, r := range b.open {
		sum = sum.Add(r)
	}
	kept := b.bought[:0]
	for _, p := range b.bought {
		if p.at.Before(askedAt) {
			continue
		}
		kept = append(kept, p)
		sum = sum.Add(p.of)
	}
	b.bought = kept
	return sum
}
