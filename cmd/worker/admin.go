package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/provision"
)

// check is one line of /readyz.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// The checks that are about what the worker may do, not about itself.
const (
	checkAuth  = "auth"
	checkBrake = "brake"
)

// blindPatience is how long the fleet's rows may be out of sight, as they are
// whenever a leader changes.
const blindPatience = 15 * time.Second

// readiness says whether the worker can take requests now (contract section
// 6). draining is closed when the process is ending.
func (e *engine) readiness(draining <-chan struct{}) []check {
	nc := check{Name: "nats", OK: e.nc.Status() == nats.CONNECTED, Detail: e.nc.Status().String()}
	bound := check{Name: "consumer", OK: e.consumer.Bound(), Detail: e.settings.Stream + "/" + e.settings.Consumer}
	if !bound.OK {
		bound.Detail += " is not bound"
	}
	auth := check{Name: checkAuth, OK: true, Detail: "the API key has not been refused"}
	if c, closed := e.gate.Closed(); closed && c.Reason == provision.WaitAuth {
		auth = check{Name: checkAuth, Detail: "HostUp refuses the API key; the queue is held until it works"}
	}
	pause := check{Name: checkBrake, OK: true, Detail: "off"}
	if b, on := e.gate.Braked(); on {
		pause = check{Name: checkBrake, Detail: fmt.Sprintf("creates were paused by %s: %s; `worker resume --reason …` lifts it", b.By, b.Reason)}
	}
	fleet := check{Name: "fleet", OK: true, Detail: "the rows that the fleet shares are watched"}
	if blind := e.gate.Blind(); blind > blindPatience {
		fleet = check{Name: "fleet", Detail: fmt.Sprintf("the ledger's rows have not been seen for %s; no create is made until they are", blind.Round(time.Second))}
	}
	drain := check{Name: "draining", OK: true, Detail: "no"}
	select {
	case <-draining:
		drain = check{Name: "draining", Detail: "the process is ending"}
	default:
	}
	return []check{nc, bound, auth, pause, fleet, drain}
}

// adminHandler serves health, metrics and version.
func (e *engine) adminHandler(draining <-chan struct{}) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		checks := e.readiness(draining)
		ready, status := true, http.StatusOK
		for _, c := range checks {
			ready = ready && c.OK
		}
		if !ready {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, map[string]any{"ready": ready, "checks": checks})
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"version": version, "commit": revision(), "go": runtime.Version()})
	})
	mux.Handle("GET /metrics", e.tel.Handler())
	return mux
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) //nolint:errchkjson // plain structs; what can fail is a client that went away
}

// serve answers HTTP on addr until stop is called. An empty addr serves
// nothing.
func serve(ctx context.Context, addr, variable string, h http.Handler) (listening string, stop func(), err error) {
	if addr == "" {
		return "", func() {}, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return "", nil, fmt.Errorf("%s=%q: %w; choose another address, for example 127.0.0.1:0 for any free port", variable, addr, err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			// The listener broke; the health checks notice.
			_ = l.Close()
		}
	}()
	return l.Addr().String(), func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
		<-done
	}, nil
}
