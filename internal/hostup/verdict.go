package hostup

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/hostup/deploy-worker/internal/provision"
)

// judge says what one create call proved. It is pure, and it is the only place
// where that is decided:
//
//	created     a 2xx whose whole body yields a vpsId
//	refused     a 4xx other than 408, 425 and 429
//	throttled   429
//	never-sent  no answer, and no byte of the request can have left
//	unknown     everything else
//
// A status is definitive even if the body under it was cut off; only a success
// needs its body.
func judge(o observation) provision.Answer {
	var a provision.Answer
	switch {
	case o.status == 0:
		a = judgeSilence(o)
	case o.status >= 200 && o.status <= 299:
		a = judgeSuccess(o)
	default:
		a = judgeFailure(o)
	}
	a.Rate = o.rate
	return a
}

func judgeSilence(o observation) provision.Answer {
	if !o.sent {
		return provision.Answer{
			Verdict: provision.VerdictNeverSent,
			Detail:  oneLine(fmt.Sprintf("no request was sent: %v", o.err), maxDetail),
		}
	}
	return provision.Answer{
		Verdict: provision.VerdictUnknown,
		Detail:  oneLine(fmt.Sprintf("no answer to the request: %v", o.err), maxDetail),
	}
}

func judgeSuccess(o observation) provision.Answer {
	a := provision.Answer{Status: o.status, RequestID: o.requestID}
	if body, ok := parseObject(o.body); ok && o.bodyErr == nil {
		body = body.unwrapped("vpsId")
		if id := body.text("vpsId"); usableID(id) {
			a.Verdict = provision.VerdictCreated
			a.VPSID = id
			a.OrderID = idOrNone(body.text("orderId"))
			a.InvoiceID = idOrNone(body.text("invoiceId"))
			a.Detail = fmt.Sprintf("%d: created %s", o.status, id)
			return a
		}
	}
	a.Verdict = provision.VerdictUnknown
	a.VPSID = salvageID(o.body)
	a.Problem = readDocument(o.status, nil, o.body).raw
	switch {
	case o.bodyErr != nil:
		a.Detail = oneLine(fmt.Sprintf("%d, but the answer broke off: %v", o.status, o.bodyErr), maxDetail)
	default:
		a.Detail = fmt.Sprintf("%d, but the answer does not yield a vpsId", o.status)
	}
	return a
}

func judgeFailure(o observation) provision.Answer {
	d := readDocument(o.status, o.header, o.body)
	a := provision.Answer{
		Status: o.status, Problem: d.raw, RequestID: firstOf(d.requestID, o.requestID),
		RetryAfter: o.wait.length, Detail: oneLine(failureDetail(o.status, d), maxDetail),
	}
	switch {
	case o.status == http.StatusTooManyRequests:
		a.Verdict = provision.VerdictThrottled
	case o.status >= 400 && o.status <= 499 && o.status != http.StatusRequestTimeout && o.status != http.StatusTooEarly:
		a.Verdict = provision.VerdictRefused
		a.Refusal = refusal(o.status, d)
	default:
		a.Verdict = provision.VerdictUnknown
		a.VPSID = salvageID(o.body)
		a.Answered = o.status >= 500 && o.status <= 599 && d.failed()
	}
	return a
}

func refusal(status int, d document) provision.Refusal {
	switch {
	case keyAtFault(status, d.origin):
		return provision.RefusalAuth
	case d.limit():
		return provision.RefusalLimit
	default:
		return provision.RefusalFinal
	}
}

// keyAtFault reports whether an answer is about the key (or the caller's
// address) and not about what was asked for: a 401, or a 403 that the API did
// not write. Version 1's envelope is the API's. What cannot be read, because
// it was cut off, counts as not the API's: holding an order is mended more
// easily than failing it.
func keyAtFault(status int, from origin) bool {
	return status == http.StatusUnauthorized || (status == http.StatusForbidden && from == originElsewhere)
}

func failureDetail(status int, d document) string {
	text := strconv.Itoa(status)
	if d.code != "" {
		text += " " + d.code
	}
	if message := firstOf(d.message, http.StatusText(status)); message != "" {
		text += ": " + message
	}
	return text
}

// maxID bounds an id of HostUp's; real ones have 30 characters.
const maxID = 255

// usableID reports whether s can be an id: printable ASCII without spaces,
// and no step in a path. Nothing more is known about the form.
func usableID(s string) bool {
	if s == "" || len(s) > maxID || s == "." || s == ".." {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func idOrNone(s string) string {
	if !usableID(s) {
		return ""
	}
	return s
}

// idInText costs milliseconds to compile, which every start would pay, and few
// answers need it.
var idInText = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`"vpsId"\s*:\s*"([!#-\[\]-~]{1,255})"`)
})

// salvageID finds a complete vpsId in a body that cannot be used as a whole.
func salvageID(body []byte) string {
	if m := idInText().FindSubmatch(body); m != nil {
		return string(m[1])
	}
	return ""
}

// requestID is HostUp's name for the call, from a header.
func requestID(h http.Header, token Token) string {
	id := firstOf(h.Get("X-Request-ID"), h.Get("Request-Id"), h.Get("X-Correlation-ID"))
	return oneLine(string(token.scrub([]byte(id))), maxID)
}
