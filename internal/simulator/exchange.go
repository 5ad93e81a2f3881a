package simulator

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

const (
	basePath   = "/api/v2"
	scopeRead  = "read:vm"
	scopeWrite = "write:billing"
	// maxBody is far above any documented body.
	maxBody = 64 << 10
)

// endpoint is one documented operation.
type endpoint struct {
	name, method, path, scope string
	// parse checks the request before a fault is chosen and sets the name it is
	// about. It returns the refusal, or an answer without a status.
	parse func(*exchange) answer
	// handle does the work and returns the answer.
	handle func(*exchange) answer
}

var endpoints = []endpoint{
	{targetCreates, http.MethodPost, "/vps/payg/deployments", scopeWrite, (*exchange).parseCreate, (*exchange).create},
	{"limits", http.MethodGet, "/vps/payg/limits", scopeRead, nil, (*exchange).limits},
	{"options", http.MethodGet, "/vps/payg/deployments", scopeRead, nil, (*exchange).options},
	{"list", http.MethodGet, "/vps", scopeRead, (*exchange).parseList, (*exchange).list},
	{"get", http.MethodGet, "/vps/{id}", scopeRead, nil, (*exchange).get},
	{"details", http.MethodGet, "/vps/{id}/details", scopeRead, nil, (*exchange).details},
	{"status", http.MethodGet, "/vps/{id}/status", scopeRead, nil, (*exchange).status},
	{"cancel", http.MethodPost, "/vps/{id}/actions/cancel", scopeWrite, nil, (*exchange).cancel},
}

// answer is what is sent unless a fault comes between.
type answer struct {
	status int
	body   any
}

// exchange is one request on its way to an answer.
type exchange struct {
	s         *Server
	e         endpoint
	w         http.ResponseWriter
	r         *http.Request
	cfg       Config // as it was when the request was looked at
	requestID string
	body      []byte
	name      string    // the server name the request is about, if any
	order     order     // of creates
	query     listQuery // of list
	fault     Fault
	entry     *Create     // of creates; guarded by s.mu
	looked    time.Time   // when it is to be looked at, by the real clock
	late      *lateEffect // of creates whose effect is late
}

func (s *Server) serve(e endpoint, w http.ResponseWriter, r *http.Request) {
	x := &exchange{s: s, e: e, w: w, r: r}
	x.begin()
	x.wait(x.cfg.Latency)
	x.cfg = s.config() // it may have changed meanwhile
	if refusal := x.admit(); refusal.status != 0 {
		x.reply(refusal)
		return
	}
	x.chooseFault()
	x.promise()
	defer x.kept()
	if x.fault.kind != "" && !x.fault.after && x.misbehave(answer{status: x.goodStatus()}) {
		return
	}
	if x.e.method == http.MethodGet {
		s.catchUp()
	}
	a := x.e.handle(x)
	x.kept()
	if x.fault.after && a.status >= 300 {
		// Nothing was created whose answer could be lost.
		x.forgetFault()
	}
	if x.fault.after && x.misbehave(a) {
		return
	}
	x.reply(a)
}

// begin reads the request and records it.
func (x *exchange) begin() {
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, maxBody))
	received := time.Now()
	if err == nil { // what was cut short must not pass for a whole request
		x.body = body
	}
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	x.cfg = s.cfg
	x.looked = received.Add(x.cfg.Latency)
	now := s.cfg.Now()
	x.requestID = s.ids.next("req_", now)
	s.requests[x.e.name]++
	if x.e.name != targetCreates {
		return
	}
	c := Create{At: now, RequestID: x.requestID, BodyBytes: len(body)}
	var named struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(x.body, &named) == nil {
		c.Name = named.Name
	}
	x.entry = s.creates.add(c, s.cfg.KeepCreates)
}

// admit is what stands before every endpoint: token, scope, rate, syntax.
func (x *exchange) admit() answer {
	if x.e.scope == "" {
		return answer{}
	}
	if x.r.Header.Get("Authorization") != "Bearer "+x.cfg.Token {
		return refuse(newProblem(http.StatusUnauthorized, ""))
	}
	if !slices.Contains(x.cfg.Scopes, x.e.scope) {
		return refuse(newProblem(http.StatusForbidden, ""))
	}
	if !x.takeRate() {
		return refuse(newProblem(http.StatusTooManyRequests, ""))
	}
	if x.e.parse != nil {
		return x.e.parse(x)
	}
	return answer{}
}

// takeRate reports whether the configured rate has room, and sets the
// documented headers.
func (x *exchange) takeRate() bool {
	rate := x.cfg.Rate
	if rate.Limit == 0 || rate.CreatesOnly && x.e.name != targetCreates {
		return true
	}
	x.s.mu.Lock()
	now := x.cfg.Now()
	left, reset, ok := x.s.rate.take(rate, x.e.name == targetCreates, now)
	x.s.mu.Unlock()
	if ok && rate.Quiet {
		return true
	}
	h := x.w.Header()
	h.Set(headerRateLimit, strconv.Itoa(rate.Limit))
	h.Set(headerRateRemaining, strconv.Itoa(left))
	// Rounded up, or a client that waits until then would be early.
	h.Set(headerRateReset, iso(reset.Add(time.Millisecond-1)))
	if !ok {
		h.Set(headerRetryAfter, strconv.Itoa(secondsUp(reset.Sub(now))))
	}
	return ok
}

// secondsUp is d in whole seconds, rounded up.
func secondsUp(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

func (x *exchange) chooseFault() {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.fault = x.s.faults.choose(&x.cfg, x.e, x.name)
	if x.entry != nil && x.fault.kind != "" {
		x.entry.Fault = x.fault.String()
	}
}

func (x *exchange) forgetFault() {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.fault = Fault{}
	if x.entry != nil {
		x.entry.Fault = ""
	}
}

func (x *exchange) goodStatus() int {
	if x.e.name == targetCreates {
		return http.StatusCreated
	}
	return http.StatusOK
}

// wait spends d, or aborts the exchange if the simulator is closed first. The
// client's leaving ends a read but not a write: a create may well take effect
// after its client gave up, and that is the case worth simulating.
func (x *exchange) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	ctx := x.r.Context()
	if x.e.method == http.MethodPost {
		ctx = context.WithoutCancel(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return
	case <-ctx.Done():
	case <-x.s.closed:
	}
	x.decide(outcomeAborted)
	panic(http.ErrAbortHandler)
}

// decide records the outcome of a create. It must come before the client can
// know it.
func (x *exchange) decide(outcome string) {
	if x.entry == nil {
		return
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.s.creates.decide(x.entry, outcome)
}

// reply sends an answer as documented.
func (x *exchange) reply(a answer) {
	contentType := contentTypeJSON
	if p, ok := a.body.(*problem); ok {
		contentType = contentTypeProblem
		p.Instance, p.RequestID, p.Timestamp = x.r.URL.Path, x.requestID, iso(x.cfg.Now())
	}
	x.w.Header().Set(headerRequestID, x.requestID)
	x.send(a.status, contentType, encode(a.body))
}

// send records the outcome and writes the answer. A client that is gone is
// nobody's business here.
func (x *exchange) send(status int, contentType string, body []byte) {
	x.decide(strconv.Itoa(status))
	h := x.w.Header()
	h.Set(headerContentType, contentType)
	h.Set(headerContentLength, strconv.Itoa(len(body)))
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body)
}

// encode marshals one of this package's own types, which cannot fail.
func encode(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return append(body, '\n')
}
