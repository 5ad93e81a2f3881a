package events

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

// Rekey returns the headers and the body of the same request under another
// key. Everything that asks for something stays, the trace context too; members
// that this version does not know are left out, and a structured CloudEvent
// becomes a bare request. A message that cannot be read, or that breaks a rule,
// is an error: half of it could be another order.
func Rekey(h nats.Header, data []byte, key string) (nats.Header, []byte, error) {
	env := newEnvelope(h, data)
	b, defect := env.read()
	if defect != nil {
		return nil, nil, errors.New(defect.Detail)
	}
	b.request.Key = key
	if faults := allFaults(b.faults, b.request); len(faults) > 0 {
		return nil, nil, fmt.Errorf("the request breaks a rule: %s", faults[0].Detail)
	}
	next, body, err := EncodeRequest(b.request, env.encoding)
	if err != nil {
		return nil, nil, err
	}
	for name, values := range h {
		switch strings.ToLower(name) {
		case headerIdempotencyKey, strings.ToLower(nats.MsgIdHdr), headerContentType, headerDataType:
		default:
			next[name] = values
		}
	}
	carry := Carrier(next)
	for name, value := range map[string]string{headerID: percentEncoded(env.id.text), headerTraceparent: env.trace.Parent, headerTracestate: env.trace.State} {
		if value != "" && carry.Get(name) == "" {
			carry.Set(name, value)
		}
	}
	return next, body, nil
}
