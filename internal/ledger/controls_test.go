package ledger_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/ledger/ledgertest"
)

func TestMemoryControls(t *testing.T) {
	t.Parallel()
	ledgertest.RunControls(t, func(*testing.T) ledgertest.Controlled { return ledger.NewMemory() })
}

func TestJetStreamControls(t *testing.T) {
	t.Parallel()
	ledgertest.RunControls(t, func(t *testing.T) ledgertest.Controlled {
		t.Helper()
		_, js := brokertest.Connect(t, brokertest.Start(t))
		return patient(t, js, ledger.Config{})
	})
}

// The bucket forgets records after a time; a brake that it forgot would let the
// fleet buy again without a person.
func TestControlsOutliveTheBucketsAge(t *testing.T) {
	t.Parallel()
	_, js := brokertest.Connect(t, brokertest.Start(t))
	l := patient(t, js, ledger.Config{})
	s, err := js.Stream(t.Context(), "KV_deploy-ledger")
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxAge, cfg.Duplicates = time.Second, time.Second
	if s, err = js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := l.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) {
		return b.Set(time.Now(), "ann", "why")
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.UpdateGate(t.Context(), func(g admission.Gate) (admission.Gate, bool) { g.Used++; return g, true }); err != nil {
		t.Fatal(err)
	}
	if _, err := l.UpdateSpend(t.Context(), func(s admission.Spend) (admission.Spend, bool) { return s.Anew(time.Now()), true }); err != nil {
		t.Fatal(err)
	}
	// Younger than the rows, so that they would have gone first.
	r := ledgertest.Record("a", "web-1")
	if err := l.Store(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	late := time.After(30 * time.Second)
	for r != nil {
		select {
		case <-again.C:
		case <-late:
			t.Fatal("the record does not expire")
		}
		if r, err = l.Load(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"gate", "brake", "spend"} {
		m, err := s.GetLastMsgForSubject(t.Context(), "$KV.deploy-ledger.ctl."+name)
		if err != nil {
			t.Errorf("ctl.%s is gone: %v", name, err)
			continue
		}
		if got := m.Header.Get(jetstream.MsgTTLHeader); got != "never" {
			t.Errorf("ctl.%s has the TTL %q", name, got)
		}
	}
	if b, err := l.UpdateBrake(t.Context(), func(b admission.Brake) (admission.Brake, bool) { return b, false }); err != nil || !b.On {
		t.Errorf("the brake is %+v, %v", b, err)
	}
}

func TestControlIsDecoded(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		row, data string
		want      []string
	}{
		"Gate":        {"gate", `{"phase":"closed","wait":5,"used":3}`, []string{"gate closed 5 3 at 17"}},
		"Brake":       {"brake", `{"on":true,"by":"ann","reason":"why","at":"2026-11-23T10:00:00Z"}`, []string{"brake true ann why at 17"}},
		"Reads":       {"reads", `{"phase":"closed","wait":5,"used":3}`, []string{"reads closed 5 3 at 17"}},
		"ReadsBroken": {"reads", "{nope", []string{"broken ctl.reads"}},
		"GateGone":    {"gate", "", []string{"gate  0 0 at 0"}},
		"BrakeGone":   {"brake", "", []string{"brake false   at 0"}},
		"Newer":       {"gate", `{"phase":"closed","tomorrow":{}}`, []string{"gate closed 0 0 at 17"}},
		"Garbage":     {"gate", "{nope", []string{"broken ctl.gate"}},
		"GarbageToo":  {"brake", `"on"`, []string{"broken ctl.brake"}},
		"HalfABrake":  {"brake", `{"on":true,"at":"yesterday"}`, []string{"broken ctl.brake"}},
		"Spend":       {"spend", `{"creates":[{"from":"2026-11-23T10:00:00Z","sum":3}]}`, []string{"spend 3 at 17"}},
		"SpendGone":   {"spend", "", []string{"spend 0 at 0"}},
		"NoSpend":     {"spend", "{nope", []string{"broken ctl.spend"}},
		"SomebodyNew": {"other", "{nope", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			say := func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) }
			ledger.Control{
				Gate:  func(g admission.Gate) { say("gate %s %d %d at %d", g.Phase, g.Wait, g.Used, g.Revision) },
				Reads: func(g admission.Gate) { say("reads %s %d %d at %d", g.Phase, g.Wait, g.Used, g.Revision) },
				Brake: func(b admission.Brake) { say("brake %v %s %s at %d", b.On, b.By, b.Reason, b.Revision) },
				Spend: func(s admission.Spend) {
					creates, _ := s.Within(time.Date(2026, time.November, 23, 10, 30, 0, 0, time.UTC))
					say("spend %v at %d", creates, s.Revision)
				},
				Broken: func(err error) {
					var row string
					if _, scan := fmt.Sscanf(err.Error(), "decode %s", &row); scan != nil || errors.Unwrap(err) == nil {
						t.Errorf("reported as %v", err)
					}
					say("broken %s", row[:max(len(row)-1, 0)])
				},
			}.Changed(tc.row, []byte(tc.data), 17)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want, +got):\n%s", diff)
			}
		})
	}
}
