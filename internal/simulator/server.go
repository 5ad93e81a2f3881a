package simulator

import (
	"maps"
	"net/http"
	"slices"
	"sync"
)

// Server is the simulated API: an http.Handler for everything below /api/v2
// and /_sim. All methods may be called at any time from any goroutine.
//
// Faults abort connections by panicking with http.ErrAbortHandler, which
// net/http understands; who calls ServeHTTP without it must recover.
type Server struct {
	mux    *http.ServeMux
	closed chan struct{}
	close  func()

	mu       sync.Mutex
	cfg      Config
	ids      idSource
	account  account
	faults   injector
	rate     windows
	creates  createLog
	requests map[string]int
	late     map[*lateEffect]struct{}
}

var _ http.Handler = (*Server)(nil)

// New returns a simulator of an empty account. It panics if cfg.Validate
// fails.
func New(cfg Config) *Server {
	if err := cfg.Validate(); err != nil {
		panic("simulator: " + err.Error())
	}
	cfg = cfg.withDefaults()
	closed := make(chan struct{})
	s := &Server{
		mux:      http.NewServeMux(),
		closed:   closed,
		close:    sync.OnceFunc(func() { close(closed) }),
		cfg:      cfg,
		ids:      newIDSource(cfg.Seed),
		account:  newAccount(),
		faults:   newInjector(),
		creates:  newCreateLog(),
		requests: map[string]int{},
		late:     map[*lateEffect]struct{}{},
	}
	for _, e := range endpoints {
		s.mux.HandleFunc(e.method+" "+basePath+e.path, func(w http.ResponseWriter, r *http.Request) {
			s.serve(e, w, r)
		})
	}
	s.routeControl()
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.serve(endpoint{name: "unknown", handle: (*exchange).unknown}, w, r)
	})
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close ends every request that hangs or waits, without an answer, and every
// later one that would. What was recorded stays readable. It never fails and
// may be called more than once; call it before http.Server.Shutdown.
func (s *Server) Close() error {
	s.close()
	return nil
}

// Update changes the configuration between two requests. change gets a copy
// and must not call the Server; if the result is not valid nothing happens and the error of Validate is
// returned. Slices must be replaced, not modified. Zeros are taken as they are,
// except an empty token, clock, region list or log size, which become the
// default. New values of Faults or Fault start counting and drawing anew, a new
// Rate starts a new window; Seed has no effect on ids any more.
func (s *Server) Update(change func(*Config)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg := s.cfg
	change(&cfg)
	if err := cfg.Validate(); err != nil {
		return err
	}
	filled := cfg.withDefaults()
	filled.Limits, filled.Prices, filled.ProvisionTime = cfg.Limits, cfg.Prices, cfg.ProvisionTime
	if !slices.Equal(filled.Faults, s.cfg.Faults) || filled.Fault != s.cfg.Fault {
		s.faults = newInjector()
	}
	if filled.Rate != s.cfg.Rate {
		s.rate.end()
	}
	s.cfg = filled
	return nil
}

// config returns the current configuration. Nobody modifies its slices.
func (s *Server) config() Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg
}

// Invoices returns every purchase so far, oldest first. They are never
// forgotten.
func (s *Server) Invoices() []Invoice {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.account.invoices)
}

// Creates returns the log of create calls, oldest first, at most
// Config.KeepCreates of them. Other requests are only counted.
func (s *Server) Creates() []Create {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.creates.last(s.cfg.KeepCreates)
}

// Servers returns the whole inventory as it is now, oldest first, also what
// the API does not show yet and what was cancelled.
func (s *Server) Servers() []VPS {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	all := make([]VPS, len(s.account.servers))
	for i, v := range s.account.servers {
		all[i] = v.at(now)
	}
	return all
}

// Plant puts a server into the inventory that nobody bought through the API. It
// is visible at once and, if it is PAYG and live, counts against the limits.
// Empty fields are filled in: an id, active, created now, the default region. An
// id must be new.
func (s *Server) Plant(v VPS) (VPS, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plant(v)
}

// Stats are counters since New.
type Stats struct {
	// Requests counts by endpoint: the targets of rules, and unknown.
	Requests map[string]int `json:"requests"`
	// Outcomes counts creates by Create.Outcome.
	Outcomes map[string]int `json:"outcomes"`
	// Creates counts POSTs, Invoices what they bought.
	Creates  int `json:"creates"`
	Invoices int `json:"invoices"`
	// Servers counts the inventory, dead ones too; Used is what counts against
	// the limits.
	Servers int    `json:"servers"`
	Used    Limits `json:"used"`
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Requests: maps.Clone(s.requests),
		Outcomes: maps.Clone(s.creates.outcomes),
		Creates:  s.requests[targetCreates],
		Invoices: len(s.account.invoices),
		Servers:  len(s.account.servers),
		Used:     s.account.used,
	}
}
