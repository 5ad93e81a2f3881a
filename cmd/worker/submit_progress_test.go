package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/hostup/deploy-worker/internal/batch"
)

func TestProgressLine(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	p := &progress{verb: "waiting", outcomes: true, done: batch.Counts.Answered}
	p.pace.add(begun, 3000)
	p.pace.add(begun.Add(5*time.Second), 4500)
	c := batch.Counts{Orders: 10_000, Sent: 10_000, Provisioning: 4490, Failed: 10, Held: 2}
	for columns, want := range map[int]string{
		160: strings.Repeat("█", 27) + strings.Repeat("░", 33) + "  waiting 4500/10000  done 4490  failed 10  held 2  300/s  ETA 19s",
		80:  strings.Repeat("█", 6) + strings.Repeat("░", 8) + "  waiting 4500/10000  done 4490  failed 10  held 2  300/s  ETA 19s",
		70:  "waiting 4500/10000  done 4490  failed 10  held 2  300/s  ETA 19s",
		50:  "waiting 4500/10000  done 4490  failed 10  held 2",
		10:  "waiting 4500/10000",
	} {
		if got := p.line(c, columns); got != want {
			t.Errorf("%d columns: %q\nwant %q", columns, got, want)
		}
	}
	p.colours = true
	if got := p.line(c, 80); !strings.Contains(got, text.FgRed.EscapeSeq()+"failed 10") || text.StringWidthWithoutEscSequences(got) > 80 {
		t.Errorf("in colours: %q", got)
	}
	if got, want := p.words(c), "waiting: 4500 of 10000, 4490 provisioning, 10 failed, 2 held, 300/s, about 19s left"; got != want {
		t.Errorf("in words: %q, want %q", got, want)
	}
	// Without a rate nothing is said of it, and nothing of no orders.
	slow := &progress{verb: "sending", done: func(c batch.Counts) int { return c.Sent }}
	if got, want := slow.line(batch.Counts{}, 60), strings.Repeat("░", 47)+"  sending 0/0"; got != want {
		t.Errorf("at first: %q, want %q", got, want)
	}
}

// The rate is that of the last seconds.
func TestPace(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	var p pace
	for second := range 60 {
		p.add(begun.Add(time.Duration(second)*time.Second), min(second, 30)*100)
	}
	if got := p.perSecond(); got != 0 {
		t.Errorf("%.1f/s after half a minute of nothing", got)
	}
	p.add(begun.Add(60*time.Second), 3100)
	if got := p.perSecond(); got != 10 {
		t.Errorf("%.1f/s, want 10", got)
	}
	if len(p.at) > 12 {
		t.Errorf("it remembers %d moments", len(p.at))
	}
}

// Elsewhere than on a terminal a line comes now and then, and none when nobody
// wants it.
func TestProgressInLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := &submission{submitCmd: &submitCmd{Wait: true}, t: &terminal{err: &out}, batch: &batch.Batch{}}
		p := s.progress("waiting", batch.Counts.Answered)
		time.Sleep(11 * time.Second)
		p.stop()
		if got, want := out.String(), strings.Repeat("worker: waiting: 0 of 0, 0 provisioning, 0 failed, 0 held\n", 2); got != want {
			t.Errorf("it told %q", got)
		}
		out.Reset()
		s.Quiet = true
		p = s.progress("waiting", batch.Counts.Answered)
		time.Sleep(11 * time.Second)
		p.stop()
		if out.Len() > 0 {
			t.Errorf("it told %q", out.String())
		}
	})
}
