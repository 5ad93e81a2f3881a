package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// child plays a role of this program other than the suite, until SIGTERM, and
// returns the exit code.
func child(role, task string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch role {
	case "floor":
		err = beFloor(ctx, task)
	case "answerer":
		err = beAnswerer(ctx)
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// account is what the answerer has seen since the last reset.
type account struct {
	Creates int `json:"creates"`
	// Twice counts creates of a name that was created before, Strange what
	// nobody should have asked for.
	Twice   int `json:"twice"`
	Strange int `json:"strange"`
	// Looks counts the look-ups of a name.
	Looks int `json:"looks"`
	// Took is the median time of an answer to a create, as the answerer itself
	// saw it.
	Took time.Duration `json:"took"`
}

// answerer answers in the place of the HostUp API: the simulator, which plays a
// whole account, would take a multiple of the time. It remembers each name and
// answers after a fixed time.
type answerer struct {
	mu      sync.Mutex
	latency time.Duration
	names   map[string]struct{}
	seen    account
	took    []time.Duration
}

// maxTook bounds what the median is made of.
const maxTook = 10_000

const (
	answerLimits = `{"current":{"cpuCores":0,"memoryGb":0,"storageGb":0,"instanceCount":0},` +
		`"max":{"cpuCores":1000000000,"memoryGb":1000000000,"storageGb":1000000000,"instanceCount":1000000000},` +
		`"remaining":{"cpuCores":1000000000,"memoryGb":1000000000,"storageGb":1000000000,"instanceCount":1000000000},` +
		`"billing":{"cpuPerCoreHour":0.12,"memoryPerGbHour":0.04,"storagePerGbHour":0.003,"ipPerHour":0.02,"bandwidthPerGb":0.1,"currencyCode":"SEK"},` +
		`"hasPendingRequests":false,"pendingRequests":[]}`
	answerOptions = `{"available":true,"reason":null,"access":{"available":true,"reason":null,"blockerReasons":[]},` +
		`"actions":{"canDeploy":{"allowed":true,"reason":null}},"regions":[{"id":"stockholm","name":"Stockholm"}]}`
	answerNobody = `{"data":[],"hasMore":false,"nextCursor":null}`
)

func beAnswerer(ctx context.Context) error {
	a := &answerer{names: make(map[string]struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/vps/payg/deployments", a.create)
	mux.HandleFunc("GET /api/v2/vps/payg/limits", func(w http.ResponseWriter, _ *http.Request) { reply(w, answerLimits) })
	mux.HandleFunc("GET /api/v2/vps/payg/deployments", func(w http.ResponseWriter, _ *http.Request) { reply(w, answerOptions) })
	mux.HandleFunc("GET /api/v2/vps", a.look)
	mux.HandleFunc("POST /reset", a.reset)
	mux.HandleFunc("GET /report", a.report)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		a.note(func() { a.seen.Strange++ })
		w.WriteHeader(http.StatusNotFound)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	_, _ = fmt.Fprintf(os.Stdout, `{"address":"http://%s"}`+"\n", l.Addr())
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

func reply(w http.ResponseWriter, body string) {
	w.Header()["Content-Type"] = []string{"application/json"}
	_, _ = io.WriteString(w, body)
}

func (a *answerer) note(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// create buys a server under a name; a second time it does so as well, and
// counts.
func (a *answerer) create(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	body, _ := io.ReadAll(r.Body)
	var order struct {
		Name      string `json:"name"`
		CPUCores  int    `json:"cpuCores"`
		MemoryGB  int    `json:"memoryGb"`
		StorageGB int    `json:"storageGb"`
		Region    string `json:"region"`
	}
	if json.Unmarshal(body, &order) != nil || order.Name == "" || order.Region != region {
		a.note(func() { a.seen.Strange++ })
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	a.mu.Lock()
	wait := a.latency
	if _, there := a.names[order.Name]; there {
		a.seen.Twice++
	}
	a.names[order.Name] = struct{}{}
	a.seen.Creates++
	n := a.seen.Creates
	a.mu.Unlock()
	if wait > 0 {
		t := time.NewTimer(wait - time.Since(began))
		<-t.C
	}
	id := strconv.Itoa(1_000_000_000 + n)
	w.Header()["Content-Type"] = []string{"application/json"}
	w.WriteHeader(http.StatusCreated)
	_, _ = fmt.Fprintf(w, `{"status":"provisioning","vpsId":"vps_01hxabcdefghjkmnpq%s","orderId":"ord_01hxabcdefghjkmnpq%s","invoiceId":"inv_01hxabcdefghjkmnpq%s",`+
		`"deployment":{"name":%q,"region":%q,"resources":{"cpuCores":%d,"memoryGb":%d,"storageGb":%d}}}`,
		id, id, id, order.Name, order.Region, order.CPUCores, order.MemoryGB, order.StorageGB)
	a.note(func() {
		if len(a.took) < maxTook {
			a.took = append(a.took, time.Since(began))
		}
	})
}

// look answers that nobody has a name. Nothing here makes a worker look up what
// it has created.
func (a *answerer) look(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.seen.Looks++
	if _, there := a.names[r.URL.Query().Get("name")]; there {
		a.seen.Strange++
	}
	a.mu.Unlock()
	reply(w, answerNobody)
}

func (a *answerer) reset(w http.ResponseWriter, r *http.Request) {
	wait, err := time.ParseDuration(r.URL.Query().Get("latency"))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a.note(func() {
		a.latency, a.seen, a.took = wait, account{}, nil
		clear(a.names)
	})
}

func (a *answerer) report(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	seen := a.seen
	seen.Took = quantile(a.took, 0.5)
	a.mu.Unlock()
	_ = json.NewEncoder(w).Encode(seen)
}
