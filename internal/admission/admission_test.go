package admission_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/admission"
)

func room(cores, memory, storage, instances int64) admission.Resources {
	return admission.Resources{CPUCores: cores, MemoryGB: memory, StorageGB: storage, Instances: instances}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	ask := room(2, 4, 80, 1)
	tests := map[string]struct {
		reason   string
		facts    admission.Facts
		inFlight admission.Resources
		want     admission.Decision
	}{
		"Roomy": {"plenty is left", admission.Facts{CanDeploy: true, Remaining: room(9, 9, 900, 9)}, room(0, 0, 0, 0), admission.Decision{}},
		"Exact": {"the last free slot is usable", admission.Facts{CanDeploy: true, Remaining: ask}, room(0, 0, 0, 0), admission.Decision{}},
		"Cores": {
			"one core short",
			admission.Facts{CanDeploy: true, Remaining: room(1, 9, 900, 9)},
			room(0, 0, 0, 0),
			admission.Decision{
				Verdict: admission.Full, Violations: []admission.Violation{{Limit: "cpuCores", Remaining: 1, Asked: 2}},
				Detail: "the account's limits do not allow it: cpuCores: 1 left, 2 asked",
			},
		},
		"Memory": {
			"memory",
			admission.Facts{CanDeploy: true, Remaining: room(9, 3, 900, 9)},
			room(0, 0, 0, 0),
			admission.Decision{
				Verdict: admission.Full, Violations: []admission.Violation{{Limit: "memoryGb", Remaining: 3, Asked: 4}},
				Detail: "the account's limits do not allow it: memoryGb: 3 left, 4 asked",
			},
		},
		"Storage": {
			"storage",
			admission.Facts{CanDeploy: true, Remaining: room(9, 9, 79, 9)},
			room(0, 0, 0, 0),
			admission.Decision{
				Verdict: admission.Full, Violations: []admission.Violation{{Limit: "storageGb", Remaining: 79, Asked: 80}},
				Detail: "the account's limits do not allow it: storageGb: 79 left, 80 asked",
			},
		},
		"NegativeInstances": {
			"support lowered the limit below what is in use",
			admission.Facts{CanDeploy: true, Remaining: room(9, 9, 900, -2)},
			room(0, 0, 0, 0),
			admission.Decision{
				Verdict: admission.Full, Violations: []admission.Violation{{Limit: "instanceCount", Remaining: -2, Asked: 1}},
				Detail: "the account's limits do not allow it: instanceCount: -2 left, 1 asked",
			},
		},
		"Several": {
			"all are named at once",
			admission.Facts{CanDeploy: true, Remaining: room(1, 3, 79, 9)},
			room(9, 9, 9, 9),
			admission.Decision{
				Verdict: admission.Full,
				Violations: []admission.Violation{
					{Limit: "cpuCores", Remaining: 1, Asked: 2}, {Limit: "memoryGb", Remaining: 3, Asked: 4}, {Limit: "storageGb", Remaining: 79, Asked: 80},
				},
				Detail: "the account's limits do not allow it: cpuCores: 1 left, 2 asked; memoryGb: 3 left, 4 asked; storageGb: 79 left, 80 asked",
			},
		},
		"Crowded": {
			"it fits what is left but not beside what is in flight",
			admission.Facts{CanDeploy: true, Remaining: room(3, 9, 900, 9)},
			room(2, 0, 0, 0),
			admission.Decision{
				Verdict: admission.Crowded, Violations: []admission.Violation{{Limit: "cpuCores", Remaining: 1, Asked: 2}},
				Detail: "fits only when creates in flight have settled: cpuCores: 1 left, 2 asked",
			},
		},
		"BesideInFlight": {"it fits beside what is in flight, exactly", admission.Facts{CanDeploy: true, Remaining: room(4, 8, 160, 2)}, ask, admission.Decision{}},
		"GateSilent": {
			"an absent canDeploy counts as no",
			admission.Facts{Remaining: room(9, 9, 900, 9)},
			room(0, 0, 0, 0),
			admission.Decision{Verdict: admission.Full, Detail: "the account may not deploy: HostUp gave no reason"},
		},
		"GateReason": {
			"HostUp's words are repeated",
			admission.Facts{Reason: "Verify your e-mail"},
			room(0, 0, 0, 0),
			admission.Decision{Verdict: admission.Full, Detail: "the account may not deploy: Verify your e-mail"},
		},
		"GateBlockers": {
			"and its codes",
			admission.Facts{Reason: "Blocked", BlockerReasons: []string{"unpaid", "instance_limit_exceeded"}},
			room(0, 0, 0, 0),
			admission.Decision{Verdict: admission.Full, Detail: "the account may not deploy: Blocked (unpaid, instance_limit_exceeded)"},
		},
		"GateOnlyBlockers": {
			"codes without words",
			admission.Facts{BlockerReasons: []string{"unpaid"}},
			room(0, 0, 0, 0),
			admission.Decision{Verdict: admission.Full, Detail: "the account may not deploy: HostUp gave no reason (unpaid)"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, admission.Decide(tc.facts, tc.inFlight, ask)); diff != "" {
				t.Errorf("%s (-want, +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestAllowsRegion(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		regions []string
		want    bool
	}{
		"NoneListed": {nil, true}, "Listed": {[]string{"x", "stockholm"}, true}, "NotListed": {[]string{"x"}, false}, "OtherCase": {[]string{"Stockholm"}, false},
	}
	for name, tc := range tests {
		if got := (admission.Facts{Regions: tc.regions}).AllowsRegion("stockholm"); got != tc.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestPricesPerHour(t *testing.T) {
	t.Parallel()
	p := admission.Prices{CPUPerCoreHour: 0.05, MemoryPerGBHour: 0.02, StoragePerGBHour: 0.001, IPPerHour: 0.03}
	if got, want := p.PerHour(room(2, 4, 80, 1)), 0.1+0.08+0.08+0.03; math.Abs(got-want) > 1e-9 {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAddAndSubAreInverse(t *testing.T) {
	t.Parallel()
	a, b := room(1, -2, 3, 4), room(10, 20, -30, 40)
	if diff := cmp.Diff(room(11, 18, -27, 44), a.Add(b)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(a, a.Add(b).Sub(b)); diff != "" {
		t.Error(diff)
	}
}
