package batch

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// State is what has become of a row.
type State string

// The states of a row. Submitted is stored on the broker and not answered yet;
// a Duplicate says the same as an earlier row and is not sent.
const (
	Unsent       State = "not-sent"
	Submitted    State = "submitted"
	Held         State = "held"
	Provisioning State = "provisioning"
	Failed       State = "failed"
	Duplicate    State = "duplicate"
)

type rowState uint8

const (
	rowUnsent rowState = iota
	rowSubmitted
	rowHeld
	rowProvisioning
	rowFailed
	rowRepeated
)

var states = map[rowState]State{
	rowUnsent: Unsent, rowSubmitted: Submitted, rowHeld: Held,
	rowProvisioning: Provisioning, rowFailed: Failed, rowRepeated: Duplicate,
}

// Outcome is what came of one row. The JSON names are those of the command
// line.
type Outcome struct {
	State     State  `json:"state"`
	VPSID     string `json:"vpsId,omitempty"`
	OrderID   string `json:"orderId,omitempty"`
	InvoiceID string `json:"invoiceId,omitempty"`
	Adopted   bool   `json:"adopted,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Billed    string `json:"billed,omitempty"`
	Retryable bool   `json:"retryable,omitempty"`
	Detail    string `json:"detail,omitempty"`
	// OrderedAt is set when the order was known before it was sent: since then.
	OrderedAt time.Time `json:"orderedAt,omitzero"`
}

// Counts sum up a batch. Orders are the rows without the repeated ones, and of
// these are all the others but Repeated. An order that is neither provisioning
// nor failed is open.
type Counts struct {
	Orders       int `json:"orders"`
	Repeated     int `json:"duplicates"`
	Sent         int `json:"submitted"`
	Provisioning int `json:"provisioning"`
	Failed       int `json:"failed"`
	Held         int `json:"held"`
	// Before counts orders that were known before they were sent.
	Before int `json:"orderedBefore"`
}

// Answered is how many orders have their outcome.
func (c Counts) Answered() int { return c.Provisioning + c.Failed }

// Counts returns the counts so far.
func (b *Batch) Counts() Counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts
}

// Answered is closed when every order has its outcome.
func (b *Batch) Answered() <-chan struct{} { return b.answered }

// Sending notes what is about to be sent for a row: the first 16 hex digits of
// the body's SHA-256, by which a rejection names the message it answers.
func (b *Batch) Sending(i int, bodyHash string) {
	var h [8]byte
	_, _ = hex.Decode(h[:], []byte(bodyHash)) // what is none matches nothing
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries[i].body = binary.BigEndian.Uint64(h[:])
}

// Sent notes that the broker has the row. Its outcome may have come already.
func (b *Batch) Sent(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := &b.entries[i]
	if !e.sent {
		e.sent = true
		b.counts.Sent++
	}
	if e.state == rowUnsent {
		e.state = rowSubmitted
	}
}

// Answer takes in an event. One that answers no order of the batch changes
// nothing: another key, another request under the same key, or a rejection of
// somebody else's message. A repeated one changes nothing either.
func (b *Batch) Answer(e provision.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.first(keyHash(e.Key))
	if i < 0 {
		return nil
	}
	row := &b.entries[i]
	o := Outcome{
		VPSID: e.VPSID, OrderID: e.OrderID, InvoiceID: e.InvoiceID, Adopted: e.Adopted,
		Reason: string(e.Reason), Billed: string(e.Billed), Retryable: e.Retryable, Detail: detail(e.Problem),
	}
	switch {
	case e.Kind == provision.KindHeld:
		return b.settle(row, rowHeld, o)
	case e.Rejected && e.ID == provision.RejectedID(e.Key, fmt.Sprintf("%016x", row.body)):
		return b.settle(row, rowFailed, o)
	case e.Rejected, sameSum(e.Request) != row.same:
		return nil
	case e.Kind == provision.KindProvisioning:
		o.Billed = string(provision.BilledYes) // the event says so by its kind
		return b.settle(row, rowProvisioning, o)
	default:
		return b.settle(row, rowFailed, o)
	}
}

// Recorded takes in what the ledger has of row i. A record that was made before
// since means that the order was known before it was sent. A record of another
// request says nothing: the message will be rejected.
func (b *Batch) Recorded(i int, r *provision.Record, since time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	row := &b.entries[i]
	if sameSum(r.Request) != row.same {
		return nil
	}
	o := Outcome{VPSID: r.VPSID, OrderID: r.OrderID, InvoiceID: r.InvoiceID}
	if r.CreatedAt.Before(since) {
		o.OrderedAt = r.CreatedAt
	}
	switch {
	case r.State == provision.StateHeld:
		o.Detail = r.HeldReason
		return b.settle(row, rowHeld, o)
	case !r.State.Settled() || r.Outcome == nil:
		return nil
	}
	out := r.Outcome
	o.Adopted, o.Reason, o.Billed, o.Retryable, o.Detail = out.Adopted, string(out.Reason), string(out.Billed), out.Retryable, detail(out.Problem)
	if out.Kind == provision.KindProvisioning {
		o.Billed = string(provision.BilledYes)
		return b.settle(row, rowProvisioning, o)
	}
	return b.settle(row, rowFailed, o)
}

// settle brings a row into a state, unless it has its outcome already. It is
// called with mu held.
func (b *Batch) settle(row *entry, to rowState, o Outcome) error {
	if row.state == rowProvisioning || row.state == rowFailed || row.state == to {
		return nil
	}
	at, err := b.store(o)
	if err != nil {
		return err
	}
	if row.state == rowHeld {
		b.counts.Held--
	}
	row.state, row.at = to, at
	if !o.OrderedAt.IsZero() && !row.before {
		row.before = true
		b.counts.Before++
	}
	switch to {
	case rowHeld:
		b.counts.Held++
	case rowProvisioning:
		b.counts.Provisioning++
	default:
		b.counts.Failed++
	}
	if b.counts.Answered() == b.counts.Orders {
		close(b.answered)
	}
	return nil
}

// store keeps an outcome in a temporary file, until Close.
func (b *Batch) store(o Outcome) (int64, error) {
	if b.spool == nil {
		f, path, err := temporary()
		if err != nil {
			return 0, err
		}
		b.spool, b.spoolPath = f, path
	}
	line, err := json.Marshal(o)
	if err == nil {
		_, err = b.spool.WriteAt(append(line, '\n'), b.spooled)
	}
	if err != nil {
		return 0, fmt.Errorf("keep an outcome: %w", err)
	}
	at := b.spooled + 1
	b.spooled += int64(len(line)) + 1
	return at, nil
}

// Outcome returns what has become of row i.
func (b *Batch) Outcome(i int) (Outcome, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	row := b.entries[i]
	var o Outcome
	if row.at > 0 {
		line, err := bufio.NewReader(io.NewSectionReader(b.spool, row.at-1, math.MaxInt32)).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &o)
		}
		if err != nil {
			return o, fmt.Errorf("read an outcome again: %w", err)
		}
	}
	o.State = states[row.state]
	if row.state == rowRepeated {
		o.Detail = fmt.Sprintf("says the same as line %d, and is not sent", b.entries[b.first(row.key)].line)
	}
	return o, nil
}

// Open gives the rows without an outcome, held ones too, with the hash of the
// key: for looking them up in the ledger. It stops when each returns false.
func (b *Batch) Open(each func(i int, hash string) bool) {
	for i := range b.entries {
		b.mu.Lock()
		e := b.entries[i]
		b.mu.Unlock()
		if e.state <= rowHeld && !each(i, hex.EncodeToString(e.key[:])) {
			return
		}
	}
}

// Close removes what the batch has stored.
func (b *Batch) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spool == nil {
		return nil
	}
	err := b.spool.Close()
	if b.spoolPath != "" {
		err = errors.Join(err, os.Remove(b.spoolPath))
	}
	b.spool = nil
	return err
}

// maxDetail bounds what is told of a problem document.
const maxDetail = 500

// detail is what a problem document tells people.
func detail(problem json.RawMessage) string {
	var p struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
		Errors []struct {
			Detail string `json:"detail"`
		} `json:"errors"`
	}
	// A document in which these are something else tells people nothing.
	_ = json.Unmarshal(problem, &p)
	text := cmp.Or(p.Detail, p.Title)
	var each []string
	for _, e := range p.Errors {
		if e.Detail != "" {
			each = append(each, e.Detail)
		}
	}
	if len(each) > 0 {
		text = strings.Join(each, "; ")
	}
	if runes := []rune(text); len(runes) > maxDetail {
		return string(runes[:maxDetail]) + "…"
	}
	return text
}
