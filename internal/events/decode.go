package events

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/provision"
)

// MaxBody is how many bytes the body of a request may have.
const MaxBody = 64 << 10

// Decode reads one deploy.requested message. It never fails: the message it
// returns has a Defect, or Faults, or a sound Request with a valid key. The
// members that come from the broker are left to the caller.
//
// A message is judged in this order: can it be read, has it a valid key, does
// it keep the rules. All broken rules are reported at once.
func Decode(h nats.Header, data []byte) provision.Message {
	env := newEnvelope(h, data)
	b, defect := env.read()
	m := provision.Message{
		BodyHash:    BodyHash(data),
		Encoding:    env.encoding,
		CausationID: short(strings.ToValidUTF8(env.id.text, "\uFFFD"), maxCausationID),
		Trace:       traceOf(h, env.trace),
		CloudEvent:  env.event(),
		Defect:      defect,
	}
	k := env.key(b.key)
	if defect != nil {
		if k.valid() {
			m.Request.Key = k.text
		}
		return m
	}
	m.Request = b.request
	switch {
	case k.absent():
		m.Defect = &provision.Defect{
			Reason: provision.DeadNoKey,
			Detail: "there is no idempotencyKey in the body and no Idempotency-Key, ce-id or Nats-Msg-Id header",
		}
		return m
	case !k.valid():
		m.Defect = &provision.Defect{Reason: provision.DeadInvalidKey, Detail: k.complaint()}
		return m
	}
	m.Request.Key = k.text
	if claimed := header(h, headerIdempotencyKey); claimed != "" && claimed != k.text {
		b.faults = append(b.faults, provision.Fault{
			Pointer: "/idempotencyKey", Code: provision.FaultInvalid,
			Detail: fmt.Sprintf("`idempotencyKey` is %s, but the header Idempotency-Key says %s", quoted(k.text), quoted(claimed)),
		})
	}
	m.Faults = allFaults(b.faults, m.Request)
	return m
}

// What is carried from a request's headers to those of its event. The broker
// takes at most 64 KiB of headers (error 10097), and an event that it refuses
// would be a server that nobody hears of. A tracestate above 512 characters
// may be dropped (W3C Trace Context 3.3.1.5), a baggage of up to 8192 bytes is to
// be passed on (W3C Baggage 3.3.2).
const (
	maxCausationID = 1024
	maxTracestate  = 2048
	maxBaggage     = 8192
)

// short returns s, or nothing when it is longer than that: half an id names
// something else.
func short(s string, limit int) string {
	if len(s) > limit {
		return ""
	}
	return s
}

// BodyHash is what makes the id of a rejected event: the first 16 hex digits of
// the SHA-256 of the whole body.
func BodyHash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// envelope is what surrounds the request in a message.
type envelope struct {
	h nats.Header
	// media is the media type of the body.
	media string
	body  []byte
	// bodiless marks a structured CloudEvent without data.
	bodiless bool
	encoding provision.Encoding
	// id is the CloudEvent's.
	id key
	// trace is the extension of a structured CloudEvent, of are its attributes.
	trace provision.Trace
	of    provision.CloudEvent
}

func newEnvelope(h nats.Header, data []byte) *envelope {
	media := mediaType(header(h, headerContentType))
	if media == "" {
		media = mediaType(ceAttribute(h, headerDataType))
	}
	env := &envelope{h: h, media: media, body: data, id: key{text: ceAttribute(h, headerID)}}
	env.encoding, _ = encodingOf(media)
	return env
}

// read opens the envelope and reads the request in it.
func (env *envelope) read() (body, *provision.Defect) {
	if len(env.body) > MaxBody {
		return body{}, &provision.Defect{
			Reason: provision.DeadTooLarge,
			Detail: fmt.Sprintf("the body has %d bytes; at most %d are allowed", len(env.body), MaxBody),
		}
	}
	b, err := env.open()
	if err != nil {
		return body{}, &provision.Defect{Reason: provision.DeadUndecodable, Detail: err.Error()}
	}
	return b, nil
}

func (env *envelope) open() (body, error) {
	if strings.HasPrefix(env.media, "application/cloudevents") {
		if env.media != "application/cloudevents+json" {
			return body{}, fmt.Errorf("the content type %s is not supported; of structured CloudEvents only application/cloudevents+json is", quoted(env.media))
		}
		if err := env.unwrap(); err != nil {
			return body{}, err
		}
	}
	encoding, known := encodingOf(env.media)
	env.encoding = encoding
	switch {
	case !known:
		return body{}, fmt.Errorf("the content type %s is not supported; %s and %s are", quoted(env.media), contentTypeJSON, contentTypeProtobuf)
	case env.bodiless:
		return body{}, nil
	case encoding == provision.Protobuf:
		return readProtobuf(env.body)
	}
	return readJSON(env.body)
}

