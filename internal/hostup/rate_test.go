package hostup

import (
	"net/http"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		limit, remaining, reset string
		want                    admission.Rate
	}{
		"Documented":    {"60", "12", "2026-11-23T12:00:30.500Z", admission.Rate{Limit: 60, Remaining: 12, Reset: 30*time.Second + 500*time.Millisecond}},
		"Epoch":         {"60", "0", "1795435230", admission.Rate{Limit: 60, Reset: 30 * time.Second}},
		"NoReset":       {"60", "12", "", admission.Rate{Limit: 60, Remaining: 12}},
		"PastReset":     {"60", "12", "2026-11-23T11:00:00Z", admission.Rate{Limit: 60, Remaining: 12}},
		"FarReset":      {"60", "12", "2036-11-23T12:00:00Z", admission.Rate{Limit: 60, Remaining: 12, Reset: time.Hour}},
		"NoRemaining":   {"60", "", "", admission.Rate{Limit: 60}},
		"MoreThanLimit": {"60", "99", "", admission.Rate{Limit: 60, Remaining: 60}},
		"Huge":          {"99999999999999999999", "1", "", admission.Rate{Limit: maxCount, Remaining: 1}},
		"NoLimit":       {"", "12", "2026-11-23T12:00:30Z", admission.Rate{}},
		"ZeroLimit":     {"0", "0", "", admission.Rate{}},
		"NegativeLimit": {"-5", "3", "", admission.Rate{}},
		"Garbage":       {"sixty", "x", "soon", admission.Rate{}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := http.Header{"Date": {now.Format(http.TimeFormat)}}
			for header, v := range map[string]string{"X-RateLimit-Limit": tc.limit, "X-RateLimit-Remaining": tc.remaining, "X-RateLimit-Reset": tc.reset} {
				if v != "" {
					h.Set(header, v)
				}
			}
			if got := parseRate(h, now.Add(-time.Hour), time.Hour); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}
