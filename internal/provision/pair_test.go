package provision_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Two requests with one name whose answers are lost, each cut off at any
// effect, then finished in either order or together, with a server that turns
// up early or late: never one server for two keys, never two for one.
func TestPairOfOneName(t *testing.T) {
	for _, bought := range []string{"both", "first", "second", "none"} {
		t.Run(bought, func(t *testing.T) {
			t.Parallel()
			for deathA := range 9 {
				for deathB := range 9 {
					run := (deathA + 3*deathB) % 4
					synctest.Test(t, func(t *testing.T) { pair(t, bought, deathA, deathB, run) })
				}
			}
		})
	}
}

func pair(t *testing.T, bought string, deathA, deathB, run int) {
	t.Helper()
	w := newWorld(t)
	w.cfg.BackoffInitial = 20 * time.Second // fewer tries for the name
	w.api.script = []reply{
		lost(0, bought == "both" || bought == "first"), lost(0, bought == "both" || bought == "second"),
	}
	if (deathA+deathB)%2 == 1 {
		w.inventory.lag = w.cfg.SettleUnanswered - time.Second
	}
	a, b := order("a"), order("b")
	b.Sequence, b.Request.Name = 2, "Web-A"
	w.mortal(deathA, run%2 == 0).deliver(t.Context(), a)
	w.mortal(deathB, run%2 == 0).deliver(t.Context(), b)
	one, two := w.worker(), w.worker()
	a.Deliveries, b.Deliveries = 2, 2
	if deathA == 0 { // it lived
		a.Deliveries = 1
	}
	if run < 2 {
		done := make(chan struct{})
		go func() { defer close(done); one.drive(a, time.Now().Add(48*time.Hour)) }()
		pass(time.Duration(deathB) * time.Second)
		two.finish(b)
		<-done
	} else {
		two.drive(b, time.Now().Add(2*time.Minute))
		one.drive(a, time.Now().Add(2*time.Minute))
		done := make(chan struct{})
		go func() { defer close(done); two.drive(b, time.Now().Add(48*time.Hour)) }()
		one.finish(a)
		<-done
	}
	synctest.Wait()
	wrong := append(w.safe("a", true), w.safe("b", true)...)
	for _, key := range []string{"a", "b"} {
		r := w.record(key)
		if r.Outcome.Kind != provision.KindProvisioning {
			wrong = append(wrong, fmt.Sprintf("%q ended %+v", key, r.Outcome))
		}
	}
	if wrong != nil {
		t.Errorf("bought %s, deaths %d and %d, run %d: %q\n%s", bought, deathA, deathB, run, wrong, strings.Join(w.journal.told(), "\n"))
	}
}
