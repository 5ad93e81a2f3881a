package events

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hostup/deploy-worker/internal/provision"
	deployv1 "github.com/hostup/deploy-worker/proto/hostup/deploy/v1"
)

// statusProvisioning is the status of every deploy.provisioning.
const statusProvisioning = "provisioning"

// message returns the event in the form that both encodings are made from,
// without its problem, which each encoding carries in its own way.
func message(e provision.Event) (proto.Message, error) {
	r := e.Request
	switch e.Kind {
	case provision.KindProvisioning:
		return &deployv1.DeployProvisioning{
			IdempotencyKey: e.Key,
			Status:         statusProvisioning,
			VpsId:          utf8Text(e.VPSID),
			OrderId:        utf8Text(e.OrderID),
			InvoiceId:      utf8Text(e.InvoiceID),
			Deployment: &deployv1.Deployment{
				Name: r.Name, Region: r.Region,
				Resources: &deployv1.Resources{CpuCores: r.CPUCores, MemoryGb: r.MemoryGB, StorageGb: r.StorageGB},
			},
			Adopted:     new(e.Adopted),
			Attempts:    new(count(e.Attempts)),
			Metadata:    r.Metadata,
			RequestedAt: timestamp(e.RequestedAt),
			OccurredAt:  timestamp(e.OccurredAt),
		}, nil
	case provision.KindFailed:
		return &deployv1.DeployFailed{
			IdempotencyKey: e.Key,
			Reason:         string(e.Reason),
			Billed:         string(e.Billed),
			Retryable:      new(e.Retryable),
			Request: &deployv1.Request{
				Name: r.Name, CpuCores: r.CPUCores, MemoryGb: r.MemoryGB, StorageGb: r.StorageGB, Region: r.Region,
			},
			Attempts:    new(count(e.Attempts)),
			Metadata:    r.Metadata,
			RequestedAt: timestamp(e.RequestedAt),
			OccurredAt:  timestamp(e.OccurredAt),
			Rejected:    e.Rejected,
		}, nil
	case provision.KindHeld:
		return &deployv1.DeployHeld{
			IdempotencyKey: e.Key,
			Evidence:       evidence(e.Evidence),
			Metadata:       r.Metadata,
			OccurredAt:     timestamp(e.OccurredAt),
		}, nil
	}
	return nil, fmt.Errorf("there is no event of kind %q", e.Kind)
}

// evidence is there even when there is none, as a receiver expects it.
func evidence(e *provision.Evidence) *deployv1.Evidence {
	if e == nil {
		return &deployv1.Evidence{}
	}
	out := &deployv1.Evidence{Lookups: count(e.Lookups)}
	for _, a := range e.Attempts {
		out.Attempts = append(out.Attempts, &deployv1.Attempt{
			Number: count(a.Number), StartedAt: timestamp(a.StartedAt), EndedAt: timestamp(a.EndedAt),
			Verdict: string(a.Verdict), Status: count(a.Status), RequestId: utf8Text(a.RequestID),
			Detail: utf8Text(a.Detail), VpsId: utf8Text(a.VPSID),
		})
	}
	for _, c := range e.Candidates {
		out.Candidates = append(out.Candidates, &deployv1.Candidate{
			VpsId: utf8Text(c.VPSID), Name: utf8Text(c.Name), CreatedAt: timestamp(c.CreatedAt), Detail: utf8Text(c.Detail),
		})
	}
	return out
}

// count fits a number into the wire's int32.
func count(n int) int32 { return int32(max(0, min(n, math.MaxInt32))) }

// utf8Text makes a text that came from the API fit for an event: protobuf
// refuses anything but UTF-8, and an event must never be refused.
func utf8Text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// timestamp is absent for the zero time and for one that protobuf cannot
// express.
func timestamp(t time.Time) *timestamppb.Timestamp {
	ts := timestamppb.New(t)
	if t.IsZero() || !ts.IsValid() {
		return nil
	}
	return ts
}

