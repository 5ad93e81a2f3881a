package top

import (
	"context"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Sources are what the screen reads. An error is shown beside what was read
// last, and the source is asked again; its text is for people. Each is called
// by one goroutine at a time.
type Sources struct {
	// Queue reads the consumers.
	Queue func(ctx context.Context) ([]Lane, error)
	// Shared reads the rows that the fleet shares.
	Shared func(ctx context.Context) (Shared, error)
	// Requests looks through the ledger.
	Requests func(ctx context.Context) (Requests, error)
	// Limits reads the account. It may be nil.
	Limits func(ctx context.Context) (Limits, error)
	// Outcomes gives the events of late and then every new one, until ctx ends
	// or it cannot go on. It calls ready when it has begun. Called again, it goes
	// on behind what it gave last.
	Outcomes func(ctx context.Context, ready func(), each func(Outcome)) error
	// Explain tells the story of a key on lines of so many columns.
	Explain func(ctx context.Context, key string, columns int) (string, error)
}

// Limits is what the account may have.
type Limits struct {
	admission.Facts

	// Counted is whether HostUp counts reads against a rate limit, as its answers
	// say.
	Counted bool
}

// Lane is one consumer of the request stream.
type Lane struct {
	Name string
	// Pending wait for their first delivery, AckPending are in work or wait to
	// be delivered again, Redelivered of them were delivered more than once.
	Pending, AckPending, Redelivered uint64
	// Missing is set when the consumer does not exist.
	Missing bool
}

// Shared is what every replica obeys.
type Shared struct {
	Gate  admission.Gate
	Brake admission.Brake
}

// Requests is what the ledger holds.
type Requests struct {
	// States counts all records.
	States map[provision.State]int
	// Waiting counts what is waited for, the most frequent first.
	Waiting []Waiting
	// Held are the requests that a person has to decide, the longest held first.
	Held []Held
	// InFlight is the room of what may be bought at the moment.
	InFlight admission.Resources
	// Unread counts unfinished records that were too many to be read: they are
	// in States only.
	Unread int
}

// Waiting is one reason to wait.
type Waiting struct {
	Reason string
	Count  int
	// Next is when the first of them goes on, zero when nobody knows.
	Next time.Time
}

// Held is one request that a person has to decide.
type Held struct {
	Key   string
	Name  string
	Since time.Time
	Why   string
	// Candidates are the servers that it may have bought.
	Candidates []string
}

// Outcome is one event.
type Outcome struct {
	// Sequence is its place in the events stream.
	Sequence uint64
	Kind     provision.Kind
	Key      string
	Name     string
	At       time.Time
	// Size and the two others are of provisioning.
	Size    admission.Resources
	VPSID   string
	Adopted bool
	// Reason and the two others are of failed; Detail also of held.
	Reason provision.Reason
	Billed provision.Billed
	Detail string
	// Unreadable says why it is no event that this version knows.
	Unreadable string
}

// source names a part of the screen that is read by itself.
type source int

const (
	ofQueue source = iota
	ofShared
	ofRequests
	ofLimits
	ofOutcomes
	sources
)

func (s source) String() string {
	return [sources]string{"queue", "gate and brake", "ledger", "limits", "events"}[s]
}

// reading is what the feed tells the model: a value of one source, or why there
// is none.
type reading struct {
	from  source
	at    time.Time
	took  time.Duration
	value any
	err   error
	// skipped says why nothing was read, on purpose.
	skipped string
}
