package simulator

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestControlReads(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	noToken := func(req *http.Request) { req.Header.Del("Authorization") }
	read := func(path string) reply { return r.do("GET", "/_sim/"+path, "", noToken).want(t, 200) }
	for _, path := range []string{"invoices", "creates", "servers", "windows"} {
		if got := read(path).body; got != "[]\n" {
			t.Errorf("%s of an empty account: %s", path, got)
		}
	}
	r.create("web-01").want(t, 201)
	r.create("fault-cut-after-web")
	r.get(listPath).want(t, 200)
	if got := decode[[]Invoice](t, read("invoices")); !slices.EqualFunc(got, r.sim.Invoices(), func(a, b Invoice) bool { return a.VPSID == b.VPSID && a.Fault == b.Fault }) || len(got) != 2 {
		t.Errorf("invoices %+v", got)
	}
	if got := decode[[]Create](t, read("creates")); len(got) != 2 || got[1].Outcome != "cut" || !got[1].Created || got[1].Fault != "cut-after" {
		t.Errorf("creates %+v", got)
	}
	if got := decode[[]VPS](t, read("servers")); len(got) != 2 || got[0].Status != "pending" || !got[0].IsPayg {
		t.Errorf("servers %+v", got)
	}
	got := decode[Stats](t, read("stats"))
	if got.Creates != 2 || got.Invoices != 2 || got.Requests["list"] != 1 || got.Outcomes["cut"] != 1 || got.Used.Instances != 2 {
		t.Errorf("stats %+v", got)
	}
}

func TestControlPatchesTheConfiguration(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Limits: Limits{CPUCores: 8}})
	patch := func(body string) reply { return r.do("POST", "/_sim/config", body) }

	patch(`{"limits":{"instanceCount":0}}`).want(t, 200)
	if l := r.sim.config().Limits; l != (Limits{8, 1024, 20000, 0}) {
		t.Errorf("limits %+v", l)
	}
	r.create("web-01").want(t, 403)
	patch(`{"limits":{"instanceCount":5},"canDeploy":false,"blockerReasons":["not_verified"]}`).want(t, 200)
	if got := r.create("web-01").want(t, 403); !strings.Contains(got.body, "not_verified") {
		t.Errorf("gate: %s", got.body)
	}
	patch(`{"canDeploy":true,"blockerReasons":[],"faults":["web-*/cut-after*1","reads/503*1"],"fault":"409"}`).want(t, 200)
	if got := r.statuses("web-01", "web-01", "db-01"); !slices.Equal(got, []int{0, 409, 409}) {
		t.Errorf("faults: %v", got)
	}
	r.get(limitsPath).want(t, 503)
	patch(`{"faults":[],"fault":"none","rate":{"limit":1,"window":"1h","createsOnly":true,"quiet":true,"aligned":true},"latency":"1ms","visibilityLag":"1h"}`).want(t, 200)
	id := decode[createdAnswer](t, r.create("web-02").want(t, 201)).VPSID
	r.create("web-02").want(t, 429)
	if w := decode[[]Window](t, r.do("GET", "/_sim/windows", "").want(t, 200)); len(w) != 1 || w[0].Creates != 1 || w[0].CreatesRefused != 1 {
		t.Errorf("windows %+v", w)
	}
	if rate := r.sim.config().Rate; !rate.Quiet || !rate.CreatesOnly || !rate.Aligned {
		t.Errorf("rate %+v", rate)
	}
	r.get(listPath+"/"+id).want(t, 404)
	patch(`{"token":"rotated","scopes":["read:vm"]}`).want(t, 200)
	r.get(limitsPath).want(t, 401)

	before := r.do("GET", "/_sim/config", "").want(t, 200).body
	for _, bad := range []string{``, `{`, `{"unknown":1}`, `{"latency":"soon"}`, `{"latency":"-1s"}`, `{"latency":"9s","faults":["nope"]}`, `{"rate":{"limit":1,"window":"0s"}}`, `{"limits":{"cpuCores":-1}}`} {
		if got := decode[map[string]string](t, patch(bad).want(t, 400)); got["error"] == "" {
			t.Errorf("%s: %v", bad, got)
		}
	}
	if after := r.do("GET", "/_sim/config", "").body; after != before {
		t.Errorf("a bad patch changed\n%s to\n%s", before, after)
	}
	if again := patch(before).want(t, 200).body; again != before {
		t.Errorf("the configuration is no patch of itself:\n%s\n%s", before, again)
	}
}

func TestControlPlantsServers(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	plant := func(body string) reply { return r.do("POST", "/_sim/servers", body) }
	v := decode[VPS](t, plant(`{"name":"web-01","cpuCores":2,"memoryGb":4,"storageGb":80,"createdAt":"2026-01-02T03:04:05Z"}`).want(t, 201))
	if !v.IsPayg || v.Status != "active" || v.Resources != (Resources{2, 4, 80}) || v.CreatedAt.Year() != 2026 || !v.Planted {
		t.Errorf("planted %+v", v)
	}
	v = decode[VPS](t, plant(`{"name":"web-01","isPayg":false,"status":"terminated","resources":{"cpuCores":1,"memoryGb":1,"storageGb":50}}`).want(t, 201))
	if v.IsPayg || v.Status != "terminated" || v.Resources != (Resources{1, 1, 50}) {
		t.Errorf("planted %+v", v)
	}
	for _, bad := range []string{``, `{}`, `{"name":"x","size":3}`, `{"name":"x","id":"` + v.ID + `"}`} {
		plant(bad).want(t, 400)
	}
	if p := decode[page](t, r.get(listPath+"?name=web-01").want(t, 200)); len(p.Data) != 2 {
		t.Errorf("list %+v", p)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("zero value: %v", err)
	}
	bad := Config{
		Latency: -1, VisibilityLag: -1, ProvisionTime: -1, KeepCreates: -1, Limits: Limits{CPUCores: -1},
		Rate: Rate{Limit: 1}, Regions: []string{""}, Faults: []Rule{{Target: "nowhere"}, {Probability: 2}},
	}
	err := bad.Validate()
	if err == nil || len(strings.Split(err.Error(), "\n")) != 9-1+1 {
		t.Errorf("all at once: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("New took a bad configuration")
		}
	}()
	New(bad)
}

func TestUpdateKeepsCountsUnlessTheFaultsChange(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Fault: MustFault("500*1")})
	update := func(change func(*Config)) {
		if err := r.sim.Update(change); err != nil {
			t.Fatal(err)
		}
	}
	r.create("web-01").want(t, 500)
	update(func(c *Config) { c.VisibilityLag = time.Second })
	r.create("web-01").want(t, 201)
	update(func(c *Config) { c.Faults = []Rule{{Prefix: "db-", Fault: MustFault("404")}} })
	r.create("web-01").want(t, 500)
}

func TestTextForms(t *testing.T) {
	t.Parallel()
	type flags struct {
		Rules []Rule `json:"rules"`
		Fault Fault  `json:"fault"`
	}
	want := flags{[]Rule{{Target: "reads", Probability: 0.5, Fault: MustFault("503*2")}}, MustFault("cut-after")}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got flags
	if err := json.Unmarshal(raw, &got); err != nil || got.Fault != want.Fault || !slices.Equal(got.Rules, want.Rules) {
		t.Errorf("%s: %+v, %v", raw, got, err)
	}
	if err := json.Unmarshal([]byte(`{"rules":["x/y"]}`), &got); err == nil {
		t.Error("a bad rule was read")
	}
}
