package hostup

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

var _ provision.API = (*Client)(nil)

const createOperation = "POST /vps/payg/deployments"

// order is the body of POST /vps/payg/deployments: these five members and no
// other, since several writes of the API are documented to refuse unknown
// ones.
type order struct {
	Name      string `json:"name"`
	CPUCores  int32  `json:"cpuCores"`
	MemoryGB  int32  `json:"memoryGb"`
	StorageGB int32  `json:"storageGb"`
	Region    string `json:"region"`
}

// Create sends one POST /vps/payg/deployments, or none, and says what that
// proved. It never sends a second one. Nothing is written after the deadline
// of ctx, nor after Create has returned. A 401 makes the token source read its
// file again, for the next call.
func (c *Client) Create(ctx context.Context, r provision.Request) provision.Answer {
	o := c.attempt(ctx, r)
	c.count(ctx, o.wait)
	if o.status == http.StatusUnauthorized {
		c.tokens.Refresh()
	}
	return judge(o)
}

// attempt makes the call and returns everything that was seen of it.
func (c *Client) attempt(ctx context.Context, r provision.Request) observation {
	token, err := c.tokens.Token()
	if err != nil {
		return observation{err: err}
	}
	m := &meter{}
	m.deadline, _ = ctx.Deadline()
	body, err := json.Marshal(order{r.Name, r.CPUCores, r.MemoryGB, r.StorageGB, r.Region})
	if err != nil {
		return observation{err: fmt.Errorf("encode the order: %w", err)}
	}
	x := &exchange{operation: createOperation, token: token, meter: m}
	req, err := c.newRequest(ctx, x, http.MethodPost, nil, "vps", "payg", "deployments")
	if err != nil {
		return observation{err: err}
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	req.ContentLength = int64(len(body))
	req.Header.Set("Content-Type", "application/json")

	resp, err := c.create.calls.RoundTrip(req) //nolint:bodyclose // readAnswer closes it
	if err != nil {
		m.seal()
		return observation{err: err, sent: m.sent()}
	}
	o := observation{status: resp.StatusCode, header: resp.Header}
	o.body, o.bodyErr = readAnswer(resp, token)
	m.seal()
	o.sent = m.sent()
	o.requestID = requestID(resp.Header, token)
	o.rate = parseRate(resp.Header, c.now(), c.retryAfterMax)
	if o.status < 200 || o.status > 299 {
		o.wait = parseWait(resp.Header, c.now(), c.retryAfterMax, o.status == http.StatusTooManyRequests)
	}
	return o
}

// observation is all that was seen of one create call, already without the
// key.
type observation struct {
	// err says why there is no answer; status is 0 then.
	err error
	// sent is whether any byte of the request can have left the machine.
	sent   bool
	status int
	header http.Header
	body   []byte
	// bodyErr says why body is not all of it.
	bodyErr   error
	requestID string
	wait      wait
	rate      admission.Rate
}
