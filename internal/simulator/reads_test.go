package simulator

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

func TestAuthentication(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Token: "secret", Scopes: []string{"read:vm"}})
	with := func(value string) func(*http.Request) {
		return func(req *http.Request) { req.Header.Set("Authorization", value) }
	}
	for _, bad := range []string{"", "secret", "Bearer sim-token", "Bearer ", "Basic secret"} {
		r.do("GET", limitsPath, "", with(bad)).want(t, 401)
	}
	r.do("GET", limitsPath, "", with("Bearer secret")).want(t, 200)
	p := decode[problem](t, r.do("POST", createPath, createBody("web-01"), with("Bearer secret")).want(t, 403))
	if p.Code != "forbidden" || p.BlockerReasons != nil {
		t.Errorf("missing scope: %+v", p)
	}
	r.do("POST", createPath, createBody("web-02"), with("Bearer other")).want(t, 401)
	creates := r.sim.Creates()
	if creates[0].Outcome != "403" || creates[1].Outcome != "401" || creates[1].Name != "web-02" {
		t.Errorf("creates %+v", creates)
	}
	none := start(t, Config{Scopes: []string{}})
	none.get(limitsPath).want(t, 403)
}

func TestUnknownRoutes(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	for _, request := range [][2]string{
		{"GET", "/"},
		{"GET", "/api/v2"},
		{"DELETE", createPath},
		{"PUT", listPath},
		{"POST", limitsPath},
		{"GET", "/api/v2/orders"},
		{"DELETE", "/_sim/invoices"},
	} {
		if p := decode[problem](t, r.do(request[0], request[1], "").want(t, 404)); p.Code != "not_found" {
			t.Errorf("%v: %+v", request, p)
		}
	}
}

