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
// less, spread over half as long again. It never shortens.
func paced(d time.Duration, n int) time.Duration {
	least := time.Duration(max(n, 0)) * (time.Second / paceRate)
	return max(d, least+rand.N(least/2+1))
}

// paceable tells the waits that end when there is room, or when a gate opens,
// from those with a time of their own: they are few, or something that may
// have been paid for hangs on them.
func paceable(reason string) bool {
	switch reason {
	case WaitPublish, WaitLedger, WaitLookup, WaitInFlight, WaitHeld, WaitShutdown, WaitBackoff, WaitNeverSent:
		return false
	}
	return true
}

func crowded(reason string, queued int) bool { return paceable(reason) && queued >= crowd }
