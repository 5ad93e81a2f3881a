package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// ErrConflict is returned by Ledger when the record has moved on since it was
// loaded. Nothing was stored.
var ErrConflict = errors.New("the record was changed by somebody else")

// NameTakenError is returned by Ledger.Intend while another unfinished request
// has the same server name. The record was not left in creating by this call,
// or can safely be taken back: nobody may POST for it.
type NameTakenError struct{ Owner string }

// Error implements error.
func (e *NameTakenError) Error() string {
	return fmt.Sprintf("the name belongs to the unfinished request %q", e.Owner)
}

// Ledger is the durable memory. Every method may be called concurrently; all
// of them read and write through the store's leader, so that a caller sees
// its own writes and everybody's earlier ones.
type Ledger interface {
	// Load returns the record of a key, or a nil record when there is none.
	Load(ctx context.Context, key string) (*Record, error)
	// Store writes the record if its Revision is still the newest, and sets
	// the new Revision. It returns ErrConflict when it is not. An ambiguous
	// answer of the store is resolved before it returns; any other error
	// means that the write may or may not have happened.
	Store(ctx context.Context, r *Record) error
	// Intend is Store for a record in creating that also takes the name row,
	// so that one request per name at most is between intent and result. On
	// NameTakenError the record has been stored and its Revision set, but the
	// name is not ours.
	Intend(ctx context.Context, r *Record) error
}

// Names reads name rows and gives them back.
type Names interface {
	// Finished returns the servers announced under a name lately, in any case
	// of its letters.
	Finished(ctx context.Context, name string) (Past, error)
	// Release closes the row of the record's name if the record owns it,
	// remembering the server that was finished under it, if any. It is safe
	// to repeat and to lose.
	Release(ctx context.Context, r *Record) error
}

// API is the create channel.
type API interface {
	// Create sends exactly one HTTP request or none. ctx carries the hard
	// deadline after which no request can be in flight.
	Create(ctx context.Context, r Request) Answer
}

// Account tells the account's limits and options.
type Account interface {
	// Facts returns facts that were asked for not before oldest, from its
	// cache or by reading them; concurrent callers share one read. A failure
	// is a *ReadError.
	Facts(ctx context.Context, oldest time.Time) (admission.Facts, error)
}

// ReadError says why the account could not be read, as far as the core treats
// it differently.
type ReadError struct {
	// Status is the HTTP status, 0 without a response.
	Status int
	// Auth is set when the key is at fault, Throttled on a 429.
	Auth      bool
	Throttled bool
	// RetryAfter and Rate are as in Answer.
	RetryAfter time.Duration
	Rate       admission.Rate
	// Problem is as in Answer.
	Problem json.RawMessage
	Err     error
}

// Error implements error.
func (e *ReadError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *ReadError) Unwrap() error { return e.Err }

// Publisher sends events.
type Publisher interface {
	// Publish returns once the event is stored. Publishing the same event
	// again is harmless. An error means that it may or may not be stored.
	Publish(ctx context.Context, e Event) error
}
