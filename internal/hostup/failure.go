package hostup

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// Error is why a read failed: an answer that is no success, one that cannot be
// read, or none at all. It never contains the API key.
type Error struct {
	// Operation is the method and the path template, "GET /vps/{id}".
	Operation string
	// StatusCode is 0 when there was no answer.
	StatusCode int
	// Code is HostUp's stable name for the error, Message its words for
	// people; either may be empty.
	Code      string
	Message   string
	RequestID string
	// RetryAfter is how long the API asked to wait, from 0 for "it did not
	// say" to Config.RetryAfterMax.
	RetryAfter time.Duration
	// Rate is what the answer said of the rate limit.
	Rate admission.Rate
	// Problem is the API's problem document, or one made of the answer; nil
	// when there was no answer or a success that could not be read.
	Problem json.RawMessage
	// Err is the cause when the answer itself is not; else nil.
	Err error

	origin origin
}

// Error implements error.
func (e *Error) Error() string {
	text := e.Operation
	if e.StatusCode != 0 {
		text += fmt.Sprintf(": %d", e.StatusCode)
	}
	if e.Code != "" {
		text += " " + e.Code
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.RequestID != "" {
		text += " (request " + e.RequestID + ")"
	}
	return text
}

// Unwrap gives the cause, if there is one beside the answer.
func (e *Error) Unwrap() error { return e.Err }

// Auth reports whether the key is at fault: a 401, or a 403 that the API did
// not write itself.
func (e *Error) Auth() bool { return keyAtFault(e.StatusCode, e.origin) }

// Throttled reports whether the answer was a 429.
func (e *Error) Throttled() bool { return e.StatusCode == http.StatusTooManyRequests }

// LogValue implements slog.LogValuer.
func (e *Error) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("operation", e.Operation)}
	if e.StatusCode != 0 {
		attrs = append(attrs, slog.Int("status", e.StatusCode))
	}
	for _, a := range []slog.Attr{
		slog.String("code", e.Code), slog.String("message", e.Message), slog.String("request_id", e.RequestID),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	if e.RetryAfter > 0 {
		attrs = append(attrs, slog.Duration("retry_after", e.RetryAfter))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("cause", e.Err.Error()))
	}
	return slog.GroupValue(attrs...)
}
