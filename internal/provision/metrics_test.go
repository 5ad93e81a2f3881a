package provision_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

// measured gives the world's workers a meter that the test can read.
func (w *world) measured() *sdkmetric.ManualReader {
	reader := sdkmetric.NewManualReader()
	w.meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	return reader
}

// series reads every series, a histogram by its count, as name{label=value}.
func series(t *testing.T, reader *sdkmetric.ManualReader) map[string]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	put := func(name string, set attribute.Set, v float64) {
		var labels []string
		for _, l := range set.ToSlice() {
			labels = append(labels, string(l.Key)+"="+l.Value.AsString())
		}
		got[strings.TrimPrefix(name, "hostup_worker.")+"{"+strings.Join(labels, ",")+"}"] = v
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					put(m.Name, p.Attributes, float64(p.Value))
				}
			case metricdata.Sum[float64]:
				for _, p := range data.DataPoints {
					put(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					put(m.Name, p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					put(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					put(m.Name, p.Attributes, float64(p.Count))
				}
			default:
				t.Fatalf("%s is a %T", m.Name, data)
			}
		}
	}
	return got
}

// expect compares some series.
func expect(t *testing.T, reader *sdkmetric.ManualReader, want map[string]float64) {
	t.Helper()
	got := series(t, reader)
	maps.DeleteFunc(got, func(name string, _ float64) bool { _, asked := want[name]; return !asked })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

// What alerts are made of exists before anything has happened, and says zero.
func TestSeriesExistBeforeTheFirstEvent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		reader := w.measured()
		w.worker()
		got := series(t, reader)
		for name, v := range got {
			if v != 0 {
				t.Errorf("%s is %v", name, v)
			}
		}
		for metric, want := range map[string]int{
			"requests": 1 + 1 + 8 + 16 + 3 + 4, "attempts": 5, "waits": 16, "gate_closed_seconds": 5, "gate_closures": 2, "audit_findings": 3,
			"lookups": 3, "unknown_requests": 1, "unknown_oldest": 1, "held_requests": 1, "held_oldest": 1, "held": 1, "adopted": 1,
			"key_refusals": 1, "hourly_cost_created": 1, "paused": 1, "gate_closed": 1, "audit_timestamp": 1,
			// Nobody knows these yet, and zero would be wrong.
			"limit_remaining": 0, "limit_max": 0, "limits_timestamp": 0, "cap_used": 0,
		} {
			n := 0
			for name := range got {
				if strings.HasPrefix(name, metric+"{") {
					n++
				}
			}
			if n != want {
				t.Errorf("%s has %d series, want %d: %q", metric, n, want, slices.Sorted(maps.Keys(got)))
			}
		}
	})
}

// Every word that a delivery can be answered with has its series from the
// start: what the core says otherwise would be counted from one, and missed.
func TestNoSeriesComesLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		reader := w.measured()
		wk := w.worker()
		before := series(t, reader)
		w.api.script = []reply{throttled(time.Minute), lost(0, true), refused(401, provision.RefusalAuth), refused(409, provision.RefusalFinal)}
		for i, key := range []string{"a", "b", "c", "d"} {
			m := order(key)
			m.Sequence = uint64(i + 1)
			wk.once(m)
		}
		keyless := order("")
		keyless.Defect = &provision.Defect{Reason: provision.DeadNoKey}
		wk.once(keyless)
		for name := range series(t, reader) {
			late := []string{"limit", "request.duration"}
			if _, there := before[name]; !there && !slices.ContainsFunc(late, func(p string) bool { return strings.HasPrefix(name, p) }) {
				t.Errorf("%s came later", name)
			}
		}
	})
}