func TestListPages(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	var want []string
	for i := range 45 {
		name := "web-01"
		if i%3 == 0 {
			name = "WEB-02"
		}
		v, err := r.sim.Plant(VPS{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, v.ID)
	}
	pages := func(query string) (sizes []int, ids []string) {
		cursor := ""
		for {
			p := decode[page](t, r.get(listPath+"?"+query+cursor).want(t, 200))
			sizes = append(sizes, len(p.Data))
			for _, v := range p.Data {
				ids = append(ids, v.ID)
			}
			if p.HasMore != (p.NextCursor != nil) {
				t.Errorf("hasMore %v with cursor %v", p.HasMore, p.NextCursor)
			}
			if !p.HasMore {
				return sizes, ids
			}
			cursor = "&cursor=" + *p.NextCursor
		}
	}
	for _, tt := range []struct {
		query string
		sizes []int
	}{
		{"", []int{20, 20, 5}},
		{"limit=45", []int{45}},
		{"limit=44", []int{44, 1}},
		{"name=web-02&limit=7", []int{7, 7, 1}},
		{"name=Web-01&limit=100", []int{30}},
		{"name=web-0", []int{0}},
		{"primaryIp=10.0.0.45", []int{1}},
		{"include=pendingMaintenance&limit=100", []int{45}},
	} {
		sizes, ids := pages(tt.query)
		if !slices.Equal(sizes, tt.sizes) {
			t.Errorf("%s: pages %v, want %v", tt.query, sizes, tt.sizes)
		}
		slices.Sort(ids)
		if len(slices.Compact(ids)) != len(ids) {
			t.Errorf("%s: a server came twice", tt.query)
		}
	}
	if _, ids := pages(""); !slices.Equal(ids, want) {
		t.Error("the list is not in order of creation")
	}
}

func TestListRefusesBadQueries(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	for query, code := range map[string]string{
		"limit=0": "invalid_request", "limit=101": "invalid_request", "limit=x": "invalid_request",
		"include=everything": "invalid_request",
		"cursor=nonsense":    "invalid_cursor", "cursor=%21": "invalid_cursor",
	} {
		if p := decode[problem](t, r.get(listPath+"?"+query).want(t, 400)); p.Code != code {
			t.Errorf("%s: %s, want %s", query, p.Code, code)
		}
	}
}

func TestNewServerShowsUpAndStarts(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := start(t, Config{Now: c.Now, VisibilityLag: 5 * time.Second, ProvisionTime: time.Minute})
	id := decode[createdAnswer](t, r.create("web-01").want(t, 201)).VPSID
	look := func() page { return decode[page](t, r.get(listPath+"?name=web-01").want(t, 200)) }

	c.advance(5*time.Second - 1)
	if p := look(); len(p.Data) != 0 {
		t.Errorf("visible too early: %+v", p)
	}
	for _, path := range []string{"", "/details", "/status"} {
		r.get(listPath+"/"+id+path).want(t, 404)
	}
	if used := r.sim.Stats().Used.Instances; used != 1 {
		t.Errorf("an invisible server takes %d instances", used)
	}
	c.advance(1)
	if p := look(); len(p.Data) != 1 || p.Data[0].ServiceStatus != "pending" || p.Data[0].PowerState != "provisioning" || p.Data[0].PrimaryIP != nil {
		t.Errorf("after the lag: %+v", p)
	}
	c.advance(55 * time.Second)
	if p := look(); p.Data[0].ServiceStatus != "active" || p.Data[0].PowerState != "running" || *p.Data[0].PrimaryIP != "10.0.0.1" {
		t.Errorf("after provisioning: %+v", p)
	}
	type details struct{ CreatedAt time.Time }
	if d := decode[details](t, r.get(listPath+"/"+id+"/details").want(t, 200)); !d.CreatedAt.Equal(newClock().Now()) {
		t.Errorf("createdAt %v", d.CreatedAt)
	}
}

func TestPlant(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := start(t, Config{Now: c.Now})
	old := c.Now().Add(-24 * time.Hour)
	v, err := r.sim.Plant(VPS{Name: "web-01", Resources: Resources{2, 4, 80}, IsPayg: true, CreatedAt: old})
	if err != nil || v.Status != "active" || v.Region != "stockholm" || !v.CreatedAt.Equal(old) || !v.Planted {
		t.Fatalf("planted %+v, %v", v, err)
	}
	for _, other := range []VPS{{Name: "dead", IsPayg: true, Status: "terminated"}, {Name: "fixed"}} {
		if _, err := r.sim.Plant(other); err != nil {
			t.Fatal(err)
		}
	}
	if s := r.sim.Stats(); s.Used != (Limits{2, 4, 80, 1}) || s.Invoices != 0 || s.Servers != 3 {
		t.Errorf("stats %+v", s)
	}
	for _, bad := range []VPS{{}, {Name: "again", ID: v.ID}} {
		if _, err := r.sim.Plant(bad); err == nil {
			t.Errorf("planted %+v", bad)
		}
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := start(t, Config{Now: c.Now, Rate: Rate{Limit: 2, Window: 90 * time.Second}})
	headers := func(got reply) string {
		return fmt.Sprint(got.header.Get("Retry-After"), " ", got.header.Get(headerRateLimit), " ",
			got.header.Get(headerRateRemaining), " ", got.header.Get(headerRateReset))
	}
	for _, step := range []struct {
		wait   time.Duration
		status int
		want   string
	}{
		{0, 200, " 2 1 2026-04-27T12:36:26.000Z"},
		{0, 200, " 2 0 2026-04-27T12:36:26.000Z"},
		{0, 429, "90 2 0 2026-04-27T12:36:26.000Z"},
		{time.Millisecond, 429, "90 2 0 2026-04-27T12:36:26.000Z"},
		{time.Minute, 429, "30 2 0 2026-04-27T12:36:26.000Z"},
		{30*time.Second - 2*time.Millisecond, 429, "1 2 0 2026-04-27T12:36:26.000Z"},
		{time.Millisecond, 200, " 2 1 2026-04-27T12:37:56.000Z"},
	} {
		c.advance(step.wait)
		if got := headers(r.get(limitsPath).want(t, step.status)); got != step.want {
			t.Errorf("after %s: %q, want %q", step.wait, got, step.want)
		}
	}
}

func TestRateLimitOfCreatesOnly(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Rate: Rate{Limit: 1, Window: time.Hour, CreatesOnly: true}})
	for range 3 {
		if h := r.get(limitsPath).want(t, 200).header.Get(headerRateLimit); h != "" {
			t.Errorf("a read is limited to %s", h)
		}
	}
	r.create("web-01").want(t, 201)
	r.create("web-01").want(t, 429)
	if n := len(r.sim.Invoices()); n != 1 {
		t.Errorf("%d invoices", n)
	}
}
