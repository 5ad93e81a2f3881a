package simulator

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a simulator on loopback with a client that never resends by itself.
type rig struct {
	t      *testing.T
	sim    *Server
	url    string
	client *http.Client
}

func start(t *testing.T, cfg Config) *rig {
	t.Helper()
	sim := New(cfg)
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	t.Cleanup(func() { _ = sim.Close() })
	return &rig{t, sim, server.URL, &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// reply is an answer, or the error of getting it; body holds what was read.
type reply struct {
	status int
	header http.Header
	body   string
	err    error
}

func (r *rig) do(method, path, body string, change ...func(*http.Request)) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer sim-token")
	for _, c := range change {
		c(req)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(raw), err}
}

const (
	createPath = "/api/v2/vps/payg/deployments"
	listPath   = "/api/v2/vps"
	limitsPath = "/api/v2/vps/payg/limits"
)

func createBody(name string) string {
	return `{"name":"` + name + `","cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm"}`
}

func (r *rig) create(name string) reply {
	r.t.Helper()
	return r.do("POST", createPath, createBody(name))
}

func (r *rig) get(path string) reply {
	r.t.Helper()
	return r.do("GET", path, "")
}

func (got reply) want(t *testing.T, status int) reply {
	t.Helper()
	if got.err != nil || got.status != status {
		t.Fatalf("got %d %v %s, want %d", got.status, got.err, got.body, status)
	}
	return got
}

func decode[T any](t *testing.T, got reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(got.body), &v); err != nil {
		t.Fatalf("body %q: %v", got.body, err)
	}
	return v
}

// page is what tests read of a list.
type page struct {
	Data []struct {
		ID, Name, ServiceStatus, PowerState string
		PrimaryIP                           *string
	}
	HasMore    bool
	NextCursor *string
}

// clock is a time that moves only when told.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 4, 27, 12, 34, 56, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