// Who waits is counted by what for: in hand, and handed back until it is due.
func TestWaitsAreCountedWhileTheyLast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		reader := w.measured()
		w.account.errs = []error{readError(429, time.Minute)}
		wk := w.worker()
		wk.once(order("a"))
		second := order("b")
		second.Sequence = 2
		d := wk.once(second)
		expect(t, reader, map[string]float64{"waits{reason=rate-limit}": 2, "waits{reason=auth}": 0})
		pass(max(d.After, 2*time.Minute))
		expect(t, reader, map[string]float64{"waits{reason=rate-limit}": 0})

		// Short waits are made in hand.
		w.api.script = []reply{throttled(3 * time.Second)}
		w.cfg.BackoffInitial = time.Millisecond
		third := order("c")
		third.Sequence = 3
		ended := make(chan struct{})
		reader = w.measured()
		quick := w.worker()
		go func() { quick.finish(third); close(ended) }()
		pass(time.Second)
		expect(t, reader, map[string]float64{"waits{reason=rate-limit}": 1})
		<-ended
		expect(t, reader, map[string]float64{"waits{reason=rate-limit}": 0})
	})
}

// The seconds that the gate is closed are counted by reason, and only those.
func TestGateClosedSeconds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		reader := w.measured()
		gate := provision.NewFleetGate(nil, "me", time.Minute)
		w.workerAt(gate, newRows(1))
		pass(3 * time.Second)
		gate.Synced(true)
		pass(10 * time.Second)
		gate.Raise(7*time.Second, admission.Rate{})
		pass(5 * time.Second)
		expect(t, reader, map[string]float64{
			"gate_closed_seconds{reason=ledger}": 3, "gate_closed_seconds{reason=throttled}": 5, "gate_closed{}": 1,
		})
		pass(5 * time.Second) // it opened after two of them, and nobody was told
		expect(t, reader, map[string]float64{"gate_closed_seconds{reason=throttled}": 7, "gate_closed{}": 0})
		gate.Hold(provision.WaitAuth)
		pass(4 * time.Second)
		gate.Release()
		pass(time.Hour)
		expect(t, reader, map[string]float64{
			"gate_closed_seconds{reason=ledger}": 3, "gate_closed_seconds{reason=throttled}": 7, "gate_closed_seconds{reason=auth}": 4,
			"gate_closed_seconds{reason=unknowns}": 0, "gate_closed_seconds{reason=budget}": 0,
		})
	})
}

// What was bought is summed at the account's prices, also when it was found
// only later; the limits are those that were read.
func TestMoneyAndLimits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		reader := w.measured()
		room := roomy()
		room.Prices = admission.Prices{CPUPerCoreHour: 0.5, CurrencyCode: "SEK"}
		room.Max = admission.Resources{CPUCores: 64, MemoryGB: 128, StorageGB: 1000, Instances: 20}
		w.account.room = room
		w.api.script = []reply{created(), lost(0, true), lost(0, false), refused(403, provision.RefusalLimit)}
		wk := w.worker()
		for i, key := range []string{"a", "b"} {
			m := order(key)
			m.Sequence = uint64(i + 1)
			wk.finish(m)
		}
		expect(t, reader, map[string]float64{
			"hourly_cost_created{}": 2, "adopted{}": 1, "attempts{verdict=created}": 1, "attempts{verdict=unknown}": 1,
			"limit_max{limit=cpuCores}": 64, "limit_max{limit=instanceCount}": 20,
			"limit_remaining{limit=memoryGb}": float64(room.Remaining.MemoryGB), "request.duration{result=provisioning}": 2,
		})
	})
}

// A refused key is counted by every answer that refuses it.
func TestKeyRefusalsAreCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		reader := w.measured()
		w.cfg.AuthHold = false
		w.api.script = []reply{refused(401, provision.RefusalAuth)}
		wk := w.worker()
		wk.finish(order("a"))
		expect(t, reader, map[string]float64{"key_refusals{}": 1})
		w.account.errs = []error{readError(401, 0)}
		second := order("b")
		second.Sequence = 2
		pass(time.Hour)
		wk.once(second)
		if n := series(t, reader)["key_refusals{}"]; n < 2 {
			t.Errorf("%v refusals after a read was refused, too", n)
		}
	})
}

