package hostup

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// parseRate reads X-RateLimit-Limit, -Remaining and -Reset. HostUp documents
// them for a 429 only, but they mean the same on any answer. Without a limit,
// or with numbers that cannot be, it returns nothing; what remains counts as 0
// when it is not said. The reset counts from the answer's own Date, which has
// whole seconds, so it is up to one second late and never early.
func parseRate(h http.Header, now time.Time, longest time.Duration) admission.Rate {
	limit, ok := count(h.Get("X-Ratelimit-Limit"))
	if !ok || limit == 0 {
		return admission.Rate{}
	}
	remaining, _ := count(h.Get("X-Ratelimit-Remaining"))
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	var w wait
	if s := strings.TrimSpace(h.Get("X-Ratelimit-Reset")); s != "" {
		w.take(rateLimitReset(s, now), longest)
	}
	return admission.Rate{Limit: limit, Remaining: min(remaining, limit), Reset: w.length}
}

// maxCount bounds a number of requests; more is as good as no limit.
const maxCount = 1 << 30

// count reads a number of requests.
func count(s string) (int, bool) {
	s = strings.TrimSpace(s)
	if !digits(s) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > maxCount {
		return maxCount, true
	}
	return int(n), true
}
