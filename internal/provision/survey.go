package provision

import (
	"context"
	"fmt"
	"time"
)

// surveyed bounds how many records one survey reads. Beyond it there are so many
// requests in doubt that nobody asks which of them are held.
const surveyed = 100

// standing is what a survey found in the whole fleet.
type standing struct {
	unknown, held int64
	// When the oldest unanswered attempt began, and the oldest holding; zero when
	// there is none.
	unknownSince, heldSince time.Time
}

// Survey counts the requests of the fleet whose outcome is unknown and those
// that are held, for the metrics. It reads the records of the names that have
// been open for quiet or longer, which are few, and not the ledger,
// which may be large.
func (p *Provisioner) Survey(ctx context.Context, archive Archive, quiet time.Duration) error {
	owners := p.book.Owners(time.Now().Add(-quiet))
	var s standing
	if len(owners) > surveyed {
		s.unknown = int64(len(owners) - surveyed)
		owners = owners[:surveyed]
	}
	for _, owner := range owners {
		r, err := archive.LoadHash(ctx, owner)
		if err != nil {
			return fmt.Errorf("look at who has a name: %w", err)
		}
		if r != nil {
			s.count(r)
		}
	}
	p.meter.standing.Store(&s)
	return nil
}

func (s *standing) count(r *Record) {
	switch r.State {
	case StateUnknown:
		s.unknown++
		if a := r.attempt(); a != nil {
			s.unknownSince = earlier(s.unknownSince, a.StartedAt)
		}
	case StateHeld:
		s.held++
		s.heldSince = earlier(s.heldSince, r.HeldAt)
	case StateAccepted, StateCreating, StateCreated, StateFailed, StateDone:
	}
}

// earlier is the earlier of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
