package provision

import (
	"encoding/json"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

func (p *Provisioner) deadlineOutcome(r *Record, now time.Time) *Outcome {
	detail := "the deadline " + r.Deadline.UTC().Format(time.RFC3339) + " passed before a server could be created"
	if r.WaitReason != "" {
		detail += "; it was waiting for: " + r.WaitReason
	}
	problem := newProblem(ReasonDeadlineExceeded, detail)
	problem.Cause = r.LastProblem
	if problem.Cause == nil {
		problem.Cause = p.obstacle(r.WaitReason)
	}
	return outcome(ReasonDeadlineExceeded, problem.JSON(), now)
}

// obstacle is the problem for which a request waited that met none itself.
func (p *Provisioner) obstacle(reason string) json.RawMessage {
	row := p.gate.Row()
	brake, _ := p.gate.Braked()
	problem := Problem{Type: "about:blank"}
	switch {
	case reason == WaitGate && row.Reason == admission.ReasonUnknowns:
		problem.Title, problem.Status, problem.Detail = "Bad Gateway", 502, "several create calls in a row had no usable answer; creates were stopped until HostUp answers again"
	case reason == WaitGate:
		problem.Title, problem.Status, problem.Detail = "Too Many Requests", 429, "HostUp's rate limit stopped the creates of all replicas"
	case reason == WaitAuth:
		problem.Title, problem.Status, problem.Detail = "Unauthorized", 401, "HostUp refused the worker's API key"
	case reason == WaitPaused:
		problem.Title, problem.Status, problem.Detail = "Service Unavailable", 503, "creates were paused by "+brake.By+": "+brake.Reason
	default:
		return nil
	}
	return problem.JSON()
}

func limitOutcome(d admission.Decision, now time.Time) *Outcome {
	return outcome(ReasonLimitExceeded, limitProblem(d), now)
}

func limitProblem(d admission.Decision) json.RawMessage {
	problem := newProblem(ReasonLimitExceeded, d.Detail)
	for _, v := range d.Violations {
		problem.Limits = append(problem.Limits, LimitProblem(v))
	}
	return problem.JSON()
}