// setProblem puts the problem document into a binary message: the bytes as
// they are, and as a Struct for readers without a JSON parser. A document that
// a Struct cannot hold, like one with a number beyond a double, has only the
// bytes.
func setProblem(m proto.Message, problem json.RawMessage) {
	if problem == nil {
		return
	}
	var members map[string]any
	var s *structpb.Struct
	if err := json.Unmarshal(problem, &members); err == nil {
		s, _ = structpb.NewStruct(members) // nil on error
	}
	switch m := m.(type) {
	case *deployv1.DeployFailed:
		m.Problem, m.ProblemJson = s, problem
	case *deployv1.DeployHeld:
		m.Problem, m.ProblemJson = s, problem
	}
}

// eventOf is the reverse of message and setProblem.
func eventOf(m proto.Message) provision.Event {
	switch m := m.(type) {
	case *deployv1.DeployProvisioning:
		d := m.GetDeployment()
		return provision.Event{
			Kind: provision.KindProvisioning, Key: m.GetIdempotencyKey(),
			Request: provision.Request{
				Key: m.GetIdempotencyKey(), Name: d.GetName(), CPUCores: d.GetResources().GetCpuCores(),
				MemoryGB: d.GetResources().GetMemoryGb(), StorageGB: d.GetResources().GetStorageGb(),
				Region: d.GetRegion(), Metadata: m.GetMetadata(),
			},
			Attempts: int(m.GetAttempts()), RequestedAt: timeOf(m.GetRequestedAt()), OccurredAt: timeOf(m.GetOccurredAt()),
			VPSID: m.GetVpsId(), OrderID: m.GetOrderId(), InvoiceID: m.GetInvoiceId(), Adopted: m.GetAdopted(),
		}
	case *deployv1.DeployFailed:
		r := m.GetRequest()
		return provision.Event{
			Kind: provision.KindFailed, Key: m.GetIdempotencyKey(),
			Request: provision.Request{
				Key: m.GetIdempotencyKey(), Name: r.GetName(), CPUCores: r.GetCpuCores(),
				MemoryGB: r.GetMemoryGb(), StorageGB: r.GetStorageGb(), Region: r.GetRegion(), Metadata: m.GetMetadata(),
			},
			Attempts: int(m.GetAttempts()), RequestedAt: timeOf(m.GetRequestedAt()), OccurredAt: timeOf(m.GetOccurredAt()),
			Reason: provision.Reason(m.GetReason()), Billed: provision.Billed(m.GetBilled()),
			Retryable: m.GetRetryable(), Rejected: m.GetRejected(), Problem: problemOf(m.GetProblemJson(), m.GetProblem()),
		}
	case *deployv1.DeployHeld:
		return provision.Event{
			Kind: provision.KindHeld, Key: m.GetIdempotencyKey(),
			Request:    provision.Request{Key: m.GetIdempotencyKey(), Metadata: m.GetMetadata()},
			OccurredAt: timeOf(m.GetOccurredAt()),
			Problem:    problemOf(m.GetProblemJson(), m.GetProblem()), Evidence: evidenceOf(m.GetEvidence()),
		}
	}
	return provision.Event{}
}

func evidenceOf(e *deployv1.Evidence) *provision.Evidence {
	if e == nil {
		return nil
	}
	out := &provision.Evidence{Lookups: int(e.GetLookups())}
	for _, a := range e.GetAttempts() {
		out.Attempts = append(out.Attempts, provision.Attempt{
			Number: int(a.GetNumber()), StartedAt: timeOf(a.GetStartedAt()), EndedAt: timeOf(a.GetEndedAt()),
			Verdict: provision.Verdict(a.GetVerdict()), Status: int(a.GetStatus()), RequestID: a.GetRequestId(),
			Detail: a.GetDetail(), VPSID: a.GetVpsId(),
		})
	}
	for _, c := range e.GetCandidates() {
		out.Candidates = append(out.Candidates, provision.Candidate{
			VPSID: c.GetVpsId(), Name: c.GetName(), CreatedAt: timeOf(c.GetCreatedAt()), Detail: c.GetDetail(),
		})
	}
	return out
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// problemOf prefers the original document to the one that went through
// doubles.
func problemOf(original []byte, s *structpb.Struct) json.RawMessage {
	if len(original) > 0 {
		return original
	}
	if s == nil {
		return nil
	}
	b, err := json.Marshal(s.AsMap())
	if err != nil {
		return nil // a Struct with a NaN, which is no JSON
	}
	return b
}
