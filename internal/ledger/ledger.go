// Package ledger is the durable memory behind provision's ports: one record
// per idempotency key and one row per server name, in one JetStream KV
// bucket, changed by compare-and-set only and read from the leader only.
//
// It knows the store and the states of a request, and decides nothing about
// what is done next. It imports provision and no other package of this module.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Keys of the bucket. H is provision.KeyHash.
const (
	recordPrefix = "rec."  // rec.<H of the idempotency key>
	namePrefix   = "name." // name.<H of the lower-cased server name>
)

// cell is one value of the store. The zero cell is an absent one.
type cell struct {
	data []byte
	// revision is the store's; it may be set on an absent cell, when the store
	// keeps a marker of what was deleted or has expired.
	revision uint64
	// token is the write's own mark.
	token string
}

func (c cell) absent() bool { return len(c.data) == 0 }

// write is one compare-and-set. revision 0 means that the cell must be absent.
type write struct {
	key      string
	data     []byte
	revision uint64
	// ttl is the bucket's where it is zero, and forever for what must outlive
	// that: a brake does not come off by itself.
	ttl time.Duration
	// label is what a scan tells of the cell without reading its data.
	label label
}

const forever = time.Duration(-1)

// label is kept beside the data of a record or of a name row.
type label struct {
	state provision.State
	name  string
	vpsID string
	// origin is that of a record that is not done.
	origin Origin
	row    *provision.NameRow // its Revision is the cell's
}

// store is what a KV must offer. start sends a write and returns how to wait
// for its answer, so that two writes can be on the way at once; writes started
// by one caller are applied in that order. The answer is the new revision or
// provision.ErrConflict; any other error means that nobody knows.
type store interface {
	get(ctx context.Context, key string) (cell, error)
	start(ctx context.Context, w write) (finish func() (uint64, error))
	// open begins to read a scope. Whoever opens a cursor closes it.
	open(ctx context.Context, of scope) (cursor, error)
}

// cursor is a place in the order of what has become of a scope's cells: first, in
// the order of their last changes, those that are there, then what changes. A
// change that is overtaken by a newer one of the same cell may be left out. It is
// for one goroutine, and of no more use once it has returned an error.
type cursor interface {
	// rest gives what is behind the place, until nothing is left or each returns
	// an error, which rest returns. A cursor that goes on may leave what was stored
	// in this very moment to the next one who asks.
	rest(ctx context.Context, each func(change) error) error
	// follow gives what is behind the place, and every change as it happens, until
	// ctx ends or something breaks. It calls live with false as soon as it cannot
	// tell whether something has changed, and with true when it has told it all.
	follow(ctx context.Context, each func(change), live func(bool)) error
	close()
}

// scope is what is read.
type scope struct {
	prefix string
	// values: with the data of the cells.
	values bool
	// since leaves out what was stored before, within, in its place, what had not
	// changed for that long when it began, and ahead all that was there then; zero
	// leaves out nothing. By the clock a store leaves out too little rather than too
	// much, for those who lead it do not have the same. To follow what is ahead begins
	// anew in no time, so a silence ends it, and is noticed sooner; any other follower
	// waits one out.
	since  time.Time
	within time.Duration
	ahead  bool
	// keep is for how long nobody may ask before the cursor is lost; a broker
	// keeps each for half a minute.
	keep time.Duration
}

// change is one cell as it has become. An absent one has neither data nor label.
type change struct {
	key      string
	data     []byte
	label    label
	revision uint64
	// at is when it was stored, and quiet how long ago that was at least when the
	// cursor was opened, zero for what is followed. As everywhere in a store, its
	// clock says so.
	at    time.Time
	quiet time.Duration
}

// Ledger implements provision.Ledger and provision.Names. It is safe for
// concurrent use.
type Ledger struct {
	store store
	now   func() time.Time
	// keep is how long a closed name row is kept, with the servers that were
	// finished under it, reserve how long an open one reserves room.
	keep, reserve time.Duration
}

var (
	_ provision.Ledger = (*Ledger)(nil)
	_ provision.Names  = (*Ledger)(nil)
)

// Load implements provision.Ledger.
func (l *Ledger) Load(ctx context.Context, key string) (*provision.Record, error) {
	r, err := l.load(ctx, provision.KeyHash(key))
	if err != nil {
		return nil, fmt.Errorf("load the record of %q: %w", key, err)
	}
	return r, nil
}

func (l *Ledger) load(ctx context.Context, hash string) (*provision.Record, error) {
	c, err := l.store.get(ctx, recordPrefix+hash)
	if err != nil || c.absent() {
		return nil, err
	}
	return record(c.data, c.revision)
}

// errUnreadable is a record that cannot be decoded.
var errUnreadable = errors.New("not a record of this version")

func record(data []byte, revision uint64) (*provision.Record, error) {
	r, err := decode[provision.Record](data)
	if err != nil {
		return nil, fmt.Errorf("decode revision %d: %w: %w", revision, errUnreadable, err)
	}
	r.Revision = revision
	return &r, nil
}

// Store implements provision.Ledger.
func (l *Ledger) Store(ctx context.Context, r *provision.Record) error {
	finish, err := l.startRecord(ctx, r)
	if err != nil {
		return err
	}
	return finish()
}

func (l *Ledger) startRecord(ctx context.Context, r *provision.Record) (func() error, error) {
	data, err := encode(r)
	if err != nil {
		return nil, fmt.Errorf("encode the record of %q: %w", r.Key, err)
	}
	w := write{
		key: recordPrefix + provision.KeyHash(r.Key), data: data, revision: r.Revision,
		label: label{state: r.State, name: r.Request.Name, vpsID: r.VPSID},
	}
	if r.State != provision.StateDone && r.Stream != "" {
		w.label.origin = Origin{Stream: r.Stream, Sequence: r.Sequence, At: r.RequestedAt}
	}
	wait := l.store.start(ctx, w)
	return func() error {
		revision, err := wait()
		if err != nil {
			return err
		}
		r.Revision = revision
		return nil
	}, nil
}

// Intend implements provision.Ledger. The row must be stored after the intent:
// then whoever sees the row sees an owner whose intent was stored, and a row
// may be taken over from an owner that is not between intent and result. The
// two are on the way together; should the intent arrive last (its first copy
// was lost), the row is taken once more.
func (l *Ledger) Intend(ctx context.Context, r *provision.Record) error {
	r.NameRevision = 0
	finishRecord, err := l.startRecord(ctx, r)
	if err != nil {
		return err
	}
	row := newRow(r, l.now())
	finishRow := l.startRow(ctx, nameKey(r.Request.Name), row, row, "", 0)
	err = finishRecord()
	rowRevision, rowErr := finishRow()
	switch {
	case err != nil:
		// The row is left: it says the owner's key, and the owner's record says
		// whether that still means anything.
		return err
	case errors.Is(rowErr, provision.ErrConflict), rowErr == nil && rowRevision < r.Revision:
		// Revisions are sequences of one stream: they tell which came first.
		return l.take(ctx, r.Request.Name, row)
	case rowErr != nil:
		return fmt.Errorf("take the name %q: %w", r.Request.Name, rowErr)
	}
	r.NameRevision = rowRevision
	return nil
}
