package simulator

import (
	"slices"
	"time"
)

// Window is one window of the rate limit and what it did with the requests
// that came in it.
type Window struct {
	// Opened is when its first request came, or when an aligned one began, Ends
	// when it stops counting. Those in which no request came are not told.
	Opened time.Time `json:"opened"`
	Ends   time.Time `json:"ends"`
	Limit  int       `json:"limit"`
	// Accepted and Refused count requests, Creates and CreatesRefused those
	// among them that are creates.
	Accepted       int `json:"accepted"`
	Refused        int `json:"refused"`
	Creates        int `json:"creates"`
	CreatesRefused int `json:"createsRefused"`
}

// keepWindows bounds the list of windows; the oldest are forgotten first.
const keepWindows = 10_000

// windows are those of a Rate; the last one runs unless it was ended. They are
// guarded by Server.mu.
type windows struct {
	list  []Window
	ended bool
}

// Windows returns the windows of the rate limit that requests have opened so
// far, oldest first. The last one may be running.
func (s *Server) Windows() []Window {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rate.list)
}

// end makes the next request open a window.
func (w *windows) end() { w.ended = true }

// take counts one request. It returns what is left, when the window ends and
// whether the request was inside the limit.
func (w *windows) take(rate Rate, create bool, now time.Time) (left int, reset time.Time, ok bool) {
	last := len(w.list) - 1
	if last < 0 || w.ended || !now.Before(w.list[last].Ends) || now.Before(w.list[last].Opened) {
		if len(w.list) >= 2*keepWindows {
			w.list = slices.Clone(w.list[keepWindows:])
		}
		opened := now
		if rate.Aligned {
			opened = now.Truncate(rate.Window)
		}
		w.list = append(w.list, Window{Opened: opened, Ends: opened.Add(rate.Window), Limit: rate.Limit})
		w.ended = false
		last = len(w.list) - 1
	}
	v := &w.list[last]
	ok = v.Accepted < rate.Limit
	switch {
	case ok && create:
		v.Accepted++
		v.Creates++
	case ok:
		v.Accepted++
	case create:
		v.Refused++
		v.CreatesRefused++
	default:
		v.Refused++
	}
	return max(0, rate.Limit-v.Accepted), v.Ends, ok
}
