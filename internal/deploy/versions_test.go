package deploy

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/proctest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// The next version of the worker has one more member in every struct that is
// stored, which counts how often it was written by a version that knows it. It
// is this version with these changes: of the files that have such a struct, and
// of encode, through which all that is stored goes.
var (
	stored   = regexp.MustCompile("(?m)^\tNewer +string +`json:\"-\"`.*$")
	isStored = "$0\n\tTouched int `json:\"touched,omitempty\"`"

	encode   = "func encode(v any) ([]byte, error) {\n"
	isCopied = strings.NewReplacer(
		"mine.Newer = current.Newer", "mine.Newer, mine.Touched = current.Newer, current.Touched",
		"row{Newer: current.Newer}", "row{Newer: current.Newer, Touched: current.Touched}",
		"Spend{Since: now, Newer: s.Newer}", "Spend{Since: now, Newer: s.Newer, Touched: s.Touched}",
		encode, encode+"\tv = touched(v)\n",
	)
)

const touched = `
func touched(v any) any {
	at := reflect.ValueOf(v)
	if at.Kind() != reflect.Pointer {
		at = reflect.New(at.Type())
		at.Elem().Set(reflect.ValueOf(v))
	}
	touch(at)
	return at.Interface()
}

func touch(v reflect.Value) {
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		touch(v.Elem())
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			touch(v.Index(i))
		}
	case v.Kind() == reflect.Struct:
		if f := v.FieldByName("Touched"); f.IsValid() {
			f.SetInt(f.Int() + 1)
		}
		for _, i := range shapeOf(v.Type()).nested {
			touch(v.Field(i))
		}
	}
}
`

// buildVersions builds the worker, and the next version of it.
func buildVersions(t *testing.T) (older, newer string) {
	t.Helper()
	dir := t.TempDir()
	replaced := make(map[string]string)
	for _, pattern := range []string{"admission/*.go", "ledger/*.go", "provision/*.go"} {
		files, err := filepath.Glob(filepath.Join(root(t), "internal", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			after := isCopied.Replace(stored.ReplaceAllString(string(before), isStored))
			if strings.Contains(after, encode) {
				after += touched
			}
			if strings.HasSuffix(file, "_test.go") || after == string(before) {
				continue
			}
			changed := filepath.Join(dir, fmt.Sprintf("%d.go", len(replaced)))
			replaced[file] = changed
			if err := os.WriteFile(changed, []byte(after), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	// As in a release, which has built most of it.
	const build = "CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' "
	must(t, root(t), build+`-o "$TO/older" ./cmd/worker && `+build+`-overlay "$TO/overlay.json" -o "$TO/newer" ./cmd/worker`, "TO="+dir)
	return filepath.Join(dir, "older"), filepath.Join(dir, "newer")
}

// sideBySide is a broker and an account with workers of two versions.
type sideBySide struct {
	t        *testing.T
	children proctest.Children
	env      []string
	js       jetstream.JetStream
	sim      *simulator.Server
	orders   map[string]string // name by key

	mu   sync.Mutex
	ends map[string]map[string]bool // ids of outcomes by key
	rows map[string]map[string]any  // what was stored last
	// handed counts by kind of row how often the older version wrote over the
	// newer one and kept what that had written.
	handed map[string]int
}

// Workers of two versions work on one ledger at the same time, and either is
// taken away again: every order is served once, and what the newer version
// writes into records, names and the rows of the fleet is never lost to the
// older one, which does not know what it means.
func TestTwoVersions(t *testing.T) {
	t.Parallel()
	if !*all {
		t.Log("only with -deploy")
		return
	}
	older, newer := buildVersions(t)
	s := newSideBySide(t)
	s.setUp(older)
	s.watch()
	old, next := s.start(older), s.start(newer)
	for wave := 0; wave == 0 || s.seen("rec") == 0 || s.seen("name") == 0; wave++ {
		if wave == 20 {
			t.Fatalf("in %d waves the older version had to do with %v of the newer", wave, s.handed)
		}
		s.place(fmt.Sprint(wave))
	}
	s.end(next)
	s.place("older")
	next = s.start(newer)
	s.end(old)
	s.place("newer")
	s.end(next)

	if len(s.handed) < 3 {
		t.Errorf("the older version wrote over the newer's %v; records, names and what the fleet shares were to be seen", s.handed)
	}
	t.Logf("%d orders; the older version wrote over the newer's %v", len(s.orders), s.handed)
	s.judge()
}

func newSideBySide(t *testing.T) *sideBySide {
	t.Helper()
	s := &sideBySide{
		t: t, sim: simulator.New(simulator.Config{Latency: 10 * time.Millisecond}), orders: make(map[string]string),
		ends: make(map[string]map[string]bool), rows: make(map[string]map[string]any), handed: make(map[string]int),
	}
	srv := brokertest.Start(t)
	_, s.js = brokertest.Connect(t, srv)
	api := httptest.NewServer(s.sim)
	t.Cleanup(func() { _ = s.sim.Close(); api.Close() })
	t.Cleanup(s.children.KillAll)
	s.env = []string{
		"NATS_URL=" + srv.URL, "HOSTUP_API_URL=" + api.URL + "/api/v2", "HOSTUP_API_TOKEN=sim-token", "HOME=" + t.TempDir(),
		"HOSTUP_CREATE_TIMEOUT=1s", "WORKER_SETTLE_ANSWERED=1s", "WORKER_SETTLE_UNANSWERED=1s", "WORKER_SETTLE_READS=3",
		// What waits is given back, and taken by whoever comes.
		"WORKER_INLINE_WAIT=10ms", "WORKER_ACK_WAIT=2s", "WORKER_CONCURRENCY=4", "WORKER_BREAKER_UNKNOWNS=0",
		"WORKER_MAX_CREATES_PER_HOUR=100000", "WORKER_ADMIN_ADDR=", "WORKER_LOG_FORMAT=json",
	}
	return s
}

// setUp makes the streams and the ledger.
func (s *sideBySide) setUp(program string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), program, "setup")
	cmd.Env = s.env
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("worker setup: %v\n%s", err, out)
	}
}

// start starts a worker and waits until it says so.
func (s *sideBySide) start(program string) *proctest.Child {
	s.t.Helper()
	ready := make(chan struct{})
	tell := sync.OnceFunc(func() { close(ready) })
	log := &proctest.LogBook{Listen: func(line string) {
		if strings.Contains(line, `"msg":"worker started"`) {
			tell()
		}
	}}
	cmd := exec.CommandContext(s.t.Context(), program, "run")
	cmd.Env = s.env
	p, err := s.children.Start(cmd, log)
	if err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-ready:
	case <-p.Done:
		s.t.Fatalf("%s ended: %s", program, log.Tail())
	}
	return p
}

