package provision_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Every finding says what it costs, a server that is gone what it did cost.
func TestAuditPricesWhatVanished(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		room := roomy()
		room.Prices = admission.Prices{CPUPerCoreHour: 0.1, MemoryPerGBHour: 0.01, StoragePerGBHour: 0.001, IPPerHour: 0.5, CurrencyCode: "SEK"}
		w.account.room = room
		wk := w.worker()
		wk.finish(order("a"))
		synctest.Wait()
		pass(time.Hour)
		found, err := wk.Audit(t.Context(), w.shelf.ledger())
		if err != nil || len(found) != 0 {
			t.Fatalf("before: %+v, %v", found, err)
		}
		w.inventory.alter("vps_1", func(s *rented) { s.Live = false })
		found, err = wk.Audit(t.Context(), w.shelf.ledger())
		if err != nil || len(found) != 1 {
			t.Fatalf("after: %+v, %v", found, err)
		}
		const perHour = 2*0.1 + 4*0.01 + 80*0.001 + 0.5
		f := found[0]
		if diff := f.PricePerHour - perHour; f.Finding != provision.FindingVanished || f.IdempotencyKey != "a" || f.Currency != "SEK" || diff > 1e-9 || diff < -1e-9 {
			t.Errorf("%+v, want %v SEK per hour", f, perHour)
		}
	})
}

// One replica audits at a time, and another takes over when it dies.
func TestAuditsTakeTurns(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	const every = 10 * time.Minute
	row, mine := provision.Audits{}.Turn(now, "a", every)
	if !mine || row.By != "a" {
		t.Fatalf("the first: %+v, %v", row, mine)
	}
	for after, want := range map[time.Duration]bool{0: false, 8 * time.Minute: false, 9 * time.Minute: true, time.Hour: true, -time.Minute: true} {
		if _, got := row.Turn(now.Add(after), "b", every); got != want {
			t.Errorf("%s after the last one: %v, want %v", after, got, want)
		}
	}
	if told, changed := row.Told("b", nil, nil); changed {
		t.Errorf("b told for a: %+v", told)
	}
	told, _ := row.Told("a", []provision.Finding{{Finding: provision.FindingOrphan}}, nil)
	if told.Findings[provision.FindingOrphan] != 1 || len(told.Findings) != 3 || !told.At.Equal(now) {
		t.Errorf("told %+v", told)
	}
	failed, _ := row.Told("a", nil, errLook)
	if _, mine := failed.Turn(now, "b", every); !mine {
		t.Errorf("nobody repeats an audit that failed: %+v", failed)
	}
}

// Who lifts the brake sees orders move soon: what was handed back meanwhile comes
// again within ten seconds.
func TestAfterTheBrakeOrdersMoveSoon(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.InlineWait = 0
		wk := w.worker()
		wk.BrakeChanged(t.Context(), admission.Brake{On: true, By: "ops", Reason: "now", Revision: 1})
		d := wk.once(order("a"))
		if d.Action != provision.Retry || d.Reason != "paused" || d.After <= 0 || d.After > 10*time.Second {
			t.Errorf("%+v", d)
		}
	})
}
