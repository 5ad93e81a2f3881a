package hostup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

const (
	// pageSize is the largest that GET /vps allows.
	pageSize = 100
	// maxPages ends a list that does not end by itself.
	maxPages = 1000
)

// Server is one row of the account's inventory. All members but ID are
// optional in the API and zero when it did not give them.
type Server struct {
	ID   string
	Name string
	// ServiceStatus is active, suspended, terminated, pending, cancelled,
	// expired, fraud or unknown.
	ServiceStatus string
	// PowerState is running, stopped, starting, stopping, paused,
	// provisioning, error or unknown.
	PowerState string
	// IsPAYG tells pay-as-you-go servers from those with a fixed cycle.
	IsPAYG bool
	// Size has cores, GiB of memory and GiB of storage, rounded to whole
	// ones, and counts one instance.
	Size      admission.Resources
	PrimaryIP string
	// CreatedAt is only told by ServerDetails.
	CreatedAt time.Time
}

// Live reports whether the server may still exist and cost money: it is not
// terminated, cancelled, expired or fraud. A status that is unknown or absent
// is live, because absence has to be proved.
func (s Server) Live() bool {
	switch strings.ToLower(s.ServiceStatus) {
	case "terminated", "cancelled", "expired", "fraud":
		return false
	default:
		return true
	}
}

// ServerFilter selects servers. The zero value selects all.
type ServerFilter struct {
	// Name is the whole name, in any case.
	Name string
}

// Servers reads all pages of GET /vps. It fails rather than return a list that
// may be incomplete - a page or a row that cannot be read, a cursor that comes
// twice, more than 1000 pages - because callers take a missing server for
// proof that it does not exist. Each page has the read timeout to itself; ctx
// bounds the whole. Errors are *Error.
func (c *Client) Servers(ctx context.Context, f ServerFilter) ([]Server, error) {
	const operation = "GET /vps"
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	if f.Name != "" {
		query.Set("name", f.Name)
	}
	var all []Server
	seen := map[string]bool{}
	for range maxPages {
		rows, cursor, err := c.page(ctx, operation, query)
		if err != nil {
			return nil, err
		}
		for _, s := range rows {
			// The filter is asked of HostUp; it is not relied upon.
			if f.Name == "" || strings.EqualFold(s.Name, f.Name) {
				all = append(all, s)
			}
		}
		if cursor == "" {
			return all, nil
		}
		if seen[cursor] {
			return nil, &Error{Operation: operation, StatusCode: 200, Err: errors.New("the list repeats itself: a cursor came twice")}
		}
		seen[cursor] = true
		query.Set("cursor", cursor)
	}
	return nil, &Error{Operation: operation, StatusCode: 200, Err: fmt.Errorf("the list has more than %d pages", maxPages)}
}

// page reads one page of the list.
func (c *Client) page(ctx context.Context, operation string, query url.Values) ([]Server, string, error) {
	body, err := c.get(ctx, operation, query, "vps")
	if err != nil {
		return nil, "", err
	}
	rows, cursor, err := pageOf(body)
	if err != nil {
		return nil, "", &Error{Operation: operation, StatusCode: 200, Err: err}
	}
	return rows, cursor, nil
}

// pageOf returns the rows of a page and the cursor of the next one, "" after
// the last. A page that says that there is more, and not where, is an error.
func pageOf(body []byte) ([]Server, string, error) {
	page, ok := parseObject(body)
	if !ok {
		return nil, "", errUnreadable
	}
	data, ok := page.array("data")
	if !ok {
		return nil, "", fmt.Errorf("%w: there is no data", errUnreadable)
	}
	rows := make([]Server, 0, len(data))
	for _, raw := range data {
		s, err := serverOf(raw)
		if err != nil {
			return nil, "", err
		}
		rows = append(rows, s)
	}
	cursor := page.text("nextCursor")
	more, told := page.boolean("hasMore")
	switch {
	case told && !more:
		return rows, "", nil
	case more && cursor == "":
		return nil, "", fmt.Errorf("%w: there are more pages but no cursor", errUnreadable)
	case cursor == "" && len(page["nextCursor"]) > 0 && string(page["nextCursor"]) != "null" && string(page["nextCursor"]) != `""`:
		return nil, "", fmt.Errorf("%w: the cursor is not a string", errUnreadable)
	}
	return rows, cursor, nil
}

// Server reads GET /vps/{id}. A server that does not exist, is not the
// account's, or was created a moment ago, is an *Error with StatusCode 404.
// All errors are *Error.
func (c *Client) Server(ctx context.Context, id string) (Server, error) {
	return c.server(ctx, "GET /vps/{id}", id, "vps", id)
}

// ServerDetails reads GET /vps/{id}/details, the only place that tells
// CreatedAt. It does not tell the name. Errors are as with Server.
func (c *Client) ServerDetails(ctx context.Context, id string) (Server, error) {
	return c.server(ctx, "GET /vps/{id}/details", id, "vps", id, "details")
}

func (c *Client) server(ctx context.Context, operation, id string, path ...string) (Server, error) {
	if !usableID(id) {
		return Server{}, &Error{Operation: operation, Err: fmt.Errorf("%q cannot be the id of a server", id)}
	}
	o, err := c.getObject(ctx, operation, "id", path...)
	if err != nil {
		return Server{}, err
	}
	if o.text("id") != id {
		return Server{}, unreadable(operation)
	}
	return serverFrom(o), nil
}

func serverOf(raw json.RawMessage) (Server, error) {
	o, ok := parseObject(raw)
	if !ok || o.text("id") == "" {
		return Server{}, fmt.Errorf("%w: a server has no id", errUnreadable)
	}
	return serverFrom(o), nil
}

// serverFrom reads both forms: rows have the size under resources, details
// have it at the top.
func serverFrom(o object) Server {
	size := o
	if r := o.object("resources"); r != nil {
		size = r
	}
	rounded := func(name string) int64 {
		f, _ := size.number(name)
		return int64(math.Round(max(-Unlimited, min(f, Unlimited))))
	}
	payg, _ := o.object("billing").boolean("isPayg")
	return Server{
		ID: o.text("id"), Name: o.text("name"), ServiceStatus: o.text("serviceStatus"), PowerState: o.text("powerState"),
		IsPAYG: payg, PrimaryIP: o.text("primaryIp"), CreatedAt: o.time("createdAt"),
		Size: admission.Resources{
			CPUCores: rounded("cpuCores"), MemoryGB: rounded("memoryGb"), StorageGB: rounded("storageGb"), Instances: 1,
		},
	}
}
