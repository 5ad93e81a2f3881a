package hostup

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// wait is how long an answer asks us to wait.
type wait struct {
	// length is from 0, when there is no usable wish, to the maximum.
	length time.Duration
	// clamped is set when the wish was longer than the maximum, ignored when
	// a header was there but zero, negative, past or unreadable.
	clamped bool
	ignored bool
}

// parseWait reads Retry-After (seconds or an HTTP date) and, with withReset,
// X-RateLimit-Reset (RFC 3339, or seconds or milliseconds since 1970) when the
// former gave nothing. The reset header only means "wait" in a 429; other
// answers may carry it as information. Dates count from the answer's own Date,
// if it has one, so that the two clocks need not agree.
func parseWait(h http.Header, now time.Time, longest time.Duration, withReset bool) wait {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	var w wait
	if s := strings.TrimSpace(h.Get("Retry-After")); s != "" {
		if w.take(retryAfter(s, now), longest) {
			return w
		}
	}
	if s := strings.TrimSpace(h.Get("X-Ratelimit-Reset")); s != "" && withReset {
		w.take(rateLimitReset(s, now), longest)
	}
	return w
}

// take uses d if it is positive, and says whether it was.
func (w *wait) take(d, longest time.Duration) bool {
	if d <= 0 {
		w.ignored = true
		return false
	}
	w.clamped = d > longest
	w.length = min(d, longest)
	return true
}

// retryAfter returns 0 or less for what cannot be used.
func retryAfter(s string, now time.Time) time.Duration {
	if d, ok := seconds(s); ok {
		return d
	}
	if t, err := http.ParseTime(s); err == nil {
		return t.Sub(now) // saturates
	}
	return 0
}

// rateLimitReset returns 0 or less for what cannot be used.
func rateLimitReset(s string, now time.Time) time.Duration {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.Sub(now)
	}
	if t, err := http.ParseTime(s); err == nil {
		return t.Sub(now)
	}
	// The 1st of January 1970 is past, and what is above is in milliseconds
	// from the year 5138 on if it were seconds.
	const firstMillis = 100_000_000_000
	whole, _, _ := strings.Cut(s, ".")
	if !digits(whole) {
		return 0
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	switch {
	case err != nil: // beyond 64 bits
		return forever
	case n < firstMillis:
		return time.Unix(n, 0).Sub(now)
	default:
		return time.UnixMilli(n).Sub(now)
	}
}

const forever = time.Duration(1<<63 - 1)

// seconds reads a decimal number of seconds of any length, rounded up to a
// whole one.
func seconds(s string) (time.Duration, bool) {
	whole, fraction, dot := strings.Cut(s, ".")
	if !digits(whole) || (dot && !digits(fraction)) {
		return 0, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n >= int64(forever/time.Second) {
		return forever, true
	}
	if strings.Trim(fraction, "0") != "" {
		n++
	}
	return time.Duration(n) * time.Second, true
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
