package proctest

import (
	"testing"
	"time"
)

func TestPulse(t *testing.T) {
	t.Parallel()
	var p Pulse
	at := func(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }
	p.beat(at(0), at(pulseEvery+pulseKept-1))
	p.beat(at(0), at(pulseEvery+time.Second))
	p.beat(at(2*time.Second), at(2*time.Second+pulseEvery+100*time.Millisecond))
	if len(p.stops) != 2 {
		t.Fatalf("stops %v", p.stops)
	}
	for since, want := range map[time.Duration]time.Duration{0: time.Second, 2 * time.Second: 100 * time.Millisecond, time.Minute: 0} {
		if got := p.Worst(at(since)); got != want {
			t.Errorf("worst since %s is %s, want %s", since, got, want)
		}
	}
}
