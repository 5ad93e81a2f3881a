package simulator

import (
	"bytes"
	"fmt"
	"html"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// misbehave does what the chosen fault says instead of sending the good answer
// a. It returns false if the good answer is to be sent after all, and does not
// return if the connection has to go.
func (x *exchange) misbehave(a answer) bool {
	f := x.fault
	x.wait(f.delay())
	switch f.kind {
	case kindStatus:
		x.sendStatus()
	case kindCut:
		x.cut()
	case kindHang:
		x.hang()
	case kindTruncated:
		x.truncate(a)
	case kindGarbage:
		x.send(a.status, contentTypeHTML, []byte("<html><body>It works!</body></html>\n"))
	case kindEmpty:
		x.send(a.status, contentTypeJSON, nil)
	default: // slow
		return false
	}
	return true
}

// sendStatus answers with the fault's status, its form and its headers.
func (x *exchange) sendStatus() {
	f, h := x.fault, x.w.Header()
	if f.status >= 300 && f.status < 400 {
		// Whoever follows it comes back here, and is seen in the log.
		h.Set(headerLocation, x.r.URL.RequestURI())
	}
	x.setRateHeaders()
	switch {
	case f.form == formBare:
		text := html.EscapeString(fmt.Sprintf("%d %s", f.status, http.StatusText(f.status)))
		x.send(f.status, contentTypeHTML, []byte("<html><head><title>"+text+"</title></head><body><h1>"+text+"</h1></body></html>\n"))
	case f.flag("legacy"):
		x.send(f.status, contentTypeJSON, encode(x.legacyEnvelope()))
	default:
		x.reply(refuse(x.faultProblem()))
	}
}

func (x *exchange) faultProblem() *problem {
	f := x.fault
	p := newProblem(f.status, f.option("code"))
	if f.status == http.StatusBadRequest {
		p.Errors = []fieldError{invalidField("/name", "The name was refused by the fault "+f.String()+".")}
	}
	blocker := f.option("blocker")
	if f.form == formLimit && blocker == "" {
		blocker = "instance_limit_exceeded"
	}
	switch {
	case blocker == "":
	case f.flag("extensions"):
		p.Extensions = map[string]any{"blockerReasons": []string{blocker}}
	default:
		p.BlockerReasons = []string{blocker}
	}
	return p
}

// setRateHeaders sets exactly the headers that the fault names. A 429 that
// names none has the documented set and a wait of a second; a configured rate
// has nothing to say about an invented 429.
func (x *exchange) setRateHeaders() {
	f, h, now := x.fault, x.w.Header(), x.cfg.Now()
	in := func(option string) time.Time {
		d, _ := time.ParseDuration(f.option(option)) // checked by ParseFault
		return now.Add(d)
	}
	if f.status == http.StatusTooManyRequests {
		for _, name := range []string{headerRateLimit, headerRateRemaining, headerRateReset} {
			h.Del(name)
		}
	}
	named := false
	set := func(option, header string, value func() string) {
		if f.option(option) != "" {
			h.Set(header, value())
			named = true
		}
	}
	set("retry-after", headerRetryAfter, func() string { return f.option("retry-after") })
	set("date", headerRetryAfter, func() string { return in("date").UTC().Format(http.TimeFormat) })
	set("reset", headerRateReset, func() string { return iso(in("reset")) })
	set("epoch", headerRateReset, func() string { return strconv.FormatInt(in("epoch").Unix(), 10) })
	if f.status == http.StatusTooManyRequests && !named && !f.flag("none") {
		h.Set(headerRetryAfter, "1")
		h.Set(headerRateLimit, "60")
		h.Set(headerRateRemaining, "0")
		h.Set(headerRateReset, iso(now.Add(time.Second)))
	}
}

// legacyEnvelope is the error body of the v1 pages. Theirs for 429 has no code
// and tells the wait as a string.
func (x *exchange) legacyEnvelope() map[string]any {
	p := x.faultProblem()
	e := map[string]any{"error": p.Title, "message": p.Detail, "requestId": x.requestID}
	if p.Status == http.StatusTooManyRequests {
		e["retryAfter"] = x.w.Header().Get(headerRetryAfter)
		return e
	}
	e["code"] = strings.ToUpper(p.Code)
	e["timestamp"] = iso(x.cfg.Now())
	return e
}

// cut drops the connection without a byte of an answer: by a reset, so that the
// client cannot mistake it for a polite end, or politely if asked to.
func (x *exchange) cut() {
	x.decide(outcomeCut)
	if x.fault.flag("fin") {
		panic(http.ErrAbortHandler)
	}
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil { // HTTP/2: aborting the handler resets the stream
		panic(http.ErrAbortHandler)
	}
	raw := conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		raw = t.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // makes Close send a reset; a failure leaves a polite end
	}
	_ = raw.Close()
}

// hang keeps the request without an answer.
func (x *exchange) hang() {
	x.decide(outcomeHang)
	select {
	case <-x.r.Context().Done():
	case <-x.s.closed:
	}
	panic(http.ErrAbortHandler)
}

// truncate promises the whole answer and breaks off inside it.
func (x *exchange) truncate(a answer) {
	x.decide(outcomeTruncated)
	body := encode(a.body)
	h := x.w.Header()
	h.Set(headerContentType, contentTypeJSON)
	h.Set(headerContentLength, strconv.Itoa(len(body)))
	h.Set(headerRequestID, x.requestID)
	x.w.WriteHeader(a.status)
	_, _ = x.w.Write(body[:x.keep(body)])
	_ = http.NewResponseController(x.w).Flush()
	panic(http.ErrAbortHandler)
}

// keep is how many bytes of a truncated body are sent: at least one is missing.
func (x *exchange) keep(body []byte) int {
	if at := x.fault.option("at"); at != "" {
		n, _ := strconv.Atoi(at) // checked by ParseFault
		return min(n, len(body)-1)
	}
	if i := bytes.Index(body, []byte(`"orderId"`)); i > 0 {
		return i
	}
	return len(body) / 2
}
