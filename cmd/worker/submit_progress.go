package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/hostup/deploy-worker/internal/batch"
)

const (
	// How often progress is told: drawn on a terminal, written elsewhere.
	drawEvery = 100 * time.Millisecond
	tellEvery = 5 * time.Second
	// paceSpan is the time over which the rate is taken.
	paceSpan = 10 * time.Second
	// The bar has what the words leave of the line, between these.
	shortestBar, longestBar = 8, 60
	// echoed is what a terminal writes behind the line for Ctrl-C, and the cursor.
	echoed = 3
)

// progress tells how far a submission is, until it is stopped: a bar on a
// terminal, a line now and then elsewhere. Only stderr is used.
type progress struct {
	to      io.Writer
	live    bool
	colours bool
	verb    string
	// outcomes are told when somebody waits for them.
	outcomes bool
	counts   func() batch.Counts
	done     func(batch.Counts) int
	pace     pace

	end   chan struct{}
	ended sync.WaitGroup
}

// progress begins to tell.
func (s *submission) progress(verb string, done func(batch.Counts) int) *progress {
	p := &progress{
		to: s.t.err, live: isTerminal(s.t.err) && os.Getenv("TERM") != "dumb", colours: colourful(s.t.err),
		verb: verb, outcomes: s.Wait, counts: s.batch.Counts, done: done, end: make(chan struct{}),
	}
	if !s.Quiet {
		p.ended.Go(p.run)
	}
	return p
}

func (p *progress) run() {
	every := tellEvery
	if p.live {
		every = drawEvery
	}
	p.pace.add(time.Now(), p.done(p.counts()))
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			c := p.counts()
			p.pace.add(now, p.done(c))
			if p.live {
				_, _ = fmt.Fprint(p.to, "\r\x1b[K"+p.line(c, width(p.to)-echoed))
			} else {
				_, _ = fmt.Fprintln(p.to, "worker: "+p.words(c))
			}
		case <-p.end:
			if p.live {
				_, _ = fmt.Fprint(p.to, "\r\x1b[K")
			}
			return
		}
	}
}

// stop ends it and leaves the line empty.
func (p *progress) stop() {
	close(p.end)
	p.ended.Wait()
}

// rest is how fast it goes and how long it still takes, as far as can be said.
func (p *progress) rest(c batch.Counts) (rate, eta string) {
	perSecond := p.pace.perSecond()
	if perSecond <= 0 {
		return "", ""
	}
	rate = fmt.Sprintf("%.0f/s", perSecond)
	if perSecond < 10 {
		rate = fmt.Sprintf("%.1f/s", perSecond)
	}
	left := math.Ceil(float64(c.Orders-p.done(c)) / perSecond)
	return rate, span(max(time.Duration(left)*time.Second, time.Second))
}

// words are progress in a sentence.
func (p *progress) words(c batch.Counts) string {
	said := fmt.Sprintf("%s: %d of %d", p.verb, p.done(c), c.Orders)
	if p.outcomes {
		said += fmt.Sprintf(", %d provisioning, %d failed, %d held", c.Provisioning, c.Failed, c.Held)
	}
	if rate, eta := p.rest(c); rate != "" {
		said += fmt.Sprintf(", %s, about %s left", rate, eta)
	}
	return said
}

// line is progress in one line of so many columns at most.
func (p *progress) line(c batch.Counts, columns int) string {
	done := p.done(c)
	parts := []string{fmt.Sprintf("%s %d/%d", p.verb, done, c.Orders)}
	add := func(name string, n int, colour text.Color) {
		part := fmt.Sprintf("%s %d", name, n)
		if p.colours && n > 0 {
			part = colour.EscapeSeq() + part + text.EscapeReset
		}
		parts = append(parts, part)
	}
	if p.outcomes {
		add("done", c.Provisioning, text.FgGreen)
		add("failed", c.Failed, text.FgRed)
		add("held", c.Held, text.FgMagenta)
	}
	if rate, eta := p.rest(c); rate != "" {
		parts = append(parts, rate, "ETA "+eta)
	}
	// What is least needed gives way on a narrow terminal.
	for len(parts) > 1 && text.StringWidthWithoutEscSequences(strings.Join(parts, "  ")) > columns {
		parts = parts[:len(parts)-1]
	}
	said := strings.Join(parts, "  ")
	long := min(columns-text.StringWidthWithoutEscSequences(said)-2, longestBar)
	if long < shortestBar {
		return said
	}
	filled := 0
	if c.Orders > 0 {
		filled = long * done / c.Orders
	}
	return strings.Repeat("█", filled) + strings.Repeat("░", long-filled) + "  " + said
}

// pace is how fast a count has grown lately.
type pace struct {
	at    []time.Time
	count []int
}

func (p *pace) add(at time.Time, count int) {
	p.at, p.count = append(p.at, at), append(p.count, count)
	for len(p.at) > 2 && at.Sub(p.at[0]) > paceSpan {
		p.at, p.count = p.at[1:], p.count[1:]
	}
}

// perSecond is 0 when nothing can be said.
func (p *pace) perSecond() float64 {
	if len(p.at) < 2 {
		return 0
	}
	last := len(p.at) - 1
	took := p.at[last].Sub(p.at[0]).Seconds()
	if took <= 0 {
		return 0
	}
	return float64(p.count[last]-p.count[0]) / took
}
