package hostup

import (
	"net/http"
	"testing"
	"time"
)

func TestAhead(t *testing.T) {
	t.Parallel()
	asked := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for date, want := range map[string]time.Duration{
		// The answer came after two seconds: it was written about 12:00:01.
		"Tue, 01 Dec 2026 12:00:01 GMT": time.Second / 2,
		"Tue, 01 Dec 2026 12:05:01 GMT": 5*time.Minute + time.Second/2,
		"Tue, 01 Dec 2026 11:00:00 GMT": -time.Hour - time.Second/2,
	} {
		if got, ok := ahead(http.Header{"Date": {date}}, asked, asked.Add(2*time.Second)); !ok || got != want {
			t.Errorf("%s is ahead by %s (%t), want %s", date, got, ok, want)
		}
	}
	for _, h := range []http.Header{{}, {"Date": {"today"}}} {
		if got, ok := ahead(h, asked, asked); ok {
			t.Errorf("%v is ahead by %s", h, got)
		}
	}
}
