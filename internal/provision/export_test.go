package provision

import (
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// Paced is paced.
var Paced = paced

// Pass allows one create.
type Pass = pass

// Enter asks for one create for a key.
func (g *Gate) Enter(key string) *Pass {
	p, _ := g.enter(key)
	return p
}

// Leave tells what came of a create: a 429 closes the gate for wait, as do
// threshold unknown verdicts in a row.
func (g *Gate) Leave(p *Pass, a Answer, wait time.Duration, threshold int) {
	g.leave(p, a, closing{throttled: wait, unknowns: threshold, pause: func(int) time.Duration { return wait }})
}

// Held is how many permits this process has.
func (g *Gate) Held() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.permits
}

// Ramped allows so many creates in flight.
func (g *Gate) Ramped(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ramp = n
}

// Creates is the row of the creates.
func (g *ReadGate) Creates() admission.Gate { return g.creates.Row() }

// Note takes something down.
func (r *Record) Note(n Note) { r.note(n) }
