package hostup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/admission"
)

const limitsBody = `{"current":{"cpuCores":4,"memoryGb":8,"storageGb":120,"instanceCount":2},
 "max":{"cpuCores":16,"memoryGb":64,"storageGb":1000,"instanceCount":10},
 "remaining":{"cpuCores":12,"memoryGb":56,"storageGb":880,"instanceCount":8},
 "billing":{"cpuPerCoreHour":0.12,"memoryPerGbHour":0.04,"storagePerGbHour":0.003,"ipPerHour":0.02,"bandwidthPerGb":0.1,"currencyCode":"SEK"},
 "hasPendingRequests":false,"pendingRequests":[]}`

const optionsBody = `{"available":true,"reason":null,
 "access":{"available":true,"reason":null,"countryCode":"SE","blockerReasons":[]},
 "actions":{"canDeploy":{"allowed":true,"reason":null}},
 "pricing":{"currencyCode":"SEK","cpuPerCoreHour":0.12,"memoryPerGbHour":0.04,"storagePerGbHour":0.003,"ipPerHour":0.02},
 "defaults":{"regionId":"stockholm","resources":{"cpuCores":2}},"regions":[{"id":"stockholm","name":"Stockholm"},{"id":"helsinki"}]}`

var prices = admission.Prices{CPUPerCoreHour: 0.12, MemoryPerGBHour: 0.04, StoragePerGBHour: 0.003, IPPerHour: 0.02, CurrencyCode: "SEK"}

