// Package batch reads orders from a file, an input stream or flags: it finds
// every fault before anything is sent, gives each order its idempotency key,
// remembers in a journal what was sent, and collects what came of each. What it
// keeps in memory is BytesPerRow a row, however long the rows are; the rest is
// read again or lies in a temporary file.
//
// It sends nothing and knows no broker. It imports provision, for the rules of
// a request, and no other package of this module.
package batch

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"

	"github.com/hostup/deploy-worker/internal/provision"
)

// BytesPerRow is what a Batch keeps in memory for each row: its entry and its
// place in the index. Growing the tables takes up to twice that for a moment.
const BytesPerRow = 56 + 4

// Options say how input is read.
type Options struct {
	// Format is what the input is written in; Auto finds out.
	Format Format
	// KeyPrefix begins the keys of rows that have none; see DeriveKey.
	KeyPrefix string
	// MaxFaults bounds how many faults are kept; 0 means 50.
	MaxFaults int
}

const defaultMaxFaults = 50

// Batch is input without a fault: orders, each under a key, and what came of
// them. Its methods may be called concurrently.
type Batch struct {
	in  *Input
	opt Options
	// header is the first line of a CSV.
	header []string
	comma  rune
	sum    string

	// index has the rows in the order of their keys, equal ones in the order of
	// the input.
	index []uint32

	mu      sync.Mutex
	entries []entry
	counts  Counts
	// answered is closed when nothing is left to wait for.
	answered  chan struct{}
	spool     *os.File
	spoolPath string
	spooled   int64
}

// entry is what is kept of a row.
type entry struct {
	// key is the hash of the key.
	key [16]byte
	// same is a hash over what makes two requests the same, full one over all
	// of the row, body one over the message that is sent for it.
	same, full, body uint64
	// at is where the outcome lies in the spool, from 1; 0 is nowhere.
	at    int64
	line  uint32
	state rowState
	// sent tells that the broker has confirmed it, before that the order was
	// known before it was sent.
	sent, before bool
}

// Load reads all of the input and judges every row. It returns an
// *InvalidError when anything is wrong with it; nothing is kept then.
func Load(in *Input, opt Options) (*Batch, error) {
	if opt.MaxFaults == 0 {
		opt.MaxFaults = defaultMaxFaults
	}
	b := &Batch{in: in, opt: opt, answered: make(chan struct{})}
	bad := &InvalidError{Name: in.name, max: opt.MaxFaults}
	rows, err := in.rows(opt.Format)
	if err == nil {
		err = b.read(rows, bad)
	}
	var broken BrokenError
	switch {
	case errors.As(err, &broken):
		bad.add(broken...)
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", in.name, err)
	}
	b.sort()
	b.repeats(bad)
	if len(b.entries) == 0 && bad.Total == 0 {
		bad.add(Fault{Detail: "there is no order in it"})
	}
	if bad.Total > 0 {
		bad.sort()
		return nil, bad
	}
	b.counts.Orders = len(b.entries) - b.counts.Repeated
	return b, nil
}

// read takes in every row that is without a fault.
func (b *Batch) read(rows *rows, bad *InvalidError) error {
	for {
		row, err := rows.next()
		if errors.Is(err, io.EOF) {
			b.header, b.comma, b.sum = rows.table.header, rows.table.comma(), rows.sum()
			return nil
		}
		if err != nil {
			return err
		}
		if len(row.faults) > 0 {
			bad.add(row.faults...)
			continue
		}
		if len(b.entries) == math.MaxUint32 {
			return fmt.Errorf("more than %d rows", len(b.entries))
		}
		b.opt.fill(&row)
		b.entries = append(b.entries, entry{
			key: keyHash(row.Request.Key), same: sameSum(row.Request), full: fullSum(row.Request), line: uint32(row.Line),
		})
	}
}

func (b *Batch) sort() {
	b.index = make([]uint32, len(b.entries))
	for i := range b.index {
		b.index[i] = uint32(i)
	}
	slices.SortFunc(b.index, func(x, y uint32) int {
		return cmp.Or(bytes.Compare(b.entries[x].key[:], b.entries[y].key[:]), cmp.Compare(x, y))
	})
}

// repeats finds keys that come more than once: a row that says the same again
// is a repetition, one that says something else is a fault.
func (b *Batch) repeats(bad *InvalidError) {
	first := -1
	for _, i := range b.index {
		e := &b.entries[i]
		if first < 0 || b.entries[first].key != e.key {
			first = int(i)
			continue
		}
		switch was := b.entries[first]; {
		case was.full == e.full:
			e.state = rowRepeated
			b.counts.Repeated++
		case was.same == e.same:
			bad.add(Fault{Line: int(e.line), Field: FieldKey, Detail: fmt.Sprintf("the same order as in line %d, but for metadata or deadline, which make no other order: give the rows keys of their own", was.line)})
		default:
			bad.add(Fault{Line: int(e.line), Field: FieldKey, Detail: fmt.Sprintf("`%s` is that of line %d, for another order", FieldKey, was.line)})
		}
	}
}

// Len is how many rows there are, repeated ones included.
func (b *Batch) Len() int { return len(b.entries) }

// Header is the first line of a CSV, nil of other formats.
func (b *Batch) Header() []string { return b.header }

// Comma is what stands between the columns of a CSV.
func (b *Batch) Comma() rune { return b.comma }

// Sum is a hash of the input's bytes.
func (b *Batch) Sum() string { return b.sum }

// Repeated reports whether row i says the same as an earlier one, and the line
// of that.
func (b *Batch) Repeated(i int) (line int, repeated bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.entries[i].state != rowRepeated {
		return 0, false
	}
	return int(b.entries[b.first(b.entries[i].key)].line), true
}

// errChanged says that the second reading differs from the first.
var errChanged = errors.New("it was changed while it was read")

// Each reads the input again and gives every row with its key, in order, with
// its number from 0. It fails when the input is not what Load has read. A row is
// valid until the next one is given.
func (b *Batch) Each(each func(i int, r Row) error) error {
	rows, err := b.in.rows(b.opt.Format)
	if err != nil {
		return b.changed(err)
	}
	for i := 0; ; i++ {
		row, err := rows.next()
		if errors.Is(err, io.EOF) && i == len(b.entries) {
			return nil
		}
		if err != nil {
			return b.changed(err)
		}
		if i < len(b.entries) {
			b.opt.fill(&row)
		}
		// What was written once is not written again but for its state.
		if i >= len(b.entries) || len(row.faults) > 0 || fullSum(row.Request) != b.entries[i].full {
			return b.changed(errChanged)
		}
		if err := each(i, row); err != nil {
			return err
		}
	}
}

// changed names the input; what looks like a fault in a second reading means
// that somebody has written to it.
func (b *Batch) changed(err error) error {
	if errors.Is(err, io.EOF) || errors.As(err, new(BrokenError)) {
		err = errChanged
	}
	return fmt.Errorf("read %s again: %w", b.in.name, err)
}

// first returns the first row with this key, -1 when there is none.
func (b *Batch) first(key [16]byte) int {
	at, found := slices.BinarySearchFunc(b.index, key, func(i uint32, key [16]byte) int {
		return bytes.Compare(b.entries[i].key[:], key[:])
	})
	if !found {
		return -1
	}
	return int(b.index[at])
}

// keyHash is H of the contract as bytes.
func keyHash(key string) [16]byte {
	var h [16]byte
	_, _ = hex.Decode(h[:], []byte(provision.KeyHash(key))) // it is 32 hex digits
	return h
}
