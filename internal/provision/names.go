package provision

import (
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// NameRow is what the row of a server name tells without its value being read.
// The zero NameRow is a row that is gone, or that does not say.
type NameRow struct {
	// Open is whether Owner may have a server that nobody announced.
	Open bool
	// Owner is the KeyHash of who has the row, or of who just closed it.
	Owner string
	// Size is what the owner ordered, one instance.
	Size admission.Resources
	// Since is when the owner took the row, by its clock: for people only.
	Since time.Time
	// VPSID is the server that the row was just left with: by Owner when it is
	// closed, by the owner before when it was taken over.
	VPSID string
	// Quiet is how long at least it had not changed when it was read, by the
	// ledger's clock; zero if it is told as it changes.
	Quiet time.Duration
	// Revision is the ledger's.
	Revision uint64
}

// NameChanged takes note of a row that changed anywhere in the fleet: the open
// ones are the room that is reserved. Whoever watches the ledger calls it, in
// the order of the changes; telling a row again is harmless.
func (p *Provisioner) NameChanged(hash string, row NameRow) {
	p.book.Row(hash, admission.Row{Open: row.Open, Owner: row.Owner, Of: row.Size, Bought: row.VPSID != "", Revision: row.Revision}, time.Now().Add(-row.Quiet))
}

// OpenNames lists, by hash, the names whose rows have been open and unchanged
// for so long: before this process has seen them by the ledger's clock, since
// then by its own monotonic one.
func (p *Provisioner) OpenNames(quiet time.Duration) []string {
	return p.book.Open(time.Now().Add(-quiet))
}

// SpendChanged takes note of what the caps have counted in the whole fleet, for
// the metrics.
func (p *Provisioner) SpendChanged(s admission.Spend) { p.meter.spend.Store(&s) }
