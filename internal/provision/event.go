package provision

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"
)

// Kind is the last token of an event's subject and the middle of its type.
type Kind string

// The three events. Held is not an outcome.
const (
	KindProvisioning Kind = "provisioning"
	KindFailed       Kind = "failed"
	KindHeld         Kind = "held"
)

// Reason is the reason of a deploy.failed (contract section 4).
type Reason string

// Every reason there is.
const (
	ReasonInvalidRequest      Reason = "invalid-request"
	ReasonIdempotencyConflict Reason = "idempotency-conflict"
	ReasonLimitExceeded       Reason = "limit-exceeded"
	ReasonRefused             Reason = "refused"
	ReasonDeadlineExceeded    Reason = "deadline-exceeded"
	ReasonOutcomeUnknown      Reason = "outcome-unknown"
	ReasonAbandoned           Reason = "abandoned"
	ReasonUndecodable         Reason = "undecodable"
)

// Billed says whether the request cost money.
type Billed string

// The three answers a requester can get.
const (
	BilledNo      Billed = "no"
	BilledYes     Billed = "yes"
	BilledUnknown Billed = "unknown"
)

// Event is one message to the requester. The same event always has the same
// ID, however often it is published.
type Event struct {
	ID          string
	Kind        Kind
	Key         string
	Encoding    Encoding
	CausationID string
	Trace       Trace
	// Request is the whole request, or as much of a rejected one as could be
	// read. Metadata is echoed from it.
	Request     Request
	Attempts    int
	RequestedAt time.Time
	OccurredAt  time.Time

	// Of KindProvisioning.
	VPSID     string
	OrderID   string
	InvoiceID string
	Adopted   bool

	// Of KindFailed; Problem also of KindHeld.
	Reason    Reason
	Billed    Billed
	Retryable bool
	Rejected  bool
	// Problem is an RFC 9457 document, HostUp's own byte for byte when HostUp
	// refused.
	Problem json.RawMessage

	// Of KindHeld.
	Evidence *Evidence
}

// Evidence is what is known about a request that nobody can prove.
type Evidence struct {
	Attempts   []Attempt   `json:"attempts,omitempty"`
	Lookups    int         `json:"lookups,omitempty"`
	Candidates []Candidate `json:"candidates,omitempty"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// Candidate is a server that may be the one a lost answer bought.
type Candidate struct {
	VPSID     string    `json:"vpsId"`
	Name      string    `json:"name,omitempty"`
	CreatedAt time.Time `json:"createdAt,omitzero"`
	// Detail says why it was or was not taken.
	Detail string `json:"detail,omitempty"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// KeyHash is H of the contract: the first 32 hex digits of the key's SHA-256.
func KeyHash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// OutcomeID is the id of the one outcome event of an accepted request.
func OutcomeID(key string, k Kind) string { return KeyHash(key) + "." + string(k) }

// HeldID is the id of the n-th deploy.held of a request, from 1.
func HeldID(key string, n int) string { return KeyHash(key) + ".held." + strconv.Itoa(n) }

// RejectedID is the id of the deploy.failed that answers a message which was
// never accepted.
func RejectedID(key, bodyHash string) string { return KeyHash(key) + ".rejected." + bodyHash }
