package ledger

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Headers that label a record.
const (
	stateHeader = "deploy-state"
	nameHeader  = "deploy-name"
	vpsHeader   = "deploy-vps"
)

// Headers that say from which message a record came: its stream, its number
// there, and when the broker stored it. A version before them wrote none.
const (
	streamHeader   = "deploy-stream"
	sequenceHeader = "deploy-sequence"
	messageHeader  = "deploy-message-time"
)

// fields are those of a header, each with one value. The values share an array:
// every request writes six messages.
type fields struct {
	nats.Header

	values []string
}

// usualFields is how many a message has, with what nats.go adds.
const usualFields = 8

func newFields() *fields {
	return &fields{make(nats.Header, usualFields), make([]string, 0, usualFields)}
}

func (f *fields) set(key, value string) {
	f.values = append(f.values, value)
	n := len(f.values)
	f.Header[key] = f.values[n-1 : n : n]
}

func (f *fields) origin(o Origin) {
	f.set(streamHeader, o.Stream)
	f.set(sequenceHeader, strconv.FormatUint(o.Sequence, 10))
	f.set(messageHeader, o.At.UTC().Format(time.RFC3339Nano))
}

// originOf reads them. What is not whole says nothing.
func originOf(h nats.Header) Origin {
	sequence, err := strconv.ParseUint(h.Get(sequenceHeader), 10, 64)
	at, timeErr := time.Parse(time.RFC3339Nano, h.Get(messageHeader))
	if err != nil || timeErr != nil {
		return Origin{}
	}
	return Origin{Stream: h.Get(streamHeader), Sequence: sequence, At: at}
}

// Headers that label a name row; vpsHeader is one of them, too. An owner is the
// hash of its key, since a key may hold what a header may not.
const (
	rowHeader   = "deploy-row" // rowOpen or rowClosed
	ownerHeader = "deploy-owner"
	sizeHeader  = "deploy-size" // cores/memory/storage/instances
	sinceHeader = "deploy-since"

	rowOpen   = "open"
	rowClosed = "closed"
)

func (f *fields) row(r provision.NameRow) {
	state := rowClosed
	if r.Open {
		state = rowOpen
	}
	f.set(rowHeader, state)
	f.set(ownerHeader, r.Owner)
	size := strconv.AppendInt(make([]byte, 0, 32), r.Size.CPUCores, 10)
	for _, n := range []int64{r.Size.MemoryGB, r.Size.StorageGB, r.Size.Instances} {
		size = strconv.AppendInt(append(size, '/'), n, 10)
	}
	f.set(sizeHeader, string(size))
	f.set(sinceHeader, r.Since.UTC().Format(time.RFC3339Nano))
	if r.VPSID != "" {
		f.set(vpsHeader, r.VPSID)
	}
}

// labelOf reads a label; the zero label is that of a marker, and of a row that
// a version wrote which does not label rows.
func labelOf(h nats.Header) label {
	if state := h.Get(stateHeader); state != "" {
		return label{state: provision.State(state), name: h.Get(nameHeader), vpsID: h.Get(vpsHeader), origin: originOf(h)}
	}
	state := h.Get(rowHeader)
	if state != rowOpen && state != rowClosed {
		return label{}
	}
	r := provision.NameRow{Open: state == rowOpen, Owner: h.Get(ownerHeader), VPSID: h.Get(vpsHeader)}
	// What cannot be read stays zero: HostUp is the arbiter.
	size := strings.Split(h.Get(sizeHeader), "/")
	for i, n := range []*int64{&r.Size.CPUCores, &r.Size.MemoryGB, &r.Size.StorageGB, &r.Size.Instances} {
		if i < len(size) {
			*n, _ = strconv.ParseInt(size[i], 10, 64)
		}
	}
	r.Since, _ = time.Parse(time.RFC3339Nano, h.Get(sinceHeader))
	return label{row: &r}
}
