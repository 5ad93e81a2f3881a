package provision

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Server is one server of the account, as far as a look-up judges it.
type Server struct {
	ID   string
	Name string
	// Live is false once the server cannot cost money any more.
	Live bool
	// PAYG is true for pay-as-you-go servers; orders buy no others.
	PAYG      bool
	CPUCores  int64
	MemoryGB  int64
	StorageGB int64
}

// Inventory looks servers up. An error proves nothing; it is a *ReadError.
type Inventory interface {
	// Named returns all servers whose name is the given one in any case. It
	// fails rather than return a part of them.
	Named(ctx context.Context, name string) ([]Server, error)
	// CreatedAt returns when a server was created, zero when HostUp does not
	// say.
	CreatedAt(ctx context.Context, id string) (time.Time, error)
	// ByID returns one server; one that is not in the account is not Live.
	ByID(ctx context.Context, id string) (Server, error)
}

// clockSkew is how much earlier than an intent HostUp's clock may date the
// server which that intent bought (design section 5).
const clockSkew = 2 * time.Minute

func idsOf(candidates []Candidate) []string {
	var ids []string
	for _, c := range candidates {
		ids = append(ids, c.VPSID)
	}
	return ids
}

// found is what a look-up found, sorted by what it means.
type found struct {
	// ours are candidates: each may be the server that a lost answer bought.
	ours []Candidate
	// doubtful would be candidates, but nobody can say when they were created.
	doubtful []Candidate
}

// result is the word for it.
func (f found) result() string {
	if len(f.ours)+len(f.doubtful) > 0 {
		return lookedFound
	}
	return lookedEmpty
}

// look searches the account for a server that the record may have bought since
// a time on the worker's clock.
func (p *Provisioner) look(ctx context.Context, r *Record, since time.Time) (found, error) {
	ctx, span := p.begin(ctx, "look-up")
	f, err := p.search(ctx, r, since)
	tellLook(span, f, err)
	return f, err
}

func (p *Provisioner) search(ctx context.Context, r *Record, since time.Time) (found, error) {
	listed, err := p.ports.Inventory.Named(ctx, r.Request.Name)
	if err != nil {
		return found{}, fmt.Errorf("look %q up: %w", r.Request.Name, err)
	}
	past, err := p.ports.Names.Finished(ctx, r.Request.Name)
	if err != nil {
		return found{}, fmt.Errorf("read who was finished under the name %q: %w", r.Request.Name, err)
	}
	servers := slices.DeleteFunc(listed, func(s Server) bool { return !r.fits(s) })
	named, err := p.named(ctx, r, servers)
	if err != nil {
		return found{}, err
	}
	var f found
	for _, s := range slices.Concat(servers, named) {
		if past.Includes(s.ID) {
			continue
		}
		created, err := p.ports.Inventory.CreatedAt(ctx, s.ID)
		if err != nil {
			return found{}, fmt.Errorf("read when %s was created: %w", s.ID, err)
		}
		c := Candidate{VPSID: s.ID, Name: s.Name, CreatedAt: created}
		switch {
		case created.IsZero():
			c.Detail = "HostUp does not say when it was created"
			f.doubtful = append(f.doubtful, c)
		case created.Before(since.Add(-clockSkew)):
			// An older namesake.
		case !past.Forgotten.IsZero() && !created.After(past.Forgotten.Add(clockSkew)):
			c.Detail = "may belong to an earlier request of this name"
			f.doubtful = append(f.doubtful, c)
		case !r.sized(s):
			c.Detail = "an answer named it, but it is not what was ordered"
			f.doubtful = append(f.doubtful, c)
		default:
			f.ours = append(f.ours, c)
		}
	}
	return f, nil
}

// named returns the live servers that answers to the record's calls named,
// beside those that were found by their name: the account may list them under
// another one. An id in an answer is the strongest evidence there is, so a
// server that cannot be read proves nothing, as a failed look does.
func (p *Provisioner) named(ctx context.Context, r *Record, known []Server) ([]Server, error) {
	var named []Server
	asked := make(map[string]bool)
	for _, a := range r.Attempts {
		if a.VPSID == "" || asked[a.VPSID] || slices.ContainsFunc(known, func(s Server) bool { return s.ID == a.VPSID }) {
			continue
		}
		asked[a.VPSID] = true
		s, err := p.ports.Inventory.ByID(ctx, a.VPSID)
		if err != nil {
			return nil, fmt.Errorf("look at %s, which an answer named: %w", a.VPSID, err)
		}
		if !s.Live {
			continue
		}
		// Under another name it may have been announced for that name.
		past, err := p.ports.Names.Finished(ctx, s.Name)
		if err != nil {
			return nil, fmt.Errorf("read who was finished under the name %q: %w", s.Name, err)
		}
		if !past.Includes(s.ID) {
			named = append(named, s)
		}
	}
	return named, nil
}

// fits reports whether a server could be what the record asked for.
func (r *Record) fits(s Server) bool {
	return s.Live && strings.EqualFold(s.Name, r.Request.Name) && r.sized(s)
}

// sized reports whether a server is of the kind and size that the record asked
// for.
func (r *Record) sized(s Server) bool {
	return s.PAYG && s.CPUCores == int64(r.Request.CPUCores) && s.MemoryGB == int64(r.Request.MemoryGB) && s.StorageGB == int64(r.Request.StorageGB)
}

// Past is what is known of the servers that were announced under a name.
type Past struct {
	IDs []string
	// Forgotten is when the newest server was finished that is no longer
	// among IDs; zero when none was dropped.
	Forgotten time.Time
}

// Includes reports whether a server was announced.
func (p Past) Includes(id string) bool {
	return slices.Contains(p.IDs, id)
}

// settling says when the looks at an unknown outcome are due and when they
// have proved that there is nothing.
type settling struct {
	over  time.Duration // how long absence must be observed
	reads int           // in how many looks at least, 1 or more
}

// due is how long after the attempt's end the look after n empty ones comes.
// The first is at once, because a server that is there is found best early;
// then the pauses double, and the last look is at the end.
func (s settling) due(n int) time.Duration {
	last := max(s.reads-1, 1)
	switch {
	case n <= 0:
		return 0
	case n >= last:
		return s.over
	}
	return time.Duration(float64(s.over) * float64(uint64(1)<<n-1) / float64(uint64(1)<<last-1))
}

// proved reports whether n empty looks, the last of them that long after the
// attempt's end, are proof of absence.
func (s settling) proved(n int, elapsed time.Duration) bool {
	return n >= s.reads && elapsed >= s.over
}
