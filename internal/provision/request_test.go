package provision_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

func TestRequestFaults(t *testing.T) {
	t.Parallel()
	metadata := func(entries, bytes int) map[string]string {
		m := make(map[string]string)
		for i := range entries {
			key := fmt.Sprintf("%03d", i)
			size := bytes/entries - 3
			if i == 0 {
				size += bytes % entries
			}
			m[key] = strings.Repeat("x", size)
		}
		return m
	}
	type edit = func(*provision.Request)
	name := func(s string) edit { return func(r *provision.Request) { r.Name = s } }
	cores := func(n int32) edit { return func(r *provision.Request) { r.CPUCores = n } }
	memory := func(n int32) edit { return func(r *provision.Request) { r.MemoryGB = n } }
	storage := func(n int32) edit { return func(r *provision.Request) { r.StorageGB = n } }
	region := func(s string) edit { return func(r *provision.Request) { r.Region = s } }
	meta := func(m map[string]string) edit { return func(r *provision.Request) { r.Metadata = m } }
	const missing, invalid = provision.FaultMissing, provision.FaultInvalid
	tests := map[string]struct {
		edit edit
		want []string // pointer and code
	}{
		"Sound":           {name("web-01"), nil},
		"NameAbsent":      {name(""), []string{"/name " + missing}},
		"Name2":           {name("ab"), []string{"/name " + invalid}},
		"Name3":           {name("abc"), nil},
		"Name63":          {name(strings.Repeat("a", 63)), nil},
		"Name64":          {name(strings.Repeat("a", 64)), []string{"/name " + invalid}},
		"NameHyphens":     {name("---"), nil},
		"NameUpper":       {name("ABZ-abz-09"), nil},
		"NameDot":         {name("web.01"), []string{"/name " + invalid}},
		"NameSpace":       {name("web 01"), []string{"/name " + invalid}},
		"NameUnderscore":  {name("web_01"), []string{"/name " + invalid}},
		"NameNotASCII":    {name("wéb"), []string{"/name " + invalid}},
		"NameNewline":     {name("web\n"), []string{"/name " + invalid}},
		"NameEdgesOfSets": {name("a/b:c@d[e`f{"), []string{"/name " + invalid}},
		"CoresAbsent":     {cores(0), []string{"/cpuCores " + missing}},
		"CoresNegative":   {cores(-1), []string{"/cpuCores " + invalid}},
		"Cores1":          {cores(1), nil},
		"Cores32":         {cores(32), nil},
		"Cores33":         {cores(33), []string{"/cpuCores " + invalid}},
		"MemoryAbsent":    {memory(0), []string{"/memoryGb " + missing}},
		"Memory1":         {memory(1), nil},
		"Memory256":       {memory(256), nil},
		"Memory257":       {memory(257), []string{"/memoryGb " + invalid}},
		"StorageAbsent":   {storage(0), []string{"/storageGb " + missing}},
		"Storage49":       {storage(49), []string{"/storageGb " + invalid}},
		"Storage50":       {storage(50), nil},
		"Storage2000":     {storage(2000), nil},
		"Storage2001":     {storage(2001), []string{"/storageGb " + invalid}},
		"RegionAbsent":    {region(""), []string{"/region " + missing}},
		"RegionControl":   {region("a\x00"), []string{"/region " + invalid}},
		"RegionNotASCII":  {region("malmö"), []string{"/region " + invalid}},
		"MetadataNil":     {meta(nil), nil},
		"Metadata32":      {meta(metadata(32, 200)), nil},
		"Metadata33":      {meta(metadata(33, 200)), []string{"/metadata " + invalid}},
		"Metadata4096":    {meta(metadata(2, 4096)), nil},
		"Metadata4097":    {meta(metadata(2, 4097)), []string{"/metadata " + invalid}},
		"MetadataBoth":    {meta(metadata(33, 5000)), []string{"/metadata " + invalid, "/metadata " + invalid}},
		"Everything": {func(r *provision.Request) { *r = provision.Request{} }, []string{
			"/name " + missing, "/cpuCores " + missing, "/memoryGb " + missing, "/storageGb " + missing, "/region " + missing,
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := provision.Request{Name: "web", CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm"}
			tc.edit(&r)
			var got []string
			for _, f := range r.Faults() {
				got = append(got, f.Pointer+" "+f.Code)
				if f.Detail == "" {
					t.Errorf("%s has no detail", f.Pointer)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("faults (-want, +got):\n%s", diff)
			}
		})
	}
}

func TestValidKey(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		key  string
		want bool
	}{
		"Empty": {"", false}, "One": {"k", true}, "Space": {" ", true}, "Tilde": {"~", true}, "Del": {"\x7f", false},
		"Control": {"a\tb", false}, "NotASCII": {"nyckel-ö", false}, "255": {strings.Repeat("k", 255), true}, "256": {strings.Repeat("k", 256), false},
		"Slashes": {"a/b.c>*", true}, "Null": {"\x00", false},
	}
	for name, tc := range tests {
		if got := provision.ValidKey(tc.key); got != tc.want {
			t.Errorf("%s: ValidKey(%q) = %v", name, tc.key, got)
		}
	}
}

// The ids are those of the contract, computed by hand with sha256sum.
func TestEventIDs(t *testing.T) {
	t.Parallel()
	r := &provision.Record{Key: "order-1001", Held: 3, Outcome: &provision.Outcome{Kind: provision.KindFailed}}
	want := []string{"50ac93f41009bb5828fbeb9b39ca5129.failed", "50ac93f41009bb5828fbeb9b39ca5129.held.3", "50ac93f41009bb5828fbeb9b39ca5129.provisioning", "50ac93f41009bb5828fbeb9b39ca5129.rejected.00ff00ff00ff00ff"}
	got := []string{
		r.OutcomeEvent().ID, r.HeldEvent().ID, provision.OutcomeID("order-1001", provision.KindProvisioning),
		provision.RejectedID("order-1001", "00ff00ff00ff00ff"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ids (-want, +got):\n%s", diff)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	if err := config().Validate(); err != nil {
		t.Errorf("a sound configuration: %v", err)
	}
	err := provision.Config{InlineWait: -1, BackoffInitial: 2, BackoffMax: 1}.Validate()
	for _, want := range []string{"create timeout", "deadline", "limits ttl", "store timeout", "held poll", "inline wait", "below the initial", "settle time after an answer", "settle time without one", "settle reads"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not speak of the %s", err, want)
		}
	}
	if _, err := provision.New(provision.Config{}, provision.Ports{}, nil, nil, provision.Telemetry{}); err == nil {
		t.Error("New took an empty configuration")
	}
}

// Problems that the worker makes itself: the contract's second table.
func TestWorkersOwnProblems(t *testing.T) {
	tests := map[provision.Reason]struct {
		status    int
		retryable bool
		billed    provision.Billed
		make      func(*world, *provision.Message)
	}{
		provision.ReasonInvalidRequest: {400, false, provision.BilledNo, func(_ *world, m *provision.Message) {
			m.Faults = []provision.Fault{{Pointer: "/cpuCores", Code: "invalid_request", Detail: "too many"}}
		}},
		provision.ReasonUndecodable: {400, false, provision.BilledNo, func(_ *world, m *provision.Message) {
			m.Defect = &provision.Defect{Reason: provision.DeadUndecodable, Detail: "not JSON"}
		}},
		provision.ReasonIdempotencyConflict: {422, false, provision.BilledNo, func(w *world, m *provision.Message) {
			w.worker().once(*m)
			m.Request.CPUCores++
		}},
		provision.ReasonLimitExceeded: {403, true, provision.BilledNo, func(w *world, _ *provision.Message) { w.account.room = full() }},
		provision.ReasonDeadlineExceeded: {504, true, provision.BilledNo, func(_ *world, m *provision.Message) {
			m.Request.Deadline = time.Now().Add(-time.Hour)
		}},
		provision.ReasonOutcomeUnknown: {500, false, provision.BilledUnknown, func(w *world, m *provision.Message) {
			w.api.script = []reply{lost(500, false)}
			m.Request.Deadline = time.Now().Add(time.Minute)
		}},
		provision.ReasonRefused: {401, false, provision.BilledNo, func(w *world, _ *provision.Message) {
			w.cfg.AuthHold = false
			w.account.errs = []error{readError(401, 0)}
		}},
	}
	for reason, tc := range tests {
		t.Run(string(reason), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				m := order("a")
				tc.make(w, &m)
				w.worker().finish(m)
				all := w.events.all()
				e := all[len(all)-1]
				var p provision.Problem
				if err := json.Unmarshal(e.Problem, &p); err != nil {
					t.Fatal(err)
				}
				if e.Reason != reason || e.Retryable != tc.retryable || e.Billed != tc.billed {
					t.Errorf("event %s, retryable %v, billed %s", e.Reason, e.Retryable, e.Billed)
				}
				if p.Type != "urn:hostup-worker:problem:"+string(reason) || p.Status != tc.status || p.Title == "" || p.Detail == "" {
					t.Errorf("problem %+v", p)
				}
			})
		})
	}
}
