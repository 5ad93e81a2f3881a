// Package runreport writes what happened in a run as one HTML page that needs
// nothing beside itself: no network, no script, no other file. It is a pure
// function of the values it is handed, which are told apart by time only.
//
// It imports no other package of this module.
package runreport

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"sync"
	"time"
)

// Run is what is told about a run.
type Run struct {
	// Title heads the page, Version is the program's.
	Title   string
	Version string
	// Started and Ended span the time axis; what lies outside is drawn at its
	// ends.
	Started time.Time
	Ended   time.Time
	// Claim is the verdict if there are no Faults: what is not as it should be,
	// in sentences.
	Claim    string
	Faults   []string
	Messages int
	Orders   []Order
	// Classes name the rows of the latency table, in order; see Order.Class.
	Classes  []string
	Closures []Closure
	Limits   []Limit
	Servers  []Server
	Currency string
	// Calls count the create calls by what became of them, as the API saw it.
	Calls []Count
}

// Order is one lane of the timeline.
type Order struct {
	Key string
	// About says in a few words what is special about it.
	About string
	// Outcome is one word, Detail a few more.
	Outcome string
	Detail  string
	Right   bool
	// Took is how long after its publishing the first event came, negative if
	// none did. Class puts it into a row of the latency table; without one it
	// is in none, also not in that of all.
	Took  time.Duration
	Class string
	Steps []Step
}

// Step is a span of an order's time, or a moment if To is not after From. A
// span without an end has the run's.
type Step struct {
	Kind Kind
	From time.Time
	To   time.Time
	// Text says more, for who points at the step or opens the order's story.
	Text string
}

// Closure is a time in which nobody, or with Probing a single call, could pass
// the gate. To is zero if it had not ended.
type Closure struct {
	From    time.Time
	To      time.Time
	Reason  string
	Probing bool
}

// Limit is one dimension of what the account may have at once.
type Limit struct {
	Name string
	Unit string
	Max  int
	// Readings are in the order of their times; each holds until the next.
	Readings []Reading
}

// Reading is how much of a limit was used from a time on.
type Reading struct {
	At   time.Time
	Used int
}

// Server is something that was billed.
type Server struct {
	Name string
	// Key is the order's that it belongs to.
	Key  string
	ID   string
	Size string
	At   time.Time
	// Told says how its owner heard of it.
	Told         string
	PricePerHour float64
}

// Count is a number with a name.
type Count struct {
	Name   string
	Number int
}

//go:embed page.html
var pageText string

// parsed is made when it is first needed: most commands write no page.
var parsed = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("page").Parse(pageText))
})

// Write writes the page of a run to w.
func Write(w io.Writer, r Run) error {
	var b bytes.Buffer
	if err := parsed().Execute(&b, view(r)); err != nil {
		return fmt.Errorf("make the report: %w", err)
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
