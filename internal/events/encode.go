package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/hostup/deploy-worker/internal/provision"
)

// What is the same in every event.
const (
	specVersion = "1.0"
	source      = "/hostup/deploy-worker"
	typePrefix  = "se.hostup.deploy."
	typeSuffix  = ".v1"
)

// Encode returns the message of an event, on the subject <prefix>.<kind>. The
// same event always gives the same message. An error means that the event is
// of no known kind.
func Encode(prefix string, e provision.Event) (*nats.Msg, error) {
	var data []byte
	m, err := message(e)
	switch {
	case err != nil:
	case e.Encoding == provision.Protobuf:
		setProblem(m, document(e.Problem))
		data, err = proto.MarshalOptions{Deterministic: true}.Marshal(m)
	default:
		data, err = jsonOf(m, document(e.Problem))
	}
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	msg := nats.NewMsg(subject(prefix, e.Kind))
	msg.Data = data
	set := func(name, value string) {
		if value != "" {
			msg.Header[name] = []string{value}
		}
	}
	set(nats.MsgIdHdr, e.ID)
	set(headerContentType, contentTypeOf(e.Encoding))
	set(headerSpecVersion, specVersion)
	set(headerID, percentEncoded(e.ID))
	set(headerSource, source)
	set(headerType, typePrefix+string(e.Kind)+typeSuffix)
	set(headerSubject, percentEncoded(e.Key))
	set(headerDataType, contentTypeOf(e.Encoding))
	set(headerCorrelationID, percentEncoded(e.Key))
	set(headerCausationID, percentEncoded(e.CausationID))
	set(headerTraceparent, e.Trace.Parent)
	set(headerTracestate, e.Trace.State)
	set(headerBaggage, e.Trace.Baggage)
	if !e.OccurredAt.IsZero() {
		set(headerTime, e.OccurredAt.UTC().Format(time.RFC3339Nano))
	}
	return msg, nil
}

// EncodeRequest returns the headers and the body of a deploy.requested. It
// does not judge the request: a broken rule is written as it is. An error means
// that a text is not UTF-8 or the deadline beyond what protobuf can express.
func EncodeRequest(r provision.Request, as provision.Encoding) (nats.Header, []byte, error) {
	m := requestMessage(r)
	var data []byte
	var err error
	if as == provision.Protobuf {
		data, err = proto.MarshalOptions{Deterministic: true}.Marshal(m)
	} else {
		data, err = jsonOf(m, nil)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("encode request %q: %w", r.Key, err)
	}
	return nats.Header{headerContentType: {contentTypeOf(as)}}, data, nil
}

// jsonOf writes a message as ProtoJSON, without the spaces that protojson adds
// at random, with the problem document in it as it is.
func jsonOf(m proto.Message, problem json.RawMessage) ([]byte, error) {
	loose, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Grow(len(loose) + len(problem) + 16)
	if err := json.Compact(&b, loose); err != nil {
		return nil, err
	}
	if problem == nil {
		return b.Bytes(), nil
	}
	b.Truncate(b.Len() - 1) // every event has a key, so this is not the only member
	b.WriteString(`,"problem":`)
	if err := json.Compact(&b, problem); err != nil {
		return nil, err
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// document returns a problem document that can be part of an event: a JSON
// object in UTF-8. Anything else is wrapped, because an event that cannot be
// published would be an order without an answer.
func document(problem json.RawMessage) json.RawMessage {
	if len(problem) == 0 {
		return nil
	}
	if !utf8.Valid(problem) {
		problem = bytes.ToValidUTF8(problem, []byte("\uFFFD"))
	}
	if trimmed := bytes.TrimSpace(problem); json.Valid(problem) && trimmed[0] == '{' {
		return problem
	}
	wrapped, err := json.Marshal(map[string]string{
		"type": "about:blank", "title": "The problem document cannot be read", "detail": quoted(string(problem)),
	})
	if err != nil {
		return nil // strings always encode
	}
	return wrapped
}

func subject(prefix string, k provision.Kind) string { return prefix + "." + string(k) }
