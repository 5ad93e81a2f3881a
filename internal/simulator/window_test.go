package simulator

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQuietRateLimit(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Now: newClock().Now, Rate: Rate{Limit: 1, Window: time.Hour, Quiet: true}})
	for name := range r.get(limitsPath).want(t, 200).header {
		if strings.HasPrefix(name, "X-Ratelimit") || name == "Retry-After" {
			t.Errorf("an answer inside the limit has %s", name)
		}
	}
	h := r.get(limitsPath).want(t, 429).header
	if h.Get("Retry-After") != "3600" || h.Get(headerRateLimit) != "1" || h.Get(headerRateRemaining) != "0" || h.Get(headerRateReset) == "" {
		t.Errorf("the refusal has %v", h)
	}
}

// The windows are the witness of how well a client uses a rate.
func TestWindows(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := start(t, Config{Now: c.Now, Rate: Rate{Limit: 2, Window: time.Minute}})
	opened := c.Now()
	r.create("web-01").want(t, 201)
	r.get(limitsPath).want(t, 200)
	r.create("web-02").want(t, 429)
	r.get(limitsPath).want(t, 429)
	c.advance(time.Minute + time.Second)
	r.create("web-02").want(t, 201)
	if err := r.sim.Update(func(c *Config) { c.Rate.Limit = 3 }); err != nil {
		t.Fatal(err)
	}
	r.create("web-03").want(t, 201)
	reopened := opened.Add(time.Minute + time.Second)
	want := []Window{
		{Opened: opened, Ends: opened.Add(time.Minute), Limit: 2, Accepted: 2, Refused: 2, Creates: 1, CreatesRefused: 1},
		{Opened: reopened, Ends: reopened.Add(time.Minute), Limit: 2, Accepted: 1, Creates: 1},
		{Opened: reopened, Ends: reopened.Add(time.Minute), Limit: 3, Accepted: 1, Creates: 1},
	}
	if got := r.sim.Windows(); !slices.Equal(got, want) {
		t.Errorf("windows are\n%+v, want\n%+v", got, want)
	}
}

// An aligned window begins and ends with the clock, whenever a request comes.
func TestAlignedWindows(t *testing.T) {
	t.Parallel()
	c := newClock()
	began := c.Now().Truncate(time.Minute).Add(time.Minute)
	c.advance(began.Sub(c.Now()) + 50*time.Second)
	r := start(t, Config{Now: c.Now, Rate: Rate{Limit: 1, Window: time.Minute, Aligned: true}})
	h := r.create("web-01").want(t, 201).header
	if reset := h.Get(headerRateReset); reset != iso(began.Add(time.Minute)) {
		t.Errorf("the window ends at %s", reset)
	}
	if wait := r.create("web-02").want(t, 429).header.Get("Retry-After"); wait != "10" {
		t.Errorf("Retry-After %s", wait)
	}
	c.advance(10 * time.Second)
	r.create("web-02").want(t, 201)
	c.advance(3 * time.Minute)
	r.create("web-03").want(t, 201)
	want := []Window{
		{Opened: began, Ends: began.Add(time.Minute), Limit: 1, Accepted: 1, Refused: 1, Creates: 1, CreatesRefused: 1},
		{Opened: began.Add(time.Minute), Ends: began.Add(2 * time.Minute), Limit: 1, Accepted: 1, Creates: 1},
		{Opened: began.Add(4 * time.Minute), Ends: began.Add(5 * time.Minute), Limit: 1, Accepted: 1, Creates: 1},
	}
	if got := r.sim.Windows(); !slices.Equal(got, want) {
		t.Errorf("windows are\n%+v, want\n%+v", got, want)
	}
}
