package simulator

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestCreateIsWitnessed(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := start(t, Config{Now: c.Now})
	got := decode[createdAnswer](t, r.create("web-01").want(t, 201))
	if got.Status != "provisioning" || got.Deployment != (deploymentAnswer{"web-01", "stockholm", Resources{2, 4, 80}}) {
		t.Errorf("answer %+v", got)
	}
	invoices := r.sim.Invoices()
	if len(invoices) != 1 {
		t.Fatalf("invoices %+v", invoices)
	}
	i := invoices[0]
	if price := 2*0.12 + 4*0.04 + 80*0.003 + 0.02; math.Abs(i.PricePerHour-price) > 1e-9 {
		t.Errorf("price %v, want %v", i.PricePerHour, price)
	}
	i.PricePerHour = 0
	if want := (Invoice{got.InvoiceID, got.OrderID, got.VPSID, "web-01", "stockholm", Resources{2, 4, 80}, 0, "SEK", c.Now(), ""}); i != want {
		t.Errorf("invoice %+v, want %+v", i, want)
	}
	creates := r.sim.Creates()
	if len(creates) != 1 {
		t.Fatalf("creates %+v", creates)
	}
	log := creates[0]
	log.RequestID = ""
	if want := (Create{c.Now(), "", "web-01", len(createBody("web-01")), "201", true, got.VPSID, ""}); log != want {
		t.Errorf("create %+v, want %+v", log, want)
	}
	if used := r.sim.Stats().Used; used != (Limits{2, 4, 80, 1}) {
		t.Errorf("used %+v", used)
	}
}

func TestCreateRefusesBadBodies(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	for body, pointers := range map[string]string{
		``:                                  "",
		`null`:                              "",
		`[]`:                                "",
		`{}`:                                "/name /region /cpuCores /memoryGb /storageGb",
		createBody("ok-name") + `x`:         "",
		createBody("no"):                    "/name",
		createBody(strings.Repeat("n", 64)): "/name",
		createBody("under_score"):           "/name",
		createBody("ümlaut"):                "/name",
		`{"name":7,"cpuCores":0,"memoryGb":257,"storageGb":49,"region":"stockholm"}`:               "/name /cpuCores /memoryGb /storageGb",
		`{"name":"web-01","cpuCores":33,"memoryGb":0,"storageGb":2001,"region":"oslo"}`:            "/cpuCores /memoryGb /storageGb /region",
		`{"name":"web-01","cpuCores":1.5,"memoryGb":"4","storageGb":null,"region":""}`:             "/region /cpuCores /memoryGb /storageGb",
		`{"name":"web-01","cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm","a/b~":1}`: "/a~1b~0",
	} {
		p := decode[problem](t, r.do("POST", createPath, body).want(t, 400))
		var got []string
		for _, e := range p.Errors {
			got = append(got, e.Pointer)
		}
		if p.Code != "invalid_request" || strings.Join(got, " ") != pointers {
			t.Errorf("%s: code %s, errors %v, want %s", body, p.Code, p.Errors, pointers)
		}
	}
	if n := len(r.sim.Invoices()); n != 0 {
		t.Errorf("%d invoices", n)
	}
}

func TestCreateAtTheBounds(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	for _, size := range []Resources{{1, 1, 50}, {32, 256, 2000}} {
		body := fmt.Sprintf(`{"name":"abc","cpuCores":%d,"memoryGb":%d,"storageGb":%d,"region":"stockholm"}`, size.CPUCores, size.MemoryGB, size.StorageGB)
		r.do("POST", createPath, body).want(t, 201)
	}
	r.create(strings.Repeat("n", 63)).want(t, 201)
}

