package simulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"
)

// routeControl adds the endpoints for other processes: a test suite, a shell, a
// crash harness. They need no token and no fault touches them, so the listener
// belongs on loopback.
func (s *Server) routeControl() {
	get := func(path string, read func() any) {
		s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			writeControl(w, http.StatusOK, read())
		})
	}
	get("/_sim/invoices", func() any { return s.Invoices() })
	get("/_sim/creates", func() any { return s.Creates() })
	get("/_sim/servers", func() any { return s.Servers() })
	get("/_sim/windows", func() any { return s.Windows() })
	get("/_sim/stats", func() any { return s.Stats() })
	get("/_sim/config", func() any { return settingsOf(s.config()) })
	s.mux.HandleFunc("POST /_sim/config", s.postConfig)
	s.mux.HandleFunc("POST /_sim/servers", s.postServer)
}

func writeControl(w http.ResponseWriter, status int, body any) {
	raw := encode(body)
	if string(raw) == "null\n" {
		raw = []byte("[]\n")
	}
	w.Header().Set(headerContentType, contentTypeJSON)
	w.WriteHeader(status)
	_, _ = w.Write(raw) // a client that is gone wants nothing
}

func writeControlError(w http.ResponseWriter, err error) {
	writeControl(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
}

// settings is the part of Config that POST /_sim/config can change. A patch is
// decoded over the current values, so that absent members stay.
type settings struct {
	Token          string   `json:"token"`
	Scopes         []string `json:"scopes"`
	Limits         Limits   `json:"limits"`
	Prices         Prices   `json:"prices"`
	Regions        []string `json:"regions"`
	CanDeploy      bool     `json:"canDeploy"`
	Reason         string   `json:"reason"`
	BlockerReasons []string `json:"blockerReasons"`
	Latency        duration `json:"latency"`
	VisibilityLag  duration `json:"visibilityLag"`
	ProvisionTime  duration `json:"provisionTime"`
	Rate           struct {
		Limit       int      `json:"limit"`
		Window      duration `json:"window"`
		CreatesOnly bool     `json:"createsOnly"`
		Quiet       bool     `json:"quiet"`
		Aligned     bool     `json:"aligned"`
	} `json:"rate"`
	Faults []Rule `json:"faults"`
	Fault  Fault  `json:"fault"`
}

// duration is a time.Duration in Go syntax.
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = duration(v)
	return err
}

// settingsOf copies the slices: decoding over them would write into those that
// requests are reading.
func settingsOf(c Config) settings {
	v := settings{
		Token: c.Token, Scopes: slices.Clone(c.Scopes), Limits: c.Limits, Prices: c.Prices, Regions: slices.Clone(c.Regions),
		CanDeploy: !c.Gate.Closed, Reason: c.Gate.Reason, BlockerReasons: append([]string{}, c.Gate.BlockerReasons...),
		Latency: duration(c.Latency), VisibilityLag: duration(c.VisibilityLag), ProvisionTime: duration(c.ProvisionTime),
		Faults: append([]Rule{}, c.Faults...), Fault: c.Fault,
	}
	v.Rate.Limit, v.Rate.Window, v.Rate.CreatesOnly = c.Rate.Limit, duration(c.Rate.Window), c.Rate.CreatesOnly
	v.Rate.Quiet, v.Rate.Aligned = c.Rate.Quiet, c.Rate.Aligned
	return v
}

func (v settings) apply(c *Config) {
	c.Token, c.Scopes, c.Limits, c.Prices, c.Regions = v.Token, v.Scopes, v.Limits, v.Prices, v.Regions
	c.Gate = Gate{Closed: !v.CanDeploy, Reason: v.Reason, BlockerReasons: v.BlockerReasons}
	c.Latency, c.VisibilityLag = time.Duration(v.Latency), time.Duration(v.VisibilityLag)
	c.ProvisionTime = time.Duration(v.ProvisionTime)
	c.Rate = Rate{v.Rate.Limit, time.Duration(v.Rate.Window), v.Rate.CreatesOnly, v.Rate.Quiet, v.Rate.Aligned}
	c.Faults, c.Fault = v.Faults, v.Fault
}

// postConfig applies a patch as a whole or not at all and answers with the
// result.
func (s *Server) postConfig(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		writeControlError(w, err)
		return
	}
	var bad error
	err = s.Update(func(c *Config) {
		v := settingsOf(*c)
		if bad = decodeStrict(body, &v); bad == nil {
			v.apply(c)
		}
	})
	if err := errors.Join(bad, err); err != nil {
		writeControlError(w, err)
		return
	}
	writeControl(w, http.StatusOK, settingsOf(s.config()))
}

// postServer is Plant. A server is PAYG unless the body says otherwise.
func (s *Server) postServer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		writeControlError(w, err)
		return
	}
	var v struct {
		VPS
		Resources // the members of a create body, at the top

		Sizes  *Resources `json:"resources"`
		Status string     `json:"status"`
	}
	v.IsPayg = true
	if err := decodeStrict(body, &v); err != nil {
		writeControlError(w, err)
		return
	}
	if v.Sizes != nil {
		v.Resources = *v.Sizes
	}
	v.VPS.Resources = v.Resources
	if v.Status != "" {
		v.VPS.Status = v.Status
	}
	planted, err := s.Plant(v.VPS)
	if err != nil {
		writeControlError(w, err)
		return
	}
	writeControl(w, http.StatusCreated, planted)
}

func decodeStrict(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	return d.Decode(v)
}
