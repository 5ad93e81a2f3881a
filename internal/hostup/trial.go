package hostup

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Trial is what came of trying whether a server can be found by its name: the
// only way to learn what became of a create call without an answer.
type Trial struct {
	// Foreign counts the servers that were listed for a name that none has.
	Foreign int
	// Server is one that exists; it has no ID when the account has none.
	Server Server
	// Found is whether it was found by its name, Dated whether its details say
	// when it was created.
	Found, Dated bool
}

// TryNames makes such a trial, by reads. Errors are *Error.
func (c *Client) TryNames(ctx context.Context) (Trial, error) {
	const operation = "GET /vps"
	var t Trial
	nobody := "doctor-" + strings.ToLower(rand.Text())
	rows, _, err := c.page(ctx, operation, url.Values{"limit": {strconv.Itoa(pageSize)}, "name": {nobody}})
	if err != nil {
		return t, err
	}
	t.Foreign = len(rows)
	if rows, _, err = c.page(ctx, operation, url.Values{"limit": {"1"}}); err != nil || len(rows) == 0 {
		return t, err
	}
	t.Server = rows[0]
	found, err := c.Servers(ctx, ServerFilter{Name: t.Server.Name})
	if err != nil {
		return t, err
	}
	for _, s := range found {
		t.Found = t.Found || s.ID == t.Server.ID
	}
	details, err := c.ServerDetails(ctx, t.Server.ID)
	if err != nil {
		return t, err
	}
	t.Dated = !details.CreatedAt.IsZero()
	return t, nil
}

// ahead is how far the clock of an answer is ahead of ours. A Date has whole
// seconds and was written between asked and answered: half a second and half of
// that time is what it may be wrong by.
func ahead(h http.Header, asked, answered time.Time) (time.Duration, bool) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0, false
	}
	middle := asked.Add(answered.Sub(asked) / 2)
	return date.Add(time.Second / 2).Sub(middle), true
}
