package provision

import "time"

// Action is what the caller does with the message.
type Action int

// The only three things that leave the core.
const (
	// Done: everything is stored and announced; ack.
	Done Action = iota
	// Retry: hand the message back and see it again after a while.
	Retry
	// Dead: store a dead letter, confirm it, then reject for ever.
	Dead
)

// Disposition is the core's answer to one delivery.
type Disposition struct {
	Action Action
	// After is with Retry how long to wait, 0 or more.
	After time.Duration
	// Defect is set with Dead.
	Defect *Defect
	// Result and Reason say what happened, for the log and the metrics: a
	// closed set of words each, never an id.
	Result Result
	Reason string
	// The following identify the case in the log: Attempts counts the calls that
	// were sent, Attempt is the number of the newest one, with its verdict and
	// HostUp's id of the request.
	Key       string
	Attempts  int
	Attempt   int
	Verdict   Verdict
	RequestID string
	VPSID     string
	// Err is why the message has to wait, when that is an error.
	Err error
	// changed ends a wait in hand early; nil for one that nothing but time ends.
	// Who takes turns and gives them back changes the gate, so who waits for
	// something else must not listen to it: two of them would wake each other.
	changed <-chan struct{}
}

// Result is what came of one delivery.
type Result string

// Every result.
const (
	ResultProvisioning Result = "provisioning"
	ResultFailed       Result = "failed"
	ResultRejected     Result = "rejected"
	ResultDuplicate    Result = "duplicate"
	ResultDead         Result = "dead"
	ResultWaiting      Result = "waiting"
)

// Reasons to wait, stored as waitReason and used as metric attributes.
const (
	WaitGate      = "rate-limit"
	WaitAuth      = "auth"
	WaitPaused    = "paused"
	WaitTurn      = "turn"
	WaitBackoff   = "backoff"
	WaitLimits    = "limits"
	WaitName      = "name"
	WaitInFlight  = "in-flight"
	WaitHeld      = "held"
	WaitAccount   = "account-unreadable"
	WaitLedger    = "ledger"
	WaitPublish   = "publish"
	WaitShutdown  = "shutdown"
	WaitCrowded   = "limits-in-flight"
	WaitNeverSent = "not-sent"
	WaitLookup    = "look-up"
)

// of fills in what the record tells the log.
func (d Disposition) of(r *Record) Disposition {
	d.Attempts, d.VPSID = r.Sent, r.VPSID
	if a := r.attempt(); a != nil {
		d.Attempt, d.Verdict, d.RequestID = a.Number, a.Verdict, a.RequestID
	}
	return d
}

func wait(after time.Duration, reason string, err error) Disposition {
	return Disposition{Action: Retry, After: max(after, 0), Result: ResultWaiting, Reason: reason, Err: err}
}
