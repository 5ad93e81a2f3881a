package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// diskFlags say where the servers tell what a client cannot ask them.
type diskFlags struct {
	NATSMonitor string `name:"nats-monitor" env:"WORKER_NATS_MONITOR" placeholder:"URL" help:"Monitoring addresses of the NATS servers, like http://n1:8222, separated by commas; their sync_interval is read there."`
}

// enoughReplicas is from how many replicas on a confirmed write outlives the
// power of one server.
const enoughReplicas = 3

// maxVarz bounds the answer of a monitoring address, in bytes.
const maxVarz = 4 << 20

// synced is what one server says of how it writes.
type synced struct {
	Name      string `json:"server_name"`
	JetStream struct {
		Config *struct {
			Interval time.Duration `json:"sync_interval"`
			Always   bool          `json:"sync_always"`
		} `json:"config"`
	} `json:"jetstream"`
}

// disks examines how soon each server brings to the disk what it has confirmed.
// It returns whether all of them do so at once.
func (d *doctor) disks(ctx context.Context, addresses string) (always bool) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	always = addresses != ""
	for address := range strings.SplitSeq(addresses, ",") {
		if address = strings.TrimSpace(address); address == "" {
			continue
		}
		s, err := varz(ctx, strings.TrimRight(address, "/")+"/varz")
		check := "sync-interval " + s.Name
		switch {
		case err != nil:
			always = false
			d.say("sync-interval", checkWarn, err.Error(), "let WORKER_NATS_MONITOR name the http address of each server's monitoring (nats-server -m 8222)")
		case s.JetStream.Config == nil:
			always = false
			d.say(check, checkWarn, "JetStream is off on this server", "leave its address out, or turn JetStream on")
		case s.JetStream.Config.Always:
			d.okf(check, "always: what is confirmed is on the disk")
		default:
			always = false
			d.okf(check, "%s: on this server alone a loss of power takes back what was confirmed since", s.JetStream.Config.Interval)
		}
	}
	return always
}

func varz(ctx context.Context, url string) (synced, error) {
	var s synced
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return s, fmt.Errorf("ask a server how it writes: %w", err)
	}
	resp, err := (&http.Client{Timeout: stepTimeout, Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return s, fmt.Errorf("ask a server how it writes: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("ask a server how it writes: %s answered %s", url, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxVarz)).Decode(&s); err != nil {
		return s, fmt.Errorf("ask a server how it writes: %s: %w", url, err)
	}
	return s, nil
}
