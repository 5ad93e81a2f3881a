package provision

import (
	"math/rand/v2"
	"time"
)

// paceRate is how often a second, at most, a whole fleet is asked about the
// requests that wait at one consumer. Each time costs a delivery, a ledger read
// and a nak.
const paceRate = 200

// crowd is how many requests must be queued so that none keeps its slot while
// it waits for room: a few dozen short waits in hand would fill all slots, and
// with more that wait like this a fresh one would never get its turn.
const crowd = 64

// paced stretches a wait so that n waiting requests come back at paceRate or
// less, also when all of them began to wait at one moment: it is spread over as
// long as it takes to ask them all. It never shortens. Who waits for a gate comes
// back when that opens or in the time after it; who waits for room is asked
// again and again.
func paced(d time.Duration, reason string, n int) time.Duration {
	round := time.Duration(max(n, 0)) * (time.Second / paceRate)
	if reason != WaitGate {
		d = max(d, round)
	}
	return d + rand.N(round+1)
}

// paceable tells the waits that end when there is room, or when a gate opens,
// from those with a time of their own: they are few, or something that may
// have been paid for hangs on them.
func paceable(reason string) bool {
	switch reason {
	case WaitPublish, WaitLedger, WaitLookup, WaitInFlight, WaitHeld, WaitShutdown, WaitBackoff, WaitNeverSent, WaitTurn:
		return false
	}
	return true
}

// crowded reports whether a slot is worth more than the wait in it. Waiting for
// a look counts too: an API that loses answers would fill all slots with it.
func crowded(reason string, queued int) bool {
	return queued >= crowd && (paceable(reason) || reason == WaitLookup || reason == WaitInFlight)
}
