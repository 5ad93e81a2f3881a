package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

type healthCmd struct {
	AdminAddr string        `name:"admin-addr" env:"WORKER_ADMIN_ADDR" default:"127.0.0.1:9090" help:"Admin address of the worker that is asked; without a host it is this one."`
	Ready     bool          `name:"ready" env:"WORKER_HEALTH_READY" help:"Ask whether it can take requests (/readyz), not only whether it lives (/healthz)."`
	Timeout   time.Duration `name:"timeout" env:"WORKER_HEALTH_TIMEOUT" default:"3s" help:"Longest wait for the answer."`
	outputFlag
}

// Help is printed below the flags' summary.
func (*healthCmd) Help() string {
	return `Examples:
  worker health                                does the worker on this machine live?
  worker health --ready                        can it take requests?
  worker health --admin-addr 10.0.0.7:9090     another one

Exit code 0 when it does, 1 when it does not or does not answer. It is what the container image asks for
its health: there is no shell and no curl in it.`
}

func (c *healthCmd) validate() error {
	return positive("WORKER_HEALTH_TIMEOUT", c.Timeout)
}

// health is what a worker says of itself.
type health struct {
	Healthy bool   `json:"healthy"`
	URL     string `json:"url"`
	// Status is that of the answer, 0 without one.
	Status int     `json:"status"`
	Detail string  `json:"detail,omitempty"`
	Checks []check `json:"checks,omitempty"`
}

// Run asks a running worker how it is.
func (c *healthCmd) Run(ctx context.Context, t *terminal) error {
	if c.AdminAddr == "" {
		return errors.New("WORKER_ADMIN_ADDR is empty: the worker has no admin server to ask")
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	page := "/healthz"
	if c.Ready {
		page = "/readyz"
	}
	h := askHealth(ctx, "http://"+c.AdminAddr+page)
	err := printOne(t.out, c.outputFlag, h, func() error { return h.print(t.out) })
	if err == nil && !h.Healthy {
		err = quietError{errors.New("not healthy")}
	}
	return err
}

// healthMost bounds what is read of an answer.
const healthMost = 64 << 10

func askHealth(ctx context.Context, url string) health {
	h := health{URL: url}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		h.Detail = err.Error()
		return h
	}
	// No proxy: what is asked for is near.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		h.Detail = err.Error()
		return h
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, healthMost))
	if err != nil {
		h.Detail = err.Error()
		return h
	}
	h.Status, h.Healthy = resp.StatusCode, resp.StatusCode == http.StatusOK
	var answer struct {
		Checks []check `json:"checks"`
	}
	if json.Unmarshal(body, &answer) == nil {
		h.Checks = answer.Checks
	}
	if len(h.Checks) == 0 {
		h.Detail = strings.TrimSpace(string(body))
	}
	return h
}

func (h health) print(w io.Writer) error {
	word := "healthy"
	if !h.Healthy {
		word = "NOT healthy"
	}
	if _, err := fmt.Fprintf(w, "%s: %s (%s)\n", word, h.URL, h.answer()); err != nil {
		return err
	}
	for _, c := range h.Checks {
		if c.OK {
			continue
		}
		if _, err := fmt.Fprintf(w, "  %s: %s\n", c.Name, oneLine(c.Detail)); err != nil {
			return err
		}
	}
	return nil
}

// answer is the status and what came with it, or why there is none.
func (h health) answer() string {
	switch {
	case h.Status == 0:
		return oneLine(h.Detail)
	case h.Detail == "":
		return strconv.Itoa(h.Status)
	default:
		return fmt.Sprintf("%d %s", h.Status, oneLine(h.Detail))
	}
}
