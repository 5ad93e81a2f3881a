package events

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Names of headers, as they are written. All but the broker's own are lower
// case: the CloudEvents SDK for Go finds no others.
const (
	headerContentType    = "content-type"
	headerTraceparent    = "traceparent"
	headerTracestate     = "tracestate"
	headerBaggage        = "baggage"
	headerIdempotencyKey = "idempotency-key"
	headerID             = "ce-id"
	headerTime           = "ce-time"
	headerType           = "ce-type"
	headerSource         = "ce-source"
	headerSubject        = "ce-subject"
	headerSpecVersion    = "ce-specversion"
	headerDataType       = "ce-datacontenttype"
	headerTraceparentExt = "ce-traceparent"
	headerTracestateExt  = "ce-tracestate"
	headerCorrelationID  = "ce-correlationid"
	headerCausationID    = "ce-causationid"
)

// Content types of RFC 9996.
const (
	contentTypeJSON     = "application/json"
	contentTypeProtobuf = "application/protobuf"
)

// header returns the first value of a header, or "" when there is none. The
// name is given in lower case and matches in any case. Of several spellings in
// one message the lower-case one wins, then the first in byte order, so that
// every delivery of a message is read alike.
func header(h nats.Header, name string) string {
	if values := h[name]; len(values) > 0 {
		return values[0]
	}
	spelling := ""
	for k, values := range h {
		if len(k) == len(name) && len(values) > 0 && (spelling == "" || k < spelling) && strings.EqualFold(k, name) {
			spelling = k
		}
	}
	if spelling == "" {
		return ""
	}
	return h[spelling][0]
}

// ceAttribute returns the value of a header that carries a CloudEvents
// attribute.
func ceAttribute(h nats.Header, name string) string { return percentDecoded(header(h, name)) }

// percentDecoded undoes percentEncoded. A percent sign that begins no escape
// stands for itself, because widespread producers encode nothing.
func percentDecoded(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.WriteByte(c[0])
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// percentEncoded writes an attribute value as the NATS binding asks: space,
// quote, percent and everything outside printable ASCII as %XX.
func percentEncoded(s string) string {
	plain := func(c byte) bool { return c > 0x20 && c < 0x7f && c != '"' && c != '%' }
	var b strings.Builder
	for i := range len(s) {
		if plain(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

// mediaType returns a content type without its parameters, in lower case.
func mediaType(contentType string) string {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// encodingOf tells how a body of this media type is written; no media type
// means JSON. It returns false for one that the worker cannot read.
func encodingOf(media string) (provision.Encoding, bool) {
	switch media {
	case "", contentTypeJSON, "application/protobuf+json":
		return provision.JSON, true
	case contentTypeProtobuf, "application/x-protobuf", "application/vnd.google.protobuf":
		// RFC 9996 deprecates the last two; they are still written.
		return provision.Protobuf, true
	}
	return provision.JSON, false
}

// contentTypeOf is the content type that is written for an encoding.
func contentTypeOf(e provision.Encoding) string {
	if e == provision.Protobuf {
		return contentTypeProtobuf
	}
	return contentTypeJSON
}

// Carrier lets OpenTelemetry propagators read and write NATS headers. It reads
// names in any case and writes them in lower case: nats.Header is
// case-sensitive, and propagation.HeaderCarrier would neither find a
// "traceparent" nor write one.
type Carrier nats.Header

var _ propagation.TextMapCarrier = Carrier(nil)

// Get returns the first value of a header, in whatever case it is written.
func (c Carrier) Get(name string) string { return header(nats.Header(c), strings.ToLower(name)) }

// Set replaces the header, in whatever case it is written.
func (c Carrier) Set(name, value string) {
	for k := range c {
		if strings.EqualFold(k, name) {
			delete(c, k)
		}
	}
	c[strings.ToLower(name)] = []string{value}
}

// Keys lists the header names as they are written.
func (c Carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