// A survey tells how many requests of the fleet are unknown or held now, and
// for how long, whoever drives them.
func TestSurvey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.HoldUnknown = true
		w.api.script = []reply{lost(0, false), created()}
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		other := w.worker()
		reader := w.measured()
		wk := w.worker()
		go w.shelf.ledger().Watch(ctx, ledger.Watch{Name: wk.NameChanged})
		synctest.Wait()
		look := func(want map[string]float64) {
			t.Helper()
			pass(10 * time.Second)
			if err := wk.Survey(ctx, w.shelf.ledger(), 10*time.Second); err != nil {
				t.Fatal(err)
			}
			expect(t, reader, want)
		}
		look(map[string]float64{"unknown_requests{}": 0, "unknown_oldest{}": 0, "held_requests{}": 0, "held_oldest{}": 0})
		m := order("a")
		other.until(m, "unknown")
		since := w.record("a").Attempts[0].StartedAt
		pass(time.Minute)
		look(map[string]float64{"unknown_requests{}": 1, "unknown_oldest{}": time.Since(since).Seconds() + 10, "held_requests{}": 0})
		other.until(m, "held")
		pass(time.Hour)
		look(map[string]float64{"unknown_requests{}": 0, "unknown_oldest{}": 0, "held_requests{}": 1, "held_oldest{}": time.Since(w.record("a").HeldAt).Seconds() + 10})
		pass(30 * time.Second)
		expect(t, reader, map[string]float64{"held_oldest{}": time.Since(w.record("a").HeldAt).Seconds()})
		// One that has just begun knows at once, and reserves no room for it.
		anew := w.measured()
		fresh := w.worker()
		go w.shelf.ledger().Watch(ctx, ledger.Watch{Name: fresh.NameChanged})
		synctest.Wait()
		if err := fresh.Survey(ctx, w.shelf.ledger(), 10*time.Second); err != nil {
			t.Fatal(err)
		}
		expect(t, anew, map[string]float64{"held_requests{}": 1})
		r := w.record("a")
		r.State = provision.StateAccepted // and its name is given back
		if err := w.shelf.ledger().Store(ctx, r); err != nil {
			t.Fatal(err)
		}
		if err := w.shelf.ledger().Release(ctx, r); err != nil {
			t.Fatal(err)
		}
		look(map[string]float64{"unknown_requests{}": 0, "held_requests{}": 0, "held_oldest{}": 0})
	})
}

// many is an archive in which every record is held.
type many struct {
	provision.Archive

	reads int
}

func (m *many) LoadHash(context.Context, string) (*provision.Record, error) {
	m.reads++
	return &provision.Record{State: provision.StateHeld, HeldAt: time.Now()}, nil
}

// However much is in doubt, a survey stays cheap.
func TestSurveyReadsFewRecords(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		reader := w.measured()
		wk := w.worker()
		for i := range 250 {
			wk.NameChanged(fmt.Sprintf("name-%d", i), provision.NameRow{Open: true, Owner: fmt.Sprintf("owner-%d", i), Revision: uint64(i + 1)})
		}
		pass(time.Minute)
		archive := &many{}
		if err := wk.Survey(t.Context(), archive, time.Second); err != nil {
			t.Fatal(err)
		}
		if archive.reads != 100 {
			t.Errorf("%d records were read", archive.reads)
		}
		expect(t, reader, map[string]float64{"held_requests{}": 100, "unknown_requests{}": 150})
	})
}

// The share of a cap that is used follows the fleet's row, and time.
func TestCapUsed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		reader := w.measured()
		w.cfg.Caps = admission.Caps{CreatesPerHour: 10, HourlyCost: 4}
		wk := w.worker()
		expect(t, reader, map[string]float64{"cap_used{cap=creates-per-hour}": 0, "cap_used{cap=hourly-cost}": 0})
		var spend admission.Spend
		for range 2 {
			spend, _ = spend.Enter(admission.Purchase{At: time.Now(), Price: 1}, w.cfg.Caps)
		}
		wk.SpendChanged(spend)
		expect(t, reader, map[string]float64{"cap_used{cap=creates-per-hour}": 0.2, "cap_used{cap=hourly-cost}": 0.5})
		pass(2 * time.Hour)
		expect(t, reader, map[string]float64{"cap_used{cap=creates-per-hour}": 0, "cap_used{cap=hourly-cost}": 0.5})
	})
}
