package provision

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"time"
)

// State is where a request stands (design section 3).
type State string

// The seven states.
const (
	StateAccepted State = "accepted"
	StateCreating State = "creating"
	StateUnknown  State = "unknown"
	StateHeld     State = "held"
	StateCreated  State = "created"
	StateFailed   State = "failed"
	StateDone     State = "done"
)

// Owns reports whether a request in this state may have a server that nobody
// has announced, and so owns its name.
func (s State) Owns() bool {
	return s == StateCreating || s == StateUnknown || s == StateHeld
}

// Settled reports whether the outcome is stored: nothing will be created for
// this request any more.
func (s State) Settled() bool {
	return s == StateCreated || s == StateFailed || s == StateDone
}

// Attempt is one intent and what came of it.
type Attempt struct {
	// Number counts intents from 1.
	Number int `json:"number"`
	// Token is drawn for each intent. Whoever knows it made this attempt, and
	// nobody else may say what came of it before Within has passed.
	Token     string    `json:"token,omitempty"`
	StartedAt time.Time `json:"startedAt"`
	// Within is how long after StartedAt the call may be in flight at most.
	// It is a duration so that an observer can wait it out on its own clock.
	Within time.Duration `json:"within,omitempty"`
	// EndedAt is zero while the attempt is in flight or was lost.
	EndedAt   time.Time `json:"endedAt,omitzero"`
	Verdict   Verdict   `json:"verdict,omitempty"`
	Status    int       `json:"status,omitempty"`
	RequestID string    `json:"requestId,omitempty"`
	Detail    string    `json:"detail,omitempty"`
	// Answered and VPSID are evidence of an unknown attempt; see Answer.
	Answered bool   `json:"answered,omitempty"`
	VPSID    string `json:"vpsId,omitempty"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// maxAttemptsKept bounds a record: of a longer history the first attempt, the
// newest ones and whatever is evidence are kept. Numbers keep counting.
const maxAttemptsKept = 32

// Outcome is the end of a request: everything of its one event that the
// request itself does not say.
type Outcome struct {
	Kind       Kind            `json:"kind"`
	Reason     Reason          `json:"reason,omitempty"`
	Billed     Billed          `json:"billed,omitempty"`
	Retryable  bool            `json:"retryable,omitempty"`
	Problem    json.RawMessage `json:"problem,omitempty"`
	Adopted    bool            `json:"adopted,omitempty"`
	OccurredAt time.Time       `json:"occurredAt"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// Search counts the looks at an attempt whose outcome is unknown.
type Search struct {
	// Looks counts all of them.
	Looks int `json:"looks,omitempty"`
	// Empty counts the looks that found nothing. Elapsed is how long after the
	// attempt's end the last of them was, at least: a span that was measured,
	// never the difference of two machines' clocks.
	Empty   int           `json:"empty,omitempty"`
	Elapsed time.Duration `json:"elapsed,omitempty"`
	// Failed counts looks in a row that proved nothing.
	Failed int `json:"failed,omitempty"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// Record is the durable memory of one idempotency key. Whoever changes it
// does so by compare-and-set on Revision; a Record is owned by one goroutine.
type Record struct {
	Key         string    `json:"idempotencyKey"`
	State       State     `json:"state"`
	Request     Request   `json:"request"`
	Encoding    Encoding  `json:"encoding,omitempty"`
	CausationID string    `json:"causationId,omitempty"`
	Trace       Trace     `json:"trace,omitzero"`
	Stream      string    `json:"stream,omitempty"`
	Sequence    uint64    `json:"sequence,omitempty"`
	RequestedAt time.Time `json:"requestedAt"`
	// Redelivered is set when the delivery that began the record was not the
	// first one of its message: the ledger may have forgotten a call.
	Redelivered bool `json:"redelivered,omitempty"`
	// Deadline is the effective one: the earlier of the requester's and the
	// configured one.
	Deadline time.Time `json:"deadline"`

	Attempts []Attempt `json:"attempts,omitempty"`
	// Sent counts the create calls that may have reached the API.
	Sent int `json:"sent,omitempty"`

	VPSID     string   `json:"vpsId,omitempty"`
	OrderID   string   `json:"orderId,omitempty"`
	InvoiceID string   `json:"invoiceId,omitempty"`
	Outcome   *Outcome `json:"outcome,omitempty"`

	// NotBefore and WaitReason say when and why the request goes on, while it
	// is accepted.
	NotBefore  time.Time `json:"notBefore,omitzero"`
	WaitReason string    `json:"waitReason,omitempty"`
	// LastProblem is the newest problem document, for the cause of a missed
	// deadline.
	LastProblem json.RawMessage `json:"lastProblem,omitempty"`

	// Search is how far the look-ups of an unknown attempt have come.
	Search *Search `json:"search,omitempty"`

	HeldReason string `json:"heldReason,omitempty"`
	// Held counts holdings; HeldAnnounced how many have had their event.
	Held          int       `json:"held,omitempty"`
	HeldAnnounced int       `json:"heldAnnounced,omitempty"`
	HeldAt        time.Time `json:"heldAt,omitzero"`
	Evidence      *Evidence `json:"evidence,omitempty"`
	// Resolution is the newest decision of a person.
	Resolution *Resolution `json:"resolution,omitempty"`

	// Notes are what else happened, for people; see Note.
	Notes []Note `json:"notes,omitempty"`

	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`

	// Revision is the ledger's, 0 for a record that was never stored.
	Revision uint64 `json:"-"`
	// NameRevision is that of the name row, where the newest attempt found none
	// and made it: the row has no past then, and need not be read to be closed.
	// 0 says that nothing is known of it.
	NameRevision uint64 `json:"-"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// newRecord starts the memory of an accepted request.
func newRecord(m *Message, deadline, now time.Time) *Record {
	return &Record{
		Key: m.Request.Key, State: StateAccepted, Request: m.Request,
		Encoding: m.Encoding, CausationID: m.CausationID, Trace: m.Trace,
		Stream: m.Stream, Sequence: m.Sequence,
		RequestedAt: m.StoredAt, Redelivered: m.Deliveries != 1, Deadline: deadline, CreatedAt: now,
	}
}

// acceptedFrom reports whether the record came from this very message.
func (r *Record) acceptedFrom(m *Message) bool {
	return r.Stream == m.Stream && r.Sequence == m.Sequence
}

// attempt returns the newest attempt, nil before the first.
func (r *Record) attempt() *Attempt {
	if len(r.Attempts) == 0 {
		return nil
	}
	return &r.Attempts[len(r.Attempts)-1]
}

// unprovedSince returns when the earliest attempt started that nobody answered,
// zero when there is none. That it created nothing is known at best because its
// server was not to be seen for a time.
func (r *Record) unprovedSince() time.Time {
	var since time.Time
	for _, a := range r.Attempts {
		if a.Verdict == VerdictUnknown && (since.IsZero() || a.StartedAt.Before(since)) {
			since = a.StartedAt
		}
	}
	return since
}

// dispensable is the attempt that a record can best do without: the oldest one,
// but neither the first of all, nor the earliest that nobody answered, nor one
// whose answer named a server, for these say what to look for.
func (r *Record) dispensable() int {
	unproved := slices.IndexFunc(r.Attempts, func(a Attempt) bool { return a.Verdict == VerdictUnknown })
	for i, a := range r.Attempts[1:] {
		if i+1 != unproved && a.VPSID == "" {
			return i + 1
		}
	}
	return len(r.Attempts) - 1
}

// begin appends the intent of the next attempt and turns the record to
// creating.
func (r *Record) begin(now time.Time, within time.Duration) {
	number := 1
	if last := r.attempt(); last != nil {
		number = last.Number + 1
	}
	if len(r.Attempts) >= maxAttemptsKept {
		// A copy: the tail work of the attempt before may still read the old ones.
		i := r.dispensable()
		r.Attempts = slices.Concat(r.Attempts[:i], r.Attempts[i+1:])
	}
	r.Attempts = append(r.Attempts, Attempt{Number: number, Token: rand.Text(), StartedAt: now, Within: within})
	r.State = StateCreating
	r.NotBefore, r.WaitReason = time.Time{}, ""
}

// fruitless counts the newest attempts in a row that ended with nothing but
// the advice to try again; it is the step of the backoff.
func (r *Record) fruitless() int {
	n := 0
	for _, a := range slices.Backward(r.Attempts) {
		if v := a.Verdict; v != VerdictThrottled && v != VerdictNeverSent && v != VerdictRefused {
			break
		}
		n++
	}
	return n
}

// OutcomeEvent returns the event of a record with an outcome. It is a pure
// function of the record, so every worker that publishes it publishes the
// same.
func (r *Record) OutcomeEvent() Event {
	o := r.Outcome
	return Event{
		ID: OutcomeID(r.Key, o.Kind), Kind: o.Kind, Key: r.Key, Encoding: r.Encoding,
		CausationID: r.CausationID, Trace: r.Trace, Request: r.Request, Attempts: r.Sent,
		RequestedAt: r.RequestedAt, OccurredAt: o.OccurredAt,
		VPSID: r.VPSID, OrderID: r.OrderID, InvoiceID: r.InvoiceID, Adopted: o.Adopted,
		Reason: o.Reason, Billed: o.Billed, Retryable: o.Retryable, Problem: o.Problem,
	}
}

// HeldEvent returns the event of the newest holding.
func (r *Record) HeldEvent() Event {
	return Event{
		ID: HeldID(r.Key, r.Held), Kind: KindHeld, Key: r.Key, Encoding: r.Encoding,
		CausationID: r.CausationID, Trace: r.Trace, Request: r.Request, Attempts: r.Sent,
		RequestedAt: r.RequestedAt, OccurredAt: r.HeldAt,
		Problem: heldProblem(r), Evidence: r.Evidence,
	}
}
