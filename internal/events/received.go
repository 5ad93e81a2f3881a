package events

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hostup/deploy-worker/internal/provision"
	deployv1 "github.com/hostup/deploy-worker/proto/hostup/deploy/v1"
)

// DecodeEvent is the reverse of Encode, for those who wait for outcomes. The
// Request of the event has what the event says of it, and Evidence what is on
// the wire.
func DecodeEvent(h nats.Header, data []byte) (provision.Event, error) {
	m, err := emptyMessage(ceAttribute(h, headerType))
	if err != nil {
		return provision.Event{}, err
	}
	encoding, known := encodingOf(mediaType(header(h, headerContentType)))
	var problem json.RawMessage
	switch {
	case !known:
		err = fmt.Errorf("the content type %s is not supported", quoted(header(h, headerContentType)))
	case encoding == provision.Protobuf:
		err = proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, m)
	default:
		problem, err = unmarshalJSON(data, m)
	}
	id := ceAttribute(h, headerID)
	if err != nil {
		return provision.Event{}, fmt.Errorf("read event %s: %w", quoted(id), err)
	}
	e := eventOf(m)
	e.ID = id
	e.Encoding = encoding
	e.CausationID = ceAttribute(h, headerCausationID)
	e.Trace = traceOf(h, provision.Trace{})
	if problem != nil {
		e.Problem = problem
	}
	return e, nil
}

// emptyMessage returns the message of a CloudEvents type.
func emptyMessage(eventType string) (proto.Message, error) {
	kind := strings.TrimSuffix(strings.TrimPrefix(eventType, typePrefix), typeSuffix)
	if eventType == typePrefix+kind+typeSuffix {
		switch provision.Kind(kind) {
		case provision.KindProvisioning:
			return &deployv1.DeployProvisioning{}, nil
		case provision.KindFailed:
			return &deployv1.DeployFailed{}, nil
		case provision.KindHeld:
			return &deployv1.DeployHeld{}, nil
		}
	}
	return nil, fmt.Errorf("the ce-type %s is no event of the worker", quoted(eventType))
}

// unmarshalJSON reads a message and, apart from it, the problem document as it
// is written: a Struct would change its numbers and refuse some documents.
func unmarshalJSON(data []byte, m proto.Message) (problem json.RawMessage, err error) {
	o, err := object(data)
	if err != nil {
		return nil, err
	}
	problem = o.value("problem")
	delete(o, "problem")
	rest, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return problem, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(rest, m)
}

// requestMessage returns a request as its message.
func requestMessage(r provision.Request) *deployv1.DeployRequested {
	m := &deployv1.DeployRequested{
		IdempotencyKey: r.Key, Name: r.Name, CpuCores: r.CPUCores, MemoryGb: r.MemoryGB, StorageGb: r.StorageGB,
		Region: r.Region, Metadata: r.Metadata,
	}
	if !r.Deadline.IsZero() {
		m.Deadline = timestamppb.New(r.Deadline)
	}
	return m
}
