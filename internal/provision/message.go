package provision

import "time"

// Encoding is how a request was written, and so how its events are written.
type Encoding string

// The two encodings of the wire. The zero value counts as JSON.
const (
	JSON     Encoding = "json"
	Protobuf Encoding = "protobuf"
)

// Trace is the W3C trace context and baggage of the request, carried to its
// events whether or not spans are exported.
type Trace struct {
	Parent  string `json:"traceparent,omitempty"`
	State   string `json:"tracestate,omitempty"`
	Baggage string `json:"baggage,omitempty"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// CloudEvent are the attributes of the CloudEvent that a request came in, for
// its span; zero for a bare one. Nothing is decided by it.
type CloudEvent struct {
	ID, Source, Type, Subject string
}

// Message is one delivery of a request after reading it. It carries what is
// wrong with it rather than an error, because each defect has its own answer.
type Message struct {
	// Request is what could be read. Its Key is set whenever a valid key was
	// found, in the body or in the headers.
	Request Request
	// Faults are broken rules: the answer is deploy.failed, invalid-request.
	Faults []Fault
	// Defect, when set, says why the message goes to the dead letters. With a
	// key in Request it is also answered by deploy.failed, undecodable.
	Defect *Defect
	// BodyHash is the first 16 hex digits of the body's SHA-256; it makes the
	// id of a rejected event.
	BodyHash string
	Encoding Encoding
	// CausationID is the ce-id of the request, if it had one.
	CausationID string
	Trace       Trace
	CloudEvent  CloudEvent

	// The following come from the broker, not from the body.

	// Stream and Sequence name the stored message; they tell a redelivery of
	// the accepted message from a duplicate of it.
	Stream   string
	Sequence uint64
	// StoredAt is when the broker stored the message.
	StoredAt time.Time
	// Deliveries counts this delivery: 1 for the first.
	Deliveries uint64
	// Waiting is how many requests wait where this one came from, as far as is
	// known: the more there are, the more slowly each is asked about.
	Waiting int
	// Queued is how many there are besides those in hand, waiting or new: what
	// a slot could be used for instead of waiting in it.
	Queued int
}

// Defect is why a message cannot be handled as a request.
type Defect struct {
	Reason DeadReason
	Detail string
}

// DeadReason is the deploy-dead-reason header of a dead letter.
type DeadReason string

// The reasons of contract section 4.
const (
	DeadUndecodable DeadReason = "undecodable"
	DeadNoKey       DeadReason = "no-key"
	DeadInvalidKey  DeadReason = "invalid-key"
	DeadTooLarge    DeadReason = "too-large"
	DeadPanic       DeadReason = "panic"
)
