package main

import (
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// recordView is a record as it is shown in JSON: what is promised of it, and
// nothing of how the worker keeps it.
type recordView struct {
	Key     string            `json:"idempotencyKey"`
	State   provision.State   `json:"state"`
	Request provision.Request `json:"request"`
	// Attempts is nil in lists, which leave them out.
	Attempts   *[]attemptView        `json:"attempts,omitempty"`
	VPSID      string                `json:"vpsId,omitempty"`
	OrderID    string                `json:"orderId,omitempty"`
	InvoiceID  string                `json:"invoiceId,omitempty"`
	Outcome    *provision.Outcome    `json:"outcome,omitempty"`
	NotBefore  time.Time             `json:"notBefore,omitzero"`
	WaitReason string                `json:"waitReason,omitempty"`
	HeldReason string                `json:"heldReason,omitempty"`
	Resolution *provision.Resolution `json:"resolution,omitempty"`
	CreatedAt  time.Time             `json:"createdAt"`
	UpdatedAt  time.Time             `json:"updatedAt"`
}

// attemptView is an attempt as it is shown. The token that fences it is nobody
// else's business.
type attemptView struct {
	Number    int               `json:"number"`
	StartedAt time.Time         `json:"startedAt"`
	Verdict   provision.Verdict `json:"verdict,omitempty"`
	Status    int               `json:"status,omitempty"`
	RequestID string            `json:"requestId,omitempty"`
	Detail    string            `json:"detail,omitempty"`
}

// listed is a record as lists show it.
func listed(r *provision.Record) recordView {
	return recordView{
		Key: r.Key, State: r.State, Request: r.Request, VPSID: r.VPSID, OrderID: r.OrderID, InvoiceID: r.InvoiceID,
		Outcome: r.Outcome, NotBefore: r.NotBefore, WaitReason: r.WaitReason, HeldReason: r.HeldReason, Resolution: r.Resolution,
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
}

// shown is one record with its attempts.
func shown(r *provision.Record) recordView {
	v := listed(r)
	attempts := make([]attemptView, 0, len(r.Attempts))
	for _, a := range r.Attempts {
		attempts = append(attempts, attemptView{Number: a.Number, StartedAt: a.StartedAt, Verdict: a.Verdict, Status: a.Status, RequestID: a.RequestID, Detail: a.Detail})
	}
	v.Attempts = &attempts
	return v
}
