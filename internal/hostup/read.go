package hostup

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Unlimited stands for a limit that HostUp did not name. It is far above any
// real one and far below overflow.
const Unlimited = 1 << 40

var errUnreadable = errors.New("the answer is not of the documented shape")

// get makes one GET, when it is its turn, and returns the body of a success.
// Every error is an *Error. path is relative to the base address.
func (c *Client) get(ctx context.Context, operation string, query url.Values, path ...string) ([]byte, error) {
	var answer provision.ReadAnswer
	if c.turns != nil {
		leave, err := c.turns.Enter(ctx)
		if err != nil {
			return nil, &Error{Operation: operation, Err: err}
		}
		defer func() { leave(answer) }()
	}
	return c.send(ctx, operation, query, path, &answer)
}

func (c *Client) send(ctx context.Context, operation string, query url.Values, path []string, answer *provision.ReadAnswer) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.readTimeout)
	defer cancel()
	token, err := c.tokens.Token()
	if err != nil {
		return nil, &Error{Operation: operation, Err: err}
	}
	req, err := c.newRequest(ctx, &exchange{operation: operation, token: token}, http.MethodGet, query, path...)
	if err != nil {
		return nil, &Error{Operation: operation, Err: err}
	}
	asked := c.now()
	resp, err := c.reads.RoundTrip(req) //nolint:bodyclose // readAnswer closes it
	if err != nil {
		return nil, &Error{Operation: operation, Err: err}
	}
	if d, told := ahead(resp.Header, asked, c.now()); told && c.onClock != nil {
		c.onClock(d)
	}
	body, err := readAnswer(resp, token)
	rate := parseRate(resp.Header, c.now(), c.retryAfterMax)
	answer.Status, answer.Rate = resp.StatusCode, rate
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		if err != nil {
			return nil, &Error{Operation: operation, StatusCode: resp.StatusCode, RequestID: requestID(resp.Header, token), Err: err}
		}
		return body, nil
	}
	if resp.StatusCode == http.StatusUnauthorized {
		c.tokens.Refresh()
	}
	w := parseWait(resp.Header, c.now(), c.retryAfterMax, resp.StatusCode == http.StatusTooManyRequests)
	c.count(ctx, w)
	answer.RetryAfter = w.length
	d := readDocument(resp.StatusCode, resp.Header, body)
	return nil, &Error{
		Operation: operation, StatusCode: resp.StatusCode, Code: d.code,
		Message: firstOf(d.message, http.StatusText(resp.StatusCode)), RequestID: firstOf(d.requestID, requestID(resp.Header, token)),
		RetryAfter: w.length, Rate: rate, Problem: d.raw, origin: d.origin,
	}
}

// getObject is get for an answer that is one object, bare or in a member data;
// name is a member that the bare object has.
func (c *Client) getObject(ctx context.Context, operation, name string, path ...string) (object, error) {
	body, err := c.get(ctx, operation, nil, path...)
	if err != nil {
		return nil, err
	}
	o, ok := parseObject(body)
	if !ok {
		return nil, unreadable(operation)
	}
	return o.unwrapped(name), nil
}

// unreadable is the error of a success that does not say what it should.
func unreadable(operation string) error {
	return &Error{Operation: operation, StatusCode: http.StatusOK, Err: errUnreadable}
}

// Limits is the answer of GET /vps/payg/limits. Sizes are cores, GiB of
// memory, GiB of storage and instances, for the whole account.
type Limits struct {
	Current   admission.Resources
	Max       admission.Resources
	Remaining admission.Resources
	Prices    admission.Prices
}

// Limits reads GET /vps/payg/limits. A dimension of remaining that is absent
// is max less current, and Unlimited if those are absent too: HostUp stays the
// arbiter. An answer that names nothing of what remains is an error. Errors
// are *Error.
func (c *Client) Limits(ctx context.Context) (Limits, error) {
	const operation = "GET /vps/payg/limits"
	o, err := c.getObject(ctx, operation, "remaining", "vps", "payg", "limits")
	if err != nil {
		return Limits{}, err
	}
	l, ok := limitsOf(o)
	if !ok {
		return Limits{}, unreadable(operation)
	}
	return l, nil
}

func limitsOf(o object) (Limits, bool) {
	l := Limits{Prices: pricesOf(o.object("billing"))}
	current, limit, remaining := o.object("current"), o.object("max"), o.object("remaining")
	known := false
	for _, d := range []struct {
		name                      string
		current, limit, remaining *int64
	}{
		{"cpuCores", &l.Current.CPUCores, &l.Max.CPUCores, &l.Remaining.CPUCores},
		{"memoryGb", &l.Current.MemoryGB, &l.Max.MemoryGB, &l.Remaining.MemoryGB},
		{"storageGb", &l.Current.StorageGB, &l.Max.StorageGB, &l.Remaining.StorageGB},
		{"instanceCount", &l.Current.Instances, &l.Max.Instances, &l.Remaining.Instances},
	} {
		used, haveUsed := current.whole(d.name)
		most, haveMost := limit.whole(d.name)
		left, haveLeft := remaining.whole(d.name)
		if !haveLeft && haveUsed && haveMost {
			left, haveLeft = most-used, true
		}
		if !haveMost {
			most = Unlimited
		}
		if !haveLeft {
			left = Unlimited
		}
		known = known || haveLeft
		*d.current, *d.limit, *d.remaining = used, most, left
	}
	return l, known
}

func pricesOf(o object) admission.Prices {
	price := func(name string) float64 {
		f, _ := o.number(name)
		return f
	}
	return admission.Prices{
		CPUPerCoreHour: price("cpuPerCoreHour"), MemoryPerGBHour: price("memoryPerGbHour"),
		StoragePerGBHour: price("storagePerGbHour"), IPPerHour: price("ipPerHour"), CurrencyCode: o.text("currencyCode"),
	}
}
