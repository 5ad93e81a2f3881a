package provision_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Each rule of design section 5 decides alone: a server of whom everything
// else is right is adopted, left out, or makes the request wait.
func TestCandidate(t *testing.T) {
	const adopt, ignore, doubt = "created", "", "doubtful"
	forgotten := func(ago time.Duration) func(*world, *rented) {
		return func(w *world, _ *rented) {
			at := time.Now().Add(-ago)
			w.shelf.past = func(provision.Past) provision.Past { return provision.Past{Forgotten: at} }
		}
	}
	finished := func(w *world, s *rented) {
		id := s.ID
		w.shelf.past = func(provision.Past) provision.Past { return provision.Past{IDs: []string{"other", id}} }
	}
	change := func(f func(*rented)) func(*world, *rented) { return func(_ *world, s *rented) { f(s) } }
	tests := map[string]struct {
		change func(*world, *rented)
		want   string
	}{
		"Fits":              {change(func(*rented) {}), adopt},
		"NameInAnotherCase": {change(func(s *rented) { s.Name = "WEB-a" }), adopt},
		"NameOther":         {change(func(s *rented) { s.Name = "web-ab" }), ignore},
		"NameWithSpace":     {change(func(s *rented) { s.Name = "web-a " }), ignore},
		"NotPAYG":           {change(func(s *rented) { s.PAYG = false }), ignore},
		"Dead":              {change(func(s *rented) { s.Live = false }), ignore},
		"OtherCores":        {change(func(s *rented) { s.CPUCores++ }), ignore},
		"OtherMemory":       {change(func(s *rented) { s.MemoryGB-- }), ignore},
		"OtherStorage":      {change(func(s *rented) { s.StorageGB *= 2 }), ignore},
		"SizeNotTold":       {change(func(s *rented) { s.CPUCores, s.MemoryGB, s.StorageGB = 0, 0, 0 }), ignore},
		"AtTheSkew":         {change(func(s *rented) { s.Born = time.Now().Add(-2 * time.Minute) }), adopt},
		"BeforeTheSkew":     {change(func(s *rented) { s.Born = time.Now().Add(-2*time.Minute - 1) }), ignore},
		"InTheFuture":       {change(func(s *rented) { s.Born = time.Now().Add(time.Hour) }), adopt},
		"BirthNotTold":      {change(func(s *rented) { s.Born = time.Time{} }), doubt},
		"Finished":          {finished, ignore},
		"ForgottenSince":    {forgotten(-time.Second), doubt},
		"ForgottenJustNow":  {forgotten(2 * time.Minute), doubt},
		"ForgottenLongAgo":  {forgotten(2*time.Minute + 1), adopt},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.cfg.InlineWait = 0
				w.api.script = []reply{lost(0, false)}
				s := namesake("a", "stray1") // strays come whatever is asked for
				tc.change(w, &s)
				w.inventory.plant(s)
				w.worker().once(order("a"))
				synctest.Wait()
				r := w.record("a")
				switch tc.want {
				case adopt:
					if r.State != provision.StateDone || r.VPSID != "stray1" || !r.Outcome.Adopted || r.Outcome.Billed != provision.BilledYes {
						t.Errorf("not adopted: %s %q %+v", r.State, r.VPSID, r.Outcome)
					}
				case ignore:
					if r.State != provision.StateUnknown || r.Search.Empty != 1 || r.Search.Failed != 0 {
						t.Errorf("not left out: %s %+v", r.State, r.Search)
					}
				case doubt:
					if r.State != provision.StateUnknown || r.Search.Empty != 0 || r.Search.Failed != 1 {
						t.Errorf("no doubt: %s %+v", r.State, r.Search)
					}
					w.worker().until(order("a"), "held")
					if c := w.record("a").Evidence.Candidates; len(c) != 1 || c[0].VPSID != "stray1" || c[0].Detail == "" {
						t.Errorf("evidence %+v", c)
					}
				}
				if len(w.api.sent()) != 1 {
					t.Errorf("%d creates", len(w.api.sent()))
				}
			})
		})
	}
}

// Whatever stands between a doubt and a proof, one doubtful server beside a
// fitting one, or two fitting ones, are never chosen from.
func TestAmbiguityIsHeldAtOnce(t *testing.T) {
	unborn := namesake("a", "x2")
	for name, second := range map[string]func() rented{
		"TwoFit":         func() rented { return namesake("a", "x2") },
		"OneIsDoubtful":  func() rented { unborn.Born = time.Time{}; return unborn },
		"OtherSpelling":  func() rented { s := namesake("a", "x2"); s.Name = "Web-A"; return s },
		"OneIsOursReady": func() rented { s := namesake("a", "x2"); s.Born = time.Now().Add(-time.Minute); return s },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.api.script = []reply{lost(0, true)}
				w.inventory.plant(second())
				wk := w.worker()
				began := time.Now()
				wk.until(order("a"), "held")
				r := w.record("a")
				e := w.events.all()
				if time.Since(began) > time.Second || len(e) != 1 || e[0].Kind != provision.KindHeld || e[0].ID != provision.HeldID("a", 1) {
					t.Fatalf("after %s events %+v", time.Since(began), e)
				}
				var ids []string
				for _, c := range e[0].Evidence.Candidates {
					ids = append(ids, c.VPSID)
				}
				slices.Sort(ids)
				if strings.Join(ids, " ") != "vps_1 x2" || len(e[0].Evidence.Attempts) != 1 || !strings.Contains(r.HeldReason, "2 servers") {
					t.Errorf("evidence %+v, reason %q", e[0].Evidence, r.HeldReason)
				}
				// Held is held: nothing happens, once announced, until the deadline.
				for range 5 {
					pass(time.Minute)
					w.worker().once(order("a"))
				}
				if len(w.events.all()) != 1 || len(w.inventory.looked()) != 1 {
					t.Errorf("%d events, %d looks", len(w.events.all()), len(w.inventory.looked()))
				}
				w.worker().finish(order("a"))
				if o := w.record("a").Outcome; o.Reason != provision.ReasonOutcomeUnknown || o.Billed != provision.BilledUnknown {
					t.Errorf("ended %+v", o)
				}
				if wrong := w.safe("a", true); wrong != nil {
					t.Errorf("%q", wrong)
				}
			})
		})
	}
}