// end takes a worker away as an upgrade does.
func (s *sideBySide) end(p *proctest.Child) {
	s.t.Helper()
	p.Signal(syscall.SIGTERM)
	<-p.Done
	if code := p.Cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Fatalf("a worker ended with %d: %s", code, p.Log.Tail())
	}
}

// watch follows what is stored in the ledger, and the outcomes.
func (s *sideBySide) watch() {
	s.t.Helper()
	ctx := s.t.Context()
	for stream, hear := range map[string]func(jetstream.Msg){"KV_deploy-ledger": s.row, "DEPLOY_EVENTS": s.event} {
		c, err := s.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
		if err != nil {
			s.t.Fatal(err)
		}
		follows, err := c.Consume(func(m jetstream.Msg) {
			s.mu.Lock()
			defer s.mu.Unlock()
			hear(m)
		})
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { follows.Stop(); <-follows.Closed() })
	}
}

func (s *sideBySide) event(m jetstream.Msg) {
	key := m.Headers().Get("ce-subject")
	if s.ends[key] == nil {
		s.ends[key] = make(map[string]bool)
	}
	s.ends[key][m.Headers().Get("ce-id")] = true
}

// row compares what was stored with what was there before. The newer version
// counts each of its writes, so a row whose count is the same was written by the
// older one.
func (s *sideBySide) row(m jetstream.Msg) {
	key := strings.TrimPrefix(m.Subject(), "$KV.deploy-ledger.")
	var row map[string]any
	if err := json.Unmarshal(m.Data(), &row); err != nil {
		s.t.Errorf("%s: %v: %s", key, err, m.Data())
		return
	}
	before, kind := s.rows[key], key[:strings.IndexByte(key, '.')]
	s.rows[key] = row
	if at := lost(before, row, kind); at != "" {
		s.t.Errorf("%s has lost what the newer version wrote at %q:\nbefore %v\nafter  %v", key, at, before, row)
	}
	if before["touched"] != nil && before["touched"] == row["touched"] {
		s.handed[kind]++
	}
}

// lost is where a part was touched less often than before, "" if nowhere. Parts
// that are gone with what they told of are not lost.
func lost(before, after any, path string) string {
	switch b := before.(type) {
	case map[string]any:
		a, _ := after.(map[string]any)
		if n, is := b["touched"].(float64); is && a != nil {
			if m, _ := a["touched"].(float64); m < n {
				return path
			}
		}
		for name := range a {
			if at := lost(b[name], a[name], path+"."+name); at != "" {
				return at
			}
		}
	case []any:
		a, _ := after.([]any)
		if strings.HasPrefix(path, "ctl") {
			return "" // counts move up when the oldest are over
		}
		for i := range min(len(a), len(b)) {
			if at := lost(b[i], a[i], fmt.Sprintf("%s[%d]", path, i)); at != "" {
				return at
			}
		}
	}
	return ""
}

func (s *sideBySide) seen(kind string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handed[kind]
}

// place orders servers and waits for the outcomes. Some names are new and have
// a create that goes wrong once, others are used again and again.
func (s *sideBySide) place(wave string) {
	s.t.Helper()
	names := []string{"again-0", "again-1", "again-2", "again-3", "plain-" + wave}
	for _, fault := range []string{"cut-before", "cut-after", "429-retry-after-1", "503"} {
		names = append(names, "fault-"+fault+"-x1-"+wave)
	}
	for _, name := range names {
		key := name + "/" + wave
		s.orders[key] = name
		body := fmt.Appendf(nil, `{"idempotencyKey":%q,"name":%q,"cpuCores":1,"memoryGb":1,"storageGb":50,"region":"stockholm"}`, key, name)
		if _, err := s.js.PublishMsg(s.t.Context(), &nats.Msg{Subject: "deploy.requested", Data: body}); err != nil {
			s.t.Fatal(err)
		}
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(2 * time.Minute)
	for s.open() > 0 {
		select {
		case <-again.C:
		case <-deadline:
			s.t.Fatalf("%d orders have no outcome", s.open())
		}
	}
}

func (s *sideBySide) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.orders) - len(s.ends)
}

// judge holds the account's invoices and the events against the orders.
func (s *sideBySide) judge() {
	s.t.Helper()
	want, got := make(map[string]int), make(map[string]int)
	for key, name := range s.orders {
		want[name]++
		if len(s.ends[key]) != 1 {
			s.t.Errorf("%s has the outcomes %v", key, s.ends[key])
		}
	}
	for _, i := range s.sim.Invoices() {
		got[i.Name]++
	}
	if !maps.Equal(want, got) {
		s.t.Errorf("servers by name: %v, want %v", got, want)
	}
}
