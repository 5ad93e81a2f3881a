package simulator

import (
	"cmp"
	"net/http"
	"strings"
)

// problem is the documented RFC 7807 document.
type problem struct {
	Type           string         `json:"type"`
	Title          string         `json:"title"`
	Status         int            `json:"status"`
	Detail         string         `json:"detail"`
	Code           string         `json:"code"`
	Instance       string         `json:"instance"`
	RequestID      string         `json:"requestId"`
	Timestamp      string         `json:"timestamp"`
	Errors         []fieldError   `json:"errors,omitempty"`
	BlockerReasons []string       `json:"blockerReasons,omitempty"`
	Extensions     map[string]any `json:"extensions,omitempty"`
}

type fieldError struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
	Code    string `json:"code"`
}

// texts are the documented title and detail of the codes used here; the code
// of a status is the first with it. 408, 425, 405 and 504 have no documented
// code.
var texts = []struct {
	status              int
	code, title, detail string
}{
	{400, "invalid_request", "Invalid request", "The request body failed validation."},
	{400, "invalid_cursor", "Invalid cursor", "The cursor is malformed."},
	{401, "unauthorized", "Unauthorized", "Authentication is required."},
	{403, "forbidden", "Forbidden", "The caller lacks a required scope or does not own the resource."},
	{404, "not_found", "Not found", "The requested resource could not be found."},
	{409, "cooldown_active", "Cooldown active", "A pending invoice or cooldown blocks the request."},
	{429, "rate_limit_exceeded", "Too many requests", "Too many requests. Retry after the limit resets."},
	{500, "internal_error", "Internal server error", "An unexpected error occurred. Retry later or contact support if the issue persists."},
	{502, "upstream_cloud_quick_deploy_shape_invalid", "Upstream response invalid", "The upstream answer could not be read."},
	{503, "upstream_unavailable", "Upstream unavailable", "The billing account could not be loaded."},
}

// newProblem fills in what the documentation says about a status or, if code is
// not empty, about that code.
func newProblem(status int, code string) *problem {
	p := &problem{Status: status, Code: code, Title: cmp.Or(http.StatusText(status), "Unknown error"), Detail: "The request was not completed."}
	for _, t := range texts {
		if t.code == code || code == "" && t.status == status {
			p.Code, p.Title, p.Detail = t.code, t.title, t.detail
			break
		}
	}
	if p.Code == "" {
		p.Code = strings.ReplaceAll(strings.ToLower(p.Title), " ", "_")
	}
	p.Type = "https://developer.hostup.se/errors/" + p.Code
	return p
}

// refuse is the answer that carries a problem.
func refuse(p *problem) answer { return answer{status: p.Status, body: p} }

func invalid(errs ...fieldError) answer {
	p := newProblem(http.StatusBadRequest, "")
	p.Errors = errs
	return refuse(p)
}

func invalidField(pointer, detail string) fieldError {
	return fieldError{Pointer: pointer, Detail: detail, Code: "invalid_request"}
}
