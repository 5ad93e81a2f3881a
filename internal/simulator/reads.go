package simulator

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Page sizes of the list, as the sibling lists document them.
const (
	defaultPage = 20
	maxPage     = 100
)

func success(body any) answer { return answer{http.StatusOK, body} }

func notFound() answer { return refuse(newProblem(http.StatusNotFound, "")) }

func (x *exchange) unknown() answer { return notFound() }

func (x *exchange) limits() answer {
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	return success(limitsAnswer{
		Current: s.account.used, Max: s.cfg.Limits, Remaining: s.cfg.Limits.sub(s.account.used),
		Billing: s.cfg.Prices, PendingRequests: []struct{}{},
	})
}

func (x *exchange) options() answer {
	gate := x.cfg.Gate
	if !gate.Closed {
		gate = Gate{}
	}
	reason, blockers := orNull(gate.Reason), append([]string{}, gate.BlockerReasons...)
	o := optionsAnswer{
		Available: !gate.Closed,
		Reason:    reason,
		Access: accessAnswer{
			Available: !gate.Closed, Reason: reason, CountryCode: "SE", CountryPaymentAvailable: true, RequiresCard: true,
			HasCard:            !slices.Contains(blockers, "no_card_on_file"),
			Verified:           !slices.Contains(blockers, "not_verified"),
			CloudAccessEnabled: !slices.Contains(blockers, "no_cloud_access"),
			BlockerReasons:     blockers,
		},
		Pricing: x.cfg.Prices,
		Limits:  documentedSizes,
	}
	o.Actions.CanDeploy.Allowed, o.Actions.CanDeploy.Reason = !gate.Closed, reason
	o.Defaults.RegionID, o.Defaults.Resources = x.cfg.Regions[0], Resources{CPUCores: 2, MemoryGB: 4, StorageGB: 80}
	for _, id := range x.cfg.Regions {
		o.Regions = append(o.Regions, regionAnswer{ID: id, Name: strings.ToUpper(id[:1]) + id[1:]})
	}
	return success(o)
}

// listQuery is the query of GET /vps.
type listQuery struct {
	name, primaryIP string
	limit, start    int // start is the sequence of the first server of the page
	maintenance     bool
}

const cursorPrefix = "seq:"

func encodeCursor(sequence int) string {
	return base64.RawURLEncoding.EncodeToString([]byte(cursorPrefix + strconv.Itoa(sequence)))
}

func decodeCursor(cursor string) (sequence int, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	text, mine := strings.CutPrefix(string(raw), cursorPrefix)
	n, errNumber := strconv.Atoi(text)
	return n, err == nil && mine && errNumber == nil && n >= 0
}

func (x *exchange) parseList() answer {
	values := x.r.URL.Query()
	q := listQuery{name: values.Get("name"), primaryIP: values.Get("primaryIp"), limit: defaultPage}
	if text := values.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPage {
			return invalid(invalidField("/limit", "`limit` must be between 1 and 100."))
		}
		q.limit = n
	}
	for _, include := range values["include"] {
		if include != "pendingMaintenance" {
			return invalid(invalidField("/include", "`include` must be pendingMaintenance."))
		}
		q.maintenance = true
	}
	if cursor := values.Get("cursor"); cursor != "" {
		n, ok := decodeCursor(cursor)
		if !ok {
			return refuse(newProblem(http.StatusBadRequest, "invalid_cursor"))
		}
		q.start = n
	}
	x.query, x.name = q, q.name
	return answer{}
}

func (x *exchange) list() answer {
	q, s := x.query, x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	candidates := s.account.servers
	if q.name != "" {
		candidates = s.account.byName[strings.ToLower(q.name)]
	}
	from, _ := slices.BinarySearchFunc(candidates, q.start, func(v *server, start int) int { return v.sequence - start })
	page := listAnswer{Data: []serverAnswer{}}
	for _, v := range candidates[from:] {
		if now.Before(v.visibleAt) || q.primaryIP != "" && v.at(now).PrimaryIP != q.primaryIP {
			continue
		}
		if len(page.Data) == q.limit {
			page.HasMore, page.NextCursor = true, new(encodeCursor(v.sequence))
			break
		}
		item := s.describe(v.at(now))
		if q.maintenance {
			item.maintenanceAnswer = &maintenanceAnswer{}
		}
		page.Data = append(page.Data, item)
	}
	return success(page)
}

// describe returns the documented inventory shape. The caller holds mu.
func (s *Server) describe(v VPS) serverAnswer {
	item := serverAnswer{
		ID: v.ID, Name: v.Name, PrimaryIP: orNull(v.PrimaryIP), ServiceStatus: v.Status, PowerState: v.PowerState,
		Billing: s.billing(v), Resources: v.Resources,
	}
	if v.PowerState == powerRunning {
		item.OperatingSystem = &systemAnswer{DisplayName: "Debian 13", Family: "debian", Version: "13"}
	}
	return item
}

// billing of a PAYG server says monthly and 0: the account is billed by the
// hour. The caller holds mu.
func (s *Server) billing(v VPS) billingAnswer {
	return billingAnswer{CurrencyCode: s.cfg.Prices.CurrencyCode, BillingCycle: "monthly", IsPayg: v.IsPayg}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// withServer answers from the server that the path names, or 404.
func (x *exchange) withServer(describe func(VPS) any) answer {
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	v, found := s.account.visible(x.r.PathValue("id"), now)
	if !found {
		return notFound()
	}
	return success(describe(v.at(now)))
}

func (x *exchange) get() answer {
	return x.withServer(func(v VPS) any { return x.s.describe(v) })
}

func (x *exchange) details() answer {
	return x.withServer(func(v VPS) any {
		status := v.Status
		if status == "expired" || status == "fraud" { // not in this endpoint's enum
			status = "unknown"
		}
		return detailsAnswer{
			ID: v.ID, Hostname: v.Name, ServiceStatus: status, CreatedAt: iso(v.CreatedAt),
			Billing: x.s.billing(v), Resources: v.Resources,
		}
	})
}

func (x *exchange) status() answer {
	return x.withServer(func(v VPS) any {
		a := statusAnswer{
			ID: v.ID, PowerState: v.PowerState, CPUCores: v.Resources.CPUCores,
			Memory: usageAnswer{TotalGB: v.Resources.MemoryGB}, Storage: usageAnswer{TotalGB: v.Resources.StorageGB},
			PendingTasks: []struct{}{},
		}
		if v.PowerState == powerRunning {
			a.UptimeSeconds = new(int(x.cfg.Now().Sub(v.CreatedAt).Seconds()))
		}
		return a
	})
}
