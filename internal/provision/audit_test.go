package provision

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/admission"
)

func TestCompare(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	old, young := now.Add(-time.Hour), now.Add(time.Minute)
	prices := admission.Prices{CPUPerCoreHour: 0.1, MemoryPerGBHour: 0.01, StoragePerGBHour: 0.001, IPPerHour: 0.5, CurrencyCode: "SEK"}
	server := func(id, name string) Server {
		return Server{ID: id, Name: name, Live: true, PAYG: true, CPUCores: 2, MemoryGB: 4, StorageGB: 100}
	}
	const perHour = 2*0.1 + 4*0.01 + 100*0.001 + 0.5
	cases := map[string]struct {
		records []Audited
		servers []Server
		want    []string // finding, server, hash of the key
		price   float64
	}{
		"both agree": {
			records: []Audited{{Hash: "h", State: StateDone, Name: "web", VPSID: "a", StoredAt: old}},
			servers: []Server{server("a", "web")},
		},
		"a server of nobody": {servers: []Server{server("x", "web")}, want: []string{"orphan x "}, price: perHour},
		"fixed-cycle and dead servers are nobody's business": {
			servers: []Server{{ID: "f", Name: "web", Live: true}, {ID: "d", Name: "web", PAYG: true}},
		},
		"a second server of a name, in any case": {
			records: []Audited{{Hash: "h", State: StateDone, Name: "Web", VPSID: "a", StoredAt: old}},
			servers: []Server{server("a", "web"), server("b", "wEB")},
			want:    []string{"suspected-double b h"}, price: perHour,
		},
		"what an unfinished request may have bought": {
			records: []Audited{{Hash: "h", State: StateUnknown, Name: "web", StoredAt: old}},
			servers: []Server{server("b", "web")},
			want:    []string{"orphan b h"}, price: perHour,
		},
		"what an unfinished request may have bought, beside an older one of its name": {
			records: []Audited{{Hash: "h", State: StateDone, Name: "web", VPSID: "a", StoredAt: old}, {Hash: "i", State: StateCreating, Name: "web", StoredAt: old}},
			servers: []Server{server("a", "web"), server("b", "web")},
			want:    []string{"orphan b i"}, price: perHour,
		},
		"a failed request bought nothing": {
			records: []Audited{{Hash: "h", State: StateDone, Name: "web", StoredAt: old}},
			servers: []Server{server("b", "web")},
			want:    []string{"orphan b h"}, price: perHour,
		},
		"an announced server is gone": {
			records: []Audited{{Hash: "h", State: StateDone, Name: "web", VPSID: "a", StoredAt: old}},
			want:    []string{"vanished a h"},
		},
		"an announced server is dead": {
			records: []Audited{{Hash: "h", State: StateDone, Name: "web", VPSID: "a", StoredAt: old}},
			servers: []Server{{ID: "a", Name: "web", PAYG: true}},
			want:    []string{"vanished a h"},
		},
		"one that was announced a moment ago is not missed yet": {
			records: []Audited{{Hash: "h", State: StateDone, Name: "web", VPSID: "a", StoredAt: young}},
		},
		"an announced server that was made fixed-cycle is still there": {
			records: []Audited{{Hash: "h", State: StateDone, Name: "web", VPSID: "a", StoredAt: old}},
			servers: []Server{{ID: "a", Name: "web", Live: true}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			compared := newComparison(c.servers, now)
			for _, r := range c.records {
				compared.record(r)
			}
			for _, f := range compared.findings(prices) {
				got = append(got, string(f.Finding)+" "+f.VPSID+" "+f.IdempotencyKey)
				if diff := f.PricePerHour - c.price; diff > 1e-9 || diff < -1e-9 || f.Currency != "SEK" || f.Detail == "" {
					t.Errorf("%+v, want %v SEK per hour and a detail", f, c.price)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}
