package hostup

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

func vpsRow(id, name, status string, payg bool) string {
	return fmt.Sprintf(`{"id":%q,"name":%q,"serviceStatus":%q,"powerState":"running","resources":{"cpuCores":2,"memoryGb":4,"storageGb":80},"billing":{"isPayg":%v}}`, id, name, status, payg)
}

func vpsPage(cursor string, rows ...string) string {
	return fmt.Sprintf(`{"data":[%s],"hasMore":%v,"nextCursor":%q}`, strings.Join(rows, ","), cursor != "", cursor)
}

// TestInventoryNamed: all pages, the name in any case, and everything that the
// core judges by.
func TestInventoryNamed(t *testing.T) {
	t.Parallel()
	var asked []string
	inv := NewInventory(serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Query().Get("name")+"/"+r.URL.Query().Get("cursor"))
		body := vpsPage("p2", vpsRow("vps_1", "web-01", "active", true), vpsRow("vps_2", "web-02", "active", true))
		if r.URL.Query().Get("cursor") == "p2" {
			body = vpsPage("", vpsRow("vps_3", "WEB-01", "terminated", false), vpsRow("vps_4", "web-01", "pending", true))
		}
		respond(200, "application/json", body)(w, r)
	}))
	got, err := inv.Named(t.Context(), "web-01")
	if err != nil {
		t.Fatal(err)
	}
	row := func(id, name string, live, payg bool) provision.Server {
		return provision.Server{ID: id, Name: name, Live: live, PAYG: payg, CPUCores: 2, MemoryGB: 4, StorageGB: 80}
	}
	want := []provision.Server{row("vps_1", "web-01", true, true), row("vps_3", "WEB-01", false, false), row("vps_4", "web-01", true, true)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"web-01/", "web-01/p2"}, asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if all, err := inv.All(t.Context()); err != nil || len(all) != 4 || asked[2] != "/" {
		t.Errorf("all: %d, %v, asked %q", len(all), err, asked)
	}
}

// TestInventoryNamedFailsWhole: a list that may be incomplete is no list, and
// every error is a ReadError that tells what the core goes by.
func TestInventoryNamedFailsWhole(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		second http.HandlerFunc
		want   provision.ReadError
	}{
		"500":        {respond(500, "application/problem+json", problemBody(500, "internal")), provision.ReadError{Status: 500}},
		"html":       {respond(200, "text/html", "<html>"), provision.ReadError{Status: 200}},
		"no data":    {respond(200, "application/json", `{}`), provision.ReadError{Status: 200}},
		"no id":      {respond(200, "application/json", `{"data":[{"name":"web-01"}],"hasMore":false}`), provision.ReadError{Status: 200}},
		"same again": {respond(200, "application/json", vpsPage("p2")), provision.ReadError{Status: 200}},
		"no cursor":  {respond(200, "application/json", `{"data":[],"hasMore":true}`), provision.ReadError{Status: 200}},
		"404":        {respond(404, "application/problem+json", problemBody(404, "not_found")), provision.ReadError{Status: 404}},
		"401":        {respond(401, "application/problem+json", problemBody(401, "unauthorized")), provision.ReadError{Status: 401, Auth: true}},
		"429": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		}, provision.ReadError{Status: 429, Throttled: true, RetryAfter: 7 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inv := NewInventory(serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("cursor") != "" {
					tc.second(w, r)
					return
				}
				respond(200, "application/json", vpsPage("p2", vpsRow("vps_1", "web-01", "active", true)))(w, r)
			}))
			got, err := inv.Named(t.Context(), "web-01")
			checkReadError(t, err, tc.want)
			if got != nil {
				t.Errorf("a part of the list was returned: %+v", got)
			}
		})
	}
}

func checkReadError(t *testing.T, err error, want provision.ReadError) {
	t.Helper()
	var re *provision.ReadError
	if !errors.As(err, &re) || re.Err == nil {
		t.Fatalf("%v is no ReadError", err)
	}
	got := *re
	got.Err, got.Problem = nil, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestInventoryByID: a server that is not there is not live; not being able to
// say is an error.
func TestInventoryByID(t *testing.T) {
	t.Parallel()
	inv := NewInventory(serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		switch id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]; id {
		case "vps_1":
			respond(200, "application/json", vpsRow(id, "web-01", "active", true))(w, r)
		case "vps_2":
			respond(200, "application/json", vpsRow(id, "web-01", "cancelled", true))(w, r)
		case "vps_3":
			respond(200, "application/json", vpsRow("vps_1", "web-01", "active", true))(w, r)
		case "vps_5":
			respond(503, "text/html", "<html>")(w, r)
		default:
			respond(404, "application/problem+json", problemBody(404, "not_found"))(w, r)
		}
	}))
	for id, live := range map[string]bool{"vps_1": true, "vps_2": false, "vps_4": false, "../limits": false} {
		s, err := inv.ByID(t.Context(), id)
		if err != nil || s.ID != id || s.Live != live {
			t.Errorf("%s: %+v, %v", id, s, err)
		}
	}
	for id, status := range map[string]int{"vps_3": 200, "vps_5": 503, "": 0} {
		s, err := inv.ByID(t.Context(), id)
		if err == nil {
			t.Errorf("%q: %+v", id, s)
			continue
		}
		checkReadError(t, err, provision.ReadError{Status: status})
	}
}

// TestInventoryCreatedAt: what HostUp does not say is zero; a server that has
// no details yet is an error, not a server without a birthday.
func TestInventoryCreatedAt(t *testing.T) {
	t.Parallel()
	bodies := map[string]string{
		"vps_1": `{"id":"vps_1","createdAt":"2026-04-27T12:00:00Z"}`, "vps_2": `{"id":"vps_2"}`,
		"vps_3": `{"id":"vps_3","createdAt":"soon"}`, "vps_4": `{"id":"vps_4","createdAt":null}`,
		"vps_5": `{"id":"vps_5","createdAt":"2026-04-27T14:00:00.5+02:00"}`,
	}
	inv := NewInventory(serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(r.URL.Path, "/")
		body, ok := bodies[parts[len(parts)-2]]
		if !ok || parts[len(parts)-1] != "details" {
			respond(404, "application/problem+json", problemBody(404, "not_found"))(w, r)
			return
		}
		respond(200, "application/json", body)(w, r)
	}))
	noon := time.Date(2026, 4, 27, 12, 0, 0, 0, time.UTC)
	for id, want := range map[string]time.Time{"vps_1": noon, "vps_2": {}, "vps_3": {}, "vps_4": {}, "vps_5": noon.Add(500 * time.Millisecond)} {
		if got, err := inv.CreatedAt(t.Context(), id); err != nil || !got.Equal(want) {
			t.Errorf("%s: %s, %v; want %s", id, got, err, want)
		}
	}
	_, err := inv.CreatedAt(t.Context(), "vps_6")
	checkReadError(t, err, provision.ReadError{Status: 404})
}