func TestLimits(t *testing.T) {
	t.Parallel()
	full := Limits{
		Current:   admission.Resources{CPUCores: 4, MemoryGB: 8, StorageGB: 120, Instances: 2},
		Max:       admission.Resources{CPUCores: 16, MemoryGB: 64, StorageGB: 1000, Instances: 10},
		Remaining: admission.Resources{CPUCores: 12, MemoryGB: 56, StorageGB: 880, Instances: 8},
		Prices:    prices,
	}
	partly := Limits{
		Max:       admission.Resources{CPUCores: 16, MemoryGB: Unlimited, StorageGB: Unlimited, Instances: Unlimited},
		Current:   admission.Resources{CPUCores: 20},
		Remaining: admission.Resources{CPUCores: -4, MemoryGB: 7, StorageGB: Unlimited, Instances: Unlimited},
	}
	for name, tc := range map[string]struct {
		body string
		want *Limits // nil for an error
	}{
		"documented": {limitsBody, &full},
		"wrapped":    {`{"data":` + limitsBody + `}`, &full},
		"partly": {`{"current":{"cpuCores":20.0},"max":{"cpuCores":16,"memoryGb":null},
			"remaining":{"memoryGb":"7.9","storageGb":null,"instanceCount":{}},"billing":[]}`, &partly},
		"nothing said": {`{"remaining":{}}`, nil},
		"no object":    {`[]`, nil},
		"no JSON":      {`<html>`, nil},
		"empty":        {``, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, Config{}, respond(200, "application/json", tc.body))
			got, err := c.Limits(t.Context())
			if tc.want == nil {
				if !errors.Is(err, errUnreadable) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(*tc.want, got); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		want Options
	}{
		"documented": {optionsBody, Options{CanDeploy: true, Regions: []string{"stockholm", "helsinki"}, DefaultRegion: "stockholm", Prices: prices}},
		"not allowed": {
			`{"access":{"reason":"A","blockerReasons":["not_verified"]},"actions":{"canDeploy":{"allowed":false,"reason":"Verify first"}}}`,
			Options{Reason: "Verify first", BlockerReasons: []string{"not_verified"}},
		},
		"gate absent":  {`{"available":true,"access":null,"actions":{}}`, Options{}},
		"gate no bool": {`{"actions":{"canDeploy":{"allowed":"yes"}},"reason":"R"}`, Options{Reason: "R"}},
	} {
		o, _ := parseObject([]byte(tc.body))
		if diff := cmp.Diff(tc.want, optionsOf(o)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	c := serve(t, Config{}, respond(200, "application/json", optionsBody))
	if o, err := c.Options(t.Context()); err != nil || !o.CanDeploy {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestRegions(t *testing.T) {
	t.Parallel()
	both := []string{"helsinki", "stockholm"}
	for raw, want := range map[string][]string{
		`["helsinki","stockholm"]`:                                       both,
		`[{"id":"helsinki"},{"regionId":"stockholm"}]`:                   both,
		`[{"slug":"helsinki"},{"code":"stockholm"}]`:                     both,
		`[{"id":"r2","slug":"helsinki"},{"id":"r1","slug":"stockholm"}]`: both, // the usual region says which
		`{"stockholm":{"name":"Stockholm"},"helsinki":true}`:             both,
		`{"data":["helsinki","stockholm"]}`:                              both,
		`["helsinki",{"name":"Stockholm"}]`:                              nil,
		`["helsinki",5]`:                                                 nil,
		`[]`:                                                             nil,
		`null`:                                                           nil,
		`"stockholm"`:                                                    nil,
		``:                                                               nil,
	} {
		if diff := cmp.Diff(want, regionsOf([]byte(raw), "stockholm")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", raw, diff)
		}
	}
}

func row(id, name string) string {
	return fmt.Sprintf(`{"id":%q,"name":%q,"primaryIp":"192.0.2.7","serviceStatus":"active","powerState":"running",
	"operatingSystem":null,"billing":{"amount":0,"isPayg":true},"resources":{"cpuCores":2.0,"memoryGb":4,"storageGb":79.6}}`, id, name)
}

func TestServers(t *testing.T) {
	t.Parallel()
	pages := map[string]string{
		"":    `{"data":[` + row("vps_1", "web-01") + `,` + row("vps_2", "other") + `],"hasMore":true,"nextCursor":"c/1"}`,
		"c/1": `{"data":[],"hasMore":true,"nextCursor":"c2"}`,
		"c2":  `{"data":[` + row("vps_3", "WEB-01") + `],"hasMore":false,"nextCursor":"c3"}`,
	}
	var queries []url.Values
	c := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.Query())
		respond(200, "application/json", pages[r.URL.Query().Get("cursor")])(w, r)
	})
	got, err := c.Servers(t.Context(), ServerFilter{Name: "web-01"})
	if err != nil {
		t.Fatal(err)
	}
	want := []Server{{
		ID: "vps_1", Name: "web-01", ServiceStatus: "active", PowerState: "running", IsPAYG: true, PrimaryIP: "192.0.2.7",
		Size: admission.Resources{CPUCores: 2, MemoryGB: 4, StorageGB: 80, Instances: 1},
	}}
	second := want[0]
	second.ID, second.Name = "vps_3", "WEB-01"
	if diff := cmp.Diff(append(want, second), got); diff != "" {
		t.Errorf("servers (-want +got):\n%s", diff)
	}
	wantQueries := []url.Values{
		{"name": {"web-01"}, "limit": {"100"}},
		{"name": {"web-01"}, "limit": {"100"}, "cursor": {"c/1"}},
		{"name": {"web-01"}, "limit": {"100"}, "cursor": {"c2"}},
	}
	if diff := cmp.Diff(wantQueries, queries); diff != "" {
		t.Errorf("queries (-want +got):\n%s", diff)
	}
}

// TestServersProveNothing: whatever cannot be read is an error and not an
// empty list.
func TestServersProveNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ body, want string }{
		"loop":            {`{"data":[],"hasMore":true,"nextCursor":"again"}`, "twice"},
		"no data":         {`{"hasMore":false}`, "no data"},
		"null data":       {`{"data":null}`, "no data"},
		"other list":      {`{"records":[]}`, "no data"},
		"row without id":  {`{"data":[{"name":"web-01"}]}`, "no id"},
		"row no object":   {`{"data":["vps_1"]}`, "no id"},
		"more, no cursor": {`{"data":[],"hasMore":true,"nextCursor":null}`, "no cursor"},
		"numeric cursor":  {`{"data":[],"nextCursor":7}`, "not a string"},
		"html":            {`<html>`, "documented shape"},
		"cut off":         {`{"data":[`, "documented shape"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, Config{}, respond(200, "application/json", tc.body))
			got, err := c.Servers(t.Context(), ServerFilter{})
			if e := new(Error); !errors.As(err, &e) || got != nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, %v; want %q", got, err, tc.want)
			}
		})
	}
	for name, body := range map[string]string{
		"no paging": `{"data":[]}`, "null": `{"data":[],"nextCursor":null}`, "empty": `{"data":[],"nextCursor":""}`,
	} {
		c := serve(t, Config{}, respond(200, "application/json", body))
		if got, err := c.Servers(t.Context(), ServerFilter{}); err != nil || len(got) != 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestServersEndlessList(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	c := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		respond(200, "application/json", fmt.Sprintf(`{"data":[],"nextCursor":"c%d"}`, n.Add(1)))(w, r)
	})
	if _, err := c.Servers(t.Context(), ServerFilter{}); err == nil || n.Load() != maxPages {
		t.Errorf("%d pages, %v", n.Load(), err)
	}
}

