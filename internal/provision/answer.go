package provision

import (
	"encoding/json"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// Verdict is what one create call proved. Whatever is not recognised is
// VerdictUnknown.
type Verdict string

// The five verdicts of design section 3. The empty verdict belongs to an
// attempt that is still in flight, or whose worker died.
const (
	VerdictCreated   Verdict = "created"
	VerdictRefused   Verdict = "refused"
	VerdictThrottled Verdict = "throttled"
	VerdictNeverSent Verdict = "never-sent"
	VerdictUnknown   Verdict = "unknown"
)

// Refusal tells apart the refusals that the core treats differently.
type Refusal string

// The kinds of refusal. The zero value is none.
const (
	// RefusalFinal is any definitive answer.
	RefusalFinal Refusal = "final"
	// RefusalLimit is a full account: blockerReasons or code name a
	// *_limit_exceeded.
	RefusalLimit Refusal = "limit"
	// RefusalAuth is a 401, or a 403 without a problem document: the key, not
	// the order, is at fault.
	RefusalAuth Refusal = "auth"
)

// Answer is all that is known after one create call. There is no error beside
// it: a failure to get an answer is itself a verdict.
type Answer struct {
	Verdict Verdict
	// Status is the HTTP status; 0 when no response was read.
	Status int
	// RequestID is HostUp's, from the problem document or a header.
	RequestID string
	// Detail says in one line what was seen, for people. It never contains
	// the token.
	Detail string
	// Problem is the API's problem document byte for byte, or one made from
	// the status and the start of the body; nil when there was no response.
	Problem json.RawMessage
	// Refusal is set with VerdictRefused.
	Refusal Refusal
	// RetryAfter is how long the API asked to wait, measured from the moment
	// the answer was read; already clamped. 0 when it did not say.
	RetryAfter time.Duration
	// Rate is what the answer said of the rate limit, if anything.
	Rate admission.Rate
	// Answered is set with VerdictUnknown when HostUp itself said that the
	// call failed (a 5xx problem document whose code is not upstream_*), which
	// allows the shorter settle time.
	Answered bool

	// Of VerdictCreated. VPSID may also be set with VerdictUnknown: an id
	// salvaged from an answer that could not be read as a whole.
	VPSID     string
	OrderID   string
	InvoiceID string
}
