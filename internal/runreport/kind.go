package runreport

// Kind is what a step is, and so how it is drawn.
type Kind string

// Spans of an order's time.
const (
	Queued  Kind = "queued"
	Working Kind = "working"
)

// Calls, by what came of them.
const (
	Created   Kind = "created"
	Throttled Kind = "throttled"
	Refused   Kind = "refused"
	NeverSent Kind = "never-sent"
	Unknown   Kind = "unknown"
)

// Waits, by what for.
const (
	WaitGate  Kind = "wait-gate"
	WaitProof Kind = "wait-proof"
	WaitOther Kind = "wait-other"
	Held      Kind = "held"
)

// Moments.
const (
	LookUp       Kind = "look-up"
	Adopted      Kind = "adopted"
	Provisioning Kind = "event-provisioning"
	Failed       Kind = "event-failed"
	HeldEvent    Kind = "event-held"
	DeadLetter   Kind = "dead-letter"
)

// form is how a kind is drawn: a bar of a height in the middle of the lane, or
// a mark. No two kinds differ by their colour alone.
type form struct {
	kind Kind
	// word names it, in the legend and in the stories.
	word string
	// height is a bar's; 0 is a mark, the one with the kind's name.
	height int
}

// laneHeight is that of a lane, in pixels.
const laneHeight = 26

// forms are in the order of the legend.
var forms = []form{
	{Queued, "in the queue", 3},
	{Working, "checks, stores or publishes", 7},
	{Created, "create call: server bought", 18},
	{Throttled, "create call: throttled (429)", 18},
	{Refused, "create call: refused", 18},
	{NeverSent, "create call: never sent", 18},
	{Unknown, "create call: answer lost or useless", 18},
	{WaitGate, "waits for the gate", 10},
	{WaitProof, "looks for proof of what the lost call did", 10},
	{WaitOther, "waits for something else", 10},
	{Held, "held for a person", 14},
	{LookUp, "look-up", 0},
	{Adopted, "server found and adopted", 0},
	{Provisioning, "event: provisioning", 0},
	{Failed, "event: failed", 0},
	{HeldEvent, "event: held", 0},
	{DeadLetter, "dead letter", 0},
}

func formOf(k Kind) form {
	for _, f := range forms {
		if f.kind == k {
			return f
		}
	}
	return form{k, string(k), 10}
}

// Bar reports whether it is drawn as a bar.
func (f form) Bar() bool { return f.height > 0 }

// Kind and the others are for the page.
func (f form) Kind() Kind { return f.kind }

// Word names the form.
func (f form) Word() string { return f.word }

// Height is that of the bar.
func (f form) Height() int { return f.height }

// Y is where the bar begins.
func (f form) Y() int { return (laneHeight - f.height) / 2 }

// LegendX is where a mark's time is in its legend of 26 pixels.
func (f form) LegendX() int {
	switch f.kind {
	case LookUp:
		return 13 // on its time
	case Adopted:
		return 20 // before its time, as what follows at once begins there
	default:
		return 7 // from its time on
	}
}
