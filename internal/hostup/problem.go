package hostup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxProblem bounds a document that is kept as it is. It ends up in the
	// ledger and in events, and those have a limit; HostUp's documents have
	// less than a kilobyte.
	maxProblem = 64 << 10
	// maxDetail bounds the start of a body that becomes a detail.
	maxDetail = 512
)

// origin says who wrote the document of an answer.
type origin int

const (
	// originElsewhere: not the API, as far as can be told - an edge filter's
	// page, an empty or a cut-off body. The document is made here.
	originElsewhere origin = iota
	// originLegacy: the API, in the form of version 1, {error, message, code,
	// timestamp, requestId}. It is the API's answer, but no problem document,
	// so the document is made here too.
	originLegacy
	// originProblem: the API, as a problem document.
	originProblem
)

// document is the problem document of an answer that is no success.
type document struct {
	origin origin
	// raw is always a valid JSON object in UTF-8.
	raw       json.RawMessage
	code      string
	message   string // the detail, or else the title; one line
	requestID string
	// names are all the machine strings that may name a full limit.
	names []string
}

// readDocument finds the problem document in an answer, or makes one. A
// document that was found is kept byte for byte: unknown and repeated members,
// long numbers, white space. There are two exceptions: text that is not UTF-8
// is repaired, and of a document above 64 KiB only the standard members are
// kept. (The API key was cut out before.)
//
// A problem document is a JSON object with a string type, title or detail, or
// with a string code and a numeric status; of media type
// application/problem+json, any JSON object that is not empty. The media type
// alone cannot decide, since HostUp does not document it.
func readDocument(status int, h http.Header, body []byte) document {
	body = bytes.ToValidUTF8(body, []byte("\uFFFD"))
	o, ok := parseObject(body)
	switch {
	case ok && isProblem(o, h):
		d := describe(o, originProblem)
		d.message = oneLine(firstOf(o.text("detail"), o.text("title"), http.StatusText(status)), maxDetail)
		d.raw = body
		if len(body) > maxProblem {
			d.raw = digest(o, status)
		}
		return d
	case ok && isLegacy(o):
		d := describe(o, originLegacy)
		d.message = oneLine(o.text("message"), maxDetail)
		d.raw = madeDocument{Status: status, Detail: d.message, Code: d.code, RequestID: d.requestID}.encode()
		return d
	default:
		d := document{message: oneLine(string(body), maxDetail)}
		d.raw = madeDocument{Status: status, Detail: d.message}.encode()
		return d
	}
}

func isProblem(o object, h http.Header) bool {
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	if media == "application/problem+json" && len(o) > 0 {
		return true
	}
	_, numeric := o.number("status")
	return o.text("type") != "" || o.text("title") != "" || o.text("detail") != "" || (o.text("code") != "" && numeric)
}

func isLegacy(o object) bool {
	if o.text("error") == "" || o.text("message") == "" {
		return false
	}
	return o.text("code") != "" || o.text("requestId") != "" || o.text("timestamp") != ""
}

// describe reads the members that decide. HostUp has blockerReasons at the top
// level in one version of its pages and under extensions in another.
func describe(o object, from origin) document {
	ext := o.object("extensions")
	d := document{
		origin: from, code: oneLine(firstOf(o.text("code"), ext.text("code")), maxID),
		requestID: oneLine(firstOf(o.text("requestId"), ext.text("requestId")), maxID),
	}
	d.names = append(d.names, o.text("code"), ext.text("code"))
	d.names = append(d.names, o.blockers()...)
	d.names = append(d.names, ext.blockers()...)
	return d
}

// limit reports whether the document says that a limit of the account is
// full. rate_limit_exceeded has the same ending and means something else.
func (d document) limit() bool {
	for _, name := range d.names {
		name = strings.ToLower(name)
		if strings.HasSuffix(name, "_limit_exceeded") && !strings.HasSuffix(name, "rate_limit_exceeded") {
			return true
		}
	}
	return false
}

// failed reports whether HostUp itself said that a call failed, as opposed to
// something in front of it (whose documents lack HostUp's code), or something
// behind it (upstream_*) that may have done the work all the same.
func (d document) failed() bool {
	return d.origin == originProblem && d.code != "" && !strings.HasPrefix(strings.ToLower(d.code), "upstream_")
}

// madeDocument is a problem document of ours.
type madeDocument struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	Code      string `json:"code,omitempty"`
	Instance  string `json:"instance,omitempty"`
	RequestID string `json:"requestId,omitempty"`
}

func (m madeDocument) encode() json.RawMessage {
	m.Type = firstOf(m.Type, "about:blank")
	m.Title = firstOf(m.Title, http.StatusText(m.Status), fmt.Sprintf("HTTP status %d", m.Status))
	b, _ := json.Marshal(m) //nolint:errchkjson // strings and a number cannot fail
	return b
}

// digest keeps the standard members of a document that is too large to keep.
func digest(o object, status int) json.RawMessage {
	part := func(name string) string { return oneLine(o.text(name), maxDetail) }
	return madeDocument{
		Type: part("type"), Title: part("title"), Status: status, Detail: part("detail"),
		Code: part("code"), Instance: part("instance"), RequestID: part("requestId"),
	}.encode()
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// oneLine returns the start of s, at most limit bytes of it, as valid UTF-8 on
// one line: everything that does not print becomes a space, and several spaces
// become one.
func oneLine(s string, limit int) string {
	// Four times as much is enough to fill the line, unless it is blank.
	s = strings.ToValidUTF8(s[:min(len(s), 4*limit)], "\uFFFD")
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(s) <= limit {
		return s
	}
	s = s[:limit]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}