func TestServerAndDetails(t *testing.T) {
	t.Parallel()
	details := `{"id":"vps_1","hostname":"web-01.example.com","serviceStatus":"pending","createdAt":"2026-04-27T12:34:56.000Z",
	"billing":{"isPayg":true},"cpuCores":2,"memoryGb":4,"storageGb":80}`
	c := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.EscapedPath() {
		case "/api/v2/vps/vps_1":
			respond(200, "application/json", `{"id":"vps_1"}`)(w, r)
		case "/api/v2/vps/vps_1/details":
			respond(200, "application/json", `{"data":`+details+`}`)(w, r)
		case "/api/v2/vps/a%2Fb%3Fc":
			respond(200, "application/json", `{"id":"a/b?c"}`)(w, r)
		case "/api/v2/vps/other":
			respond(200, "application/json", `{"id":"vps_1"}`)(w, r)
		default:
			respond(404, "application/problem+json", problemBody(404, "not_found"))(w, r)
		}
	})
	one := admission.Resources{Instances: 1}
	if s, err := c.Server(t.Context(), "vps_1"); err != nil || !cmp.Equal(s, Server{ID: "vps_1", Size: one}) {
		t.Errorf("%+v, %v", s, err)
	}
	want := Server{
		ID: "vps_1", ServiceStatus: "pending", IsPAYG: true, CreatedAt: time.Date(2026, 4, 27, 12, 34, 56, 0, time.UTC),
		Size: admission.Resources{CPUCores: 2, MemoryGB: 4, StorageGB: 80, Instances: 1},
	}
	if s, err := c.ServerDetails(t.Context(), "vps_1"); err != nil || !cmp.Equal(s, want) {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := c.Server(t.Context(), "a/b?c"); err != nil || s.ID != "a/b?c" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := c.Server(t.Context(), "other"); !errors.Is(err, errUnreadable) {
		t.Errorf("another server was taken: %v", err)
	}
	var e *Error
	if _, err := c.Server(t.Context(), "vps_9"); !errors.As(err, &e) || e.StatusCode != http.StatusNotFound || e.Code != "not_found" || e.RequestID != "req_1" {
		t.Errorf("%v", err)
	} else if want := "GET /vps/{id}: 404 not_found: D (request req_1)"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	for _, id := range []string{"", ".", "..", "a b"} {
		if _, err := c.Server(t.Context(), id); !errors.As(err, &e) || e.StatusCode != 0 {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

func TestServerLive(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]bool{
		"active": true, "pending": true, "suspended": true, "unknown": true, "": true, "new-one": true,
		"terminated": false, "cancelled": false, "Expired": false, "fraud": false,
	} {
		if got := (Server{ServiceStatus: status}).Live(); got != want {
			t.Errorf("%q is live: %v", status, got)
		}
	}
}

func TestReadFailures(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		handler         http.HandlerFunc
		auth, throttled bool
		status          int
		retryAfter      time.Duration
	}{
		"401":         {handler: respond(401, "application/problem+json", problemBody(401, "unauthorized")), auth: true, status: 401},
		"403":         {handler: respond(403, "application/problem+json", problemBody(403, "forbidden")), status: 403},
		"403 of edge": {handler: respond(403, "text/html", "<html>"), auth: true, status: 403},
		"500":         {handler: respond(500, "text/plain", ""), status: 500},
		"redirect":    {handler: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, status: 302},
		"hung up":     {handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"cut off":     {handler: cutOff, status: 200},
		"throttled": {handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "7")
			respond(429, "application/json", problemBody(429, "rate_limited"))(w, r)
		}, throttled: true, status: 429, retryAfter: 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			c := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) { calls.Add(1); tc.handler(w, r) })
			_, err := c.Limits(t.Context())
			var e *Error
			if !errors.As(err, &e) {
				t.Fatal(err)
			}
			if e.Auth() != tc.auth || e.Throttled() != tc.throttled || e.StatusCode != tc.status || e.RetryAfter != tc.retryAfter {
				t.Errorf("%+v", e)
			}
			if !strings.HasPrefix(err.Error(), "GET /vps/payg/limits: ") || calls.Load() != 1 {
				t.Errorf("%v after %d calls", err, calls.Load())
			}
		})
	}
}

func cutOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = w.Write([]byte(limitsBody[:100]))
}

func TestReadTimeout(t *testing.T) {
	t.Parallel()
	c := serve(t, Config{ReadTimeout: 30 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if _, err := c.Limits(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