func TestCreateOverTheLimits(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Limits: Limits{CPUCores: 3, MemoryGB: 7, StorageGB: 159, Instances: 1}})
	r.create("web-01").want(t, 201)
	p := decode[problem](t, r.create("web-02").want(t, 403))
	want := []string{"cpu_limit_exceeded", "memory_limit_exceeded", "storage_limit_exceeded", "instance_limit_exceeded"}
	if p.Code != "forbidden" || !slices.Equal(p.BlockerReasons, want) || !strings.Contains(p.Detail, "2 CPU cores asked, 1 of 3 left") {
		t.Errorf("problem %+v", p)
	}
	if log := r.sim.Creates()[1]; log.Outcome != "403" || log.Created {
		t.Errorf("log %+v", log)
	}
}

func TestClosedGate(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Gate: Gate{Closed: true, Reason: "Verify your account.", BlockerReasons: []string{"not_verified"}}})
	p := decode[problem](t, r.create("web-01").want(t, 403))
	if p.Detail != "Verify your account." || !slices.Equal(p.BlockerReasons, []string{"not_verified"}) {
		t.Errorf("problem %+v", p)
	}
	type options struct {
		Available bool
		Access    struct {
			Available, Verified bool
			BlockerReasons      []string
		}
		Actions struct {
			CanDeploy struct {
				Allowed bool
				Reason  string
			}
		}
	}
	o := decode[options](t, r.get(createPath).want(t, 200))
	if o.Available || o.Access.Available || o.Access.Verified || o.Actions.CanDeploy.Allowed ||
		o.Actions.CanDeploy.Reason != "Verify your account." || !slices.Equal(o.Access.BlockerReasons, []string{"not_verified"}) {
		t.Errorf("options %+v", o)
	}
}

func TestCancelFreesTheLimits(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Limits: Limits{Instances: 1}})
	id := decode[createdAnswer](t, r.create("web-01").want(t, 201)).VPSID
	cancel := listPath + "/" + id + "/actions/cancel"
	r.do("POST", cancel, `{"cancelType":"never"}`).want(t, 400)
	r.do("POST", cancel, `{"extra":1}`).want(t, 400)
	r.do("POST", cancel, `{"cancelType":"end_of_period"}`).want(t, 200)
	r.create("web-02").want(t, 403)
	for range 2 { // the second time changes nothing
		r.do("POST", cancel, `{"cancelType":"immediate","reason":"double"}`).want(t, 200)
	}
	if used := r.sim.Stats().Used; used != (Limits{}) {
		t.Errorf("used %+v", used)
	}
	if v := r.sim.Servers()[0]; v.Status != "cancelled" {
		t.Errorf("server %+v", v)
	}
	r.create("web-02").want(t, 201)
	if n := len(r.sim.Invoices()); n != 2 {
		t.Errorf("%d invoices: a cancelled server keeps its own", n)
	}
	r.do("POST", listPath+"/vps_none/actions/cancel", "").want(t, 404)
}

func TestConcurrentCreatesNeverOverspend(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Limits: Limits{Instances: 20, CPUCores: 1000}})
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			r.create(fmt.Sprintf("web-%02d", i))
			r.get(listPath)
			r.sim.Stats()
		})
	}
	wg.Wait()
	s := r.sim.Stats()
	if s.Creates != 60 || s.Invoices != 20 || s.Outcomes["201"] != 20 || s.Outcomes["403"] != 40 || len(s.Outcomes) != 2 {
		t.Errorf("stats %+v", s)
	}
}

func TestCreateLogIsBounded(t *testing.T) {
	t.Parallel()
	r := start(t, Config{KeepCreates: 3})
	for i := range 10 {
		r.create(fmt.Sprintf("web-%02d", i)).want(t, 201)
		if n := len(r.sim.creates.entries); n > 6 {
			t.Fatalf("%d entries kept", n)
		}
	}
	var names []string
	for _, c := range r.sim.Creates() {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"web-07", "web-08", "web-09"}) {
		t.Errorf("kept %v", names)
	}
	if s := r.sim.Stats(); s.Creates != 10 || s.Invoices != 10 {
		t.Errorf("stats %+v", s)
	}
}
