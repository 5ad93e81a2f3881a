package provision

import (
	"bytes"
	"encoding/json"
	"time"
)

// problemType begins the type of every problem the worker makes itself.
const problemType = "urn:hostup-worker:problem:"

// reasons says how a failure of each reason is judged, and which status its
// problem has when the worker makes it (contract section 4, second table).
var reasons = map[Reason]struct {
	status    int
	title     string
	retryable bool
	billed    Billed
}{
	ReasonInvalidRequest:      {400, "The request breaks a rule", false, BilledNo},
	ReasonUndecodable:         {400, "The message cannot be read", false, BilledNo},
	ReasonIdempotencyConflict: {422, "The idempotency key belongs to a different request", false, BilledNo},
	ReasonLimitExceeded:       {403, "The account's limits do not allow the request", true, BilledNo},
	ReasonRefused:             {0, "HostUp refused the request", false, BilledNo},
	ReasonDeadlineExceeded:    {504, "The server could not be created before the deadline", true, BilledNo},
	ReasonOutcomeUnknown:      {500, "It could not be found out whether a server was created", false, BilledUnknown},
	ReasonAbandoned:           {409, "The request was abandoned", false, BilledUnknown},
}

// Problem is a problem document made by the worker (RFC 9457).
type Problem struct {
	Type   string          `json:"type"`
	Title  string          `json:"title"`
	Status int             `json:"status,omitempty"`
	Detail string          `json:"detail,omitempty"`
	Code   string          `json:"code,omitempty"`
	Errors []Fault         `json:"errors,omitempty"`
	Limits []LimitProblem  `json:"limits,omitempty"`
	Cause  json.RawMessage `json:"cause,omitempty"`
}

// LimitProblem is one limit that did not allow a request, as a member of the
// problem document.
type LimitProblem struct {
	Limit     string `json:"limit"`
	Remaining int64  `json:"remaining"`
	Asked     int64  `json:"asked"`
}

// newProblem starts the document of a reason.
func newProblem(reason Reason, detail string) Problem {
	r := reasons[reason]
	return Problem{Type: problemType + string(reason), Title: r.title, Status: r.status, Detail: detail, Code: string(reason)}
}

// JSON encodes the document. The cause inside it keeps its bytes, but for white
// space between members; a cause that is not JSON is left out.
func (p Problem) JSON() json.RawMessage {
	if p.Cause != nil && !json.Valid(p.Cause) {
		p.Cause = nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(p) //nolint:errchkjson // strings, numbers and valid JSON
	return bytes.TrimRight(b.Bytes(), "\n")
}

// compacted drops the white space between the members of a document, as
// storing it does: whoever publishes it publishes the same bytes. What is not
// JSON is no document.
func compacted(doc json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if doc == nil || json.Compact(&b, doc) != nil {
		return nil
	}
	return b.Bytes()
}

func heldProblem(r *Record) json.RawMessage {
	p := Problem{
		Type: problemType + "held", Title: "Held for a person: it is not known whether a server was created",
		Status: 500, Detail: r.HeldReason, Code: "held",
	}
	return p.JSON()
}

// outcome makes the failed outcome of a reason.
func outcome(reason Reason, problem json.RawMessage, now time.Time) *Outcome {
	r := reasons[reason]
	return &Outcome{
		Kind: KindFailed, Reason: reason, Billed: r.billed, Retryable: r.retryable, Problem: problem, OccurredAt: now,
	}
}