// unwrap replaces the body, which is a structured CloudEvent, by its data and
// takes over its attributes.
func (env *envelope) unwrap() error {
	event, err := object(env.body)
	if err != nil {
		return fmt.Errorf("the CloudEvent cannot be read: %w", err)
	}
	if id := keyOf(event.value("id")); !id.absent() {
		env.id = id
	}
	env.media = mediaType(keyOf(event.value("datacontenttype")).text)
	env.encoding, _ = encodingOf(env.media)
	env.trace = provision.Trace{
		Parent: keyOf(event.value("traceparent")).text,
		State:  keyOf(event.value("tracestate")).text,
	}
	env.of = provision.CloudEvent{
		Source: keyOf(event.value("source")).text, Type: keyOf(event.value("type")).text, Subject: keyOf(event.value("subject")).text,
	}
	data, encoded := event.value("data"), event.value("data_base64")
	switch {
	case data != nil && encoded != nil:
		return errors.New("the CloudEvent has both data and data_base64")
	case encoded != nil:
		env.body, err = base64.StdEncoding.DecodeString(keyOf(encoded).text)
		if err != nil || encoded[0] != '"' {
			return errors.New("the data_base64 of the CloudEvent is not a base64 string")
		}
	case data == nil:
		env.body, env.bodiless = nil, true
	case env.encoding == provision.Protobuf:
		return errors.New("the CloudEvent says that its data is protobuf, but has no data_base64")
	default:
		env.body = data
	}
	return nil
}

// event returns the attributes of the CloudEvent that the message is, if it is
// one.
func (env *envelope) event() provision.CloudEvent {
	if env.id.text == "" {
		return provision.CloudEvent{}
	}
	e := env.of
	if e.Type == "" {
		e.Source, e.Type, e.Subject = ceAttribute(env.h, headerSource), ceAttribute(env.h, headerType), ceAttribute(env.h, headerSubject)
	}
	e.ID = env.id.text
	for _, text := range []*string{&e.ID, &e.Source, &e.Type, &e.Subject} {
		*text = strings.ToValidUTF8(short(*text, maxCausationID), "\uFFFD")
	}
	return e
}

// key returns the first key there is: the body's, or one of those around it.
func (env *envelope) key(inBody key) key {
	for _, k := range [...]key{inBody, {text: header(env.h, headerIdempotencyKey)}, env.id} {
		if !k.absent() {
			return k
		}
	}
	return key{text: header(env.h, strings.ToLower(nats.MsgIdHdr))}
}

// key is a text that may become the idempotency key.
type key struct {
	text string
	// odd is the JSON of a value that is not a string.
	odd json.RawMessage
}

// keyOf reads the JSON value of a member; nil is an absent one.
func keyOf(raw json.RawMessage) key {
	if raw == nil || raw[0] == '"' {
		return key{text: text(raw)}
	}
	return key{odd: raw}
}

func (k key) absent() bool { return k.text == "" && k.odd == nil }

func (k key) valid() bool { return k.odd == nil && provision.ValidKey(k.text) }

func (k key) complaint() string {
	if k.odd != nil {
		return fmt.Sprintf("the idempotency key must be a string, not %s: %s", kind(k.odd), quoted(string(k.odd)))
	}
	return fmt.Sprintf("the idempotency key must be 1 to %d printable ASCII characters, not %s", provision.MaxKeyLength, quoted(k.text))
}

// quotedBytes is how much of a foreign text is repeated in a detail.
const quotedBytes = 64

// quoted renders a foreign text for a detail: printable, on one line, short.
func quoted(s string) string {
	if len(s) <= quotedBytes {
		return strconv.QuoteToASCII(s)
	}
	return strconv.QuoteToASCII(s[:quotedBytes]) + "... (" + strconv.Itoa(len(s)) + " bytes)"
}

// fields are the pointers of a request in the order in which their faults are
// reported.
var fields = []string{"/idempotencyKey", "/name", "/cpuCores", "/memoryGb", "/storageGb", "/region", "/metadata", "/deadline"}

// allFaults joins the faults found while reading with the broken rules, in the
// order of the fields. What could not be read counts as that and not as
// missing.
func allFaults(found []provision.Fault, r provision.Request) []provision.Fault {
	rules := r.Faults()
	if len(found) == 0 {
		return rules
	}
	all := slices.Clone(found)
	for _, rule := range rules {
		unread := func(f provision.Fault) bool { return f.Pointer == rule.Pointer }
		if !slices.ContainsFunc(found, unread) {
			all = append(all, rule)
		}
	}
	field := func(f provision.Fault) int {
		return slices.IndexFunc(fields, func(p string) bool { return f.Pointer == p || strings.HasPrefix(f.Pointer, p+"/") })
	}
	slices.SortStableFunc(all, func(a, b provision.Fault) int { return cmp.Compare(field(a), field(b)) })
	return all
}
