package simulator

import (
	"fmt"
	"slices"
	"testing"
)

// statuses sends creates and returns their statuses, 0 for no answer.
func (r *rig) statuses(names ...string) []int {
	r.t.Helper()
	var got []int
	for _, name := range names {
		got = append(got, r.create(name).status)
	}
	return got
}

func TestRulesAreAskedInOrder(t *testing.T) {
	t.Parallel()
	r := start(t, Config{
		Faults: []Rule{
			{Prefix: "ok-", Fault: Fault{}},
			{Prefix: "web-", Fault: MustFault("500*1")},
			{Prefix: "WEB-", Fault: MustFault("503*2")},
		},
		Fault: MustFault("404*1"),
	})
	for _, tt := range []struct {
		name string
		want []int
	}{
		{"ok-01", []int{201, 201}},
		{"web-01", []int{500, 503, 503, 404, 201}},
		{"web-02", []int{500, 503, 503, 404, 201}}, // *N counts per name
		{"db-01", []int{404, 201}},
		{"fault-400-x2-web", []int{400, 400, 201}}, // a name comes first and, used up, is healthy
		{"fault-typo-web", []int{404, 201}},
	} {
		if got := r.statuses(slices.Repeat([]string{tt.name}, len(tt.want))...); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestRulesOfReadsCountPerEndpoint(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Faults: []Rule{
		{Target: "list", Prefix: "web-", Fault: MustFault("503*1")},
		{Target: "limits", Fault: MustFault("500*1")},
	}})
	for _, tt := range []struct {
		path string
		want int
	}{
		{listPath + "?name=web-01", 503},
		{listPath + "?name=web-01", 200},
		{listPath + "?name=web-02", 503},
		{listPath + "?name=db-01", 200},
		{listPath, 200},
		{limitsPath, 500},
		{limitsPath, 200},
		{createPath, 200},
	} {
		if got := r.get(tt.path); got.status != tt.want {
			t.Errorf("%s: %d, want %d", tt.path, got.status, tt.want)
		}
	}
}

func TestDrawsDependOnSeedAndNameOnly(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 400 {
		names = append(names, fmt.Sprintf("web-%03d", i))
	}
	draw := func(seed uint64, names []string) map[string]bool {
		cfg := Config{Seed: seed, Faults: []Rule{{Probability: 0.25, Fault: MustFault("500")}}}
		in, hit := newInjector(), map[string]bool{}
		for _, name := range names {
			hit[name] = in.choose(&cfg, endpoints[0], name) != (Fault{})
		}
		return hit
	}
	reversed := slices.Clone(names)
	slices.Reverse(reversed)
	one, again, other := draw(1, names), draw(1, reversed), draw(2, names)
	hits, differ := 0, 0
	for _, name := range names {
		if one[name] != again[name] {
			t.Errorf("%s depends on the order", name)
		}
		if one[name] {
			hits++
		}
		if one[name] != other[name] {
			differ++
		}
	}
	if hits < 70 || hits > 130 || differ == 0 {
		t.Errorf("%d of 400 hits, %d differ under another seed", hits, differ)
	}
}

func TestRefusedCreateHasNoAfterFault(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Gate: Gate{Closed: true}, Fault: MustFault("cut-after")})
	r.create("web-01").want(t, 403)
	if log := r.sim.Creates()[0]; log.Fault != "" || log.Outcome != "403" || log.Created {
		t.Errorf("log %+v", log)
	}
}
