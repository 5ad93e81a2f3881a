package simulator

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// documentedSizes are the bounds of one server, whatever the account may have.
var documentedSizes = sizeBounds{CPUCores: bounds{1, 32}, MemoryGB: bounds{1, 256}, StorageGB: bounds{50, 2000}}

// order is the body of a create.
type order struct {
	name, region string
	resources    Resources
}

// parseCreate checks the body by the documented bounds and reports everything
// that is wrong with it at once.
func (x *exchange) parseCreate() answer {
	b, ok := parseObject(x.body)
	if !ok {
		return invalid(invalidField("", "The body must be a JSON object."))
	}
	o := order{
		name:   b.text("name"),
		region: b.text("region"),
		resources: Resources{
			CPUCores:  b.integer("cpuCores", documentedSizes.CPUCores),
			MemoryGB:  b.integer("memoryGb", documentedSizes.MemoryGB),
			StorageGB: b.integer("storageGb", documentedSizes.StorageGB),
		},
	}
	if !b.failed["name"] && (len(o.name) < 3 || len(o.name) > 63 || strings.ContainsFunc(o.name, notNameRune)) {
		b.fail("name", "`name` must be 3-63 characters using letters, numbers, and hyphens.")
	}
	if !b.failed["region"] && !slices.Contains(x.cfg.Regions, o.region) {
		b.fail("region", "`region` must be one of: "+strings.Join(x.cfg.Regions, ", ")+".")
	}
	b.rejectRest()
	if len(b.errs) > 0 {
		return invalid(b.errs...)
	}
	x.order, x.name = o, o.name
	return answer{}
}

func notNameRune(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !letter && r != '-'
}

// create buys a server, unless the gate or a limit forbids it. Limits, server,
// invoice and log change together.
func (x *exchange) create() answer {
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if gate := s.cfg.Gate; gate.Closed {
		p := newProblem(http.StatusForbidden, "")
		if gate.Reason != "" {
			p.Detail = gate.Reason
		}
		p.BlockerReasons = gate.BlockerReasons
		return refuse(p)
	}
	if reasons, detail := s.account.over(s.cfg.Limits, x.order.resources); len(reasons) > 0 {
		p := newProblem(http.StatusForbidden, "")
		p.Detail, p.BlockerReasons = detail, reasons
		return refuse(p)
	}
	invoice := s.buy(x.order, x.entry.Fault, x.effect())
	x.entry.Created, x.entry.VPSID = true, invoice.VPSID
	return answer{http.StatusCreated, createdAnswer{
		Status: "provisioning", VPSID: invoice.VPSID, OrderID: invoice.OrderID, InvoiceID: invoice.InvoiceID,
		Deployment: deploymentAnswer{x.order.name, x.order.region, x.order.resources},
	}}
}

// buy creates a server and its invoice. The caller holds mu.
func (s *Server) buy(o order, fault string, now time.Time) Invoice {
	v := &server{
		VPS: VPS{
			ID: s.ids.next("vps_", now), Name: o.name, Region: o.region, Resources: o.resources,
			IsPayg: true, CreatedAt: now, Status: statusPending,
		},
		visibleAt: now.Add(s.cfg.VisibilityLag),
		activeAt:  now.Add(s.cfg.ProvisionTime),
	}
	s.account.add(v)
	invoice := Invoice{
		InvoiceID: s.ids.next("inv_", now), OrderID: s.ids.next("ord_", now), VPSID: v.ID,
		Name: o.name, Region: o.region, Resources: o.resources,
		PricePerHour: s.cfg.Prices.perHour(o.resources), CurrencyCode: s.cfg.Prices.CurrencyCode,
		At: now, Fault: fault,
	}
	s.account.invoices = append(s.account.invoices, invoice)
	return invoice
}

// plant is Plant. The caller holds mu.
func (s *Server) plant(v VPS) (VPS, error) {
	now := s.cfg.Now()
	if v.ID == "" {
		v.ID = s.ids.next("vps_", now)
	}
	if _, taken := s.account.byID[v.ID]; taken {
		return VPS{}, fmt.Errorf("plant server: id %s is taken", v.ID)
	}
	if v.Name == "" {
		return VPS{}, fmt.Errorf("plant server %s: it has no name", v.ID)
	}
	if v.Region == "" {
		v.Region = s.cfg.Regions[0]
	}
	if v.CreatedAt.IsZero() {
		v.CreatedAt = now
	}
	if v.Status == "" {
		v.Status = statusActive
	}
	v.Planted = true
	planted := &server{VPS: v, visibleAt: time.Time{}}
	s.account.add(planted)
	return planted.at(now), nil
}

// object is a JSON object whose members are taken out one by one.
type object struct {
	members map[string]json.RawMessage
	errs    []fieldError
	failed  map[string]bool
}

func parseObject(body []byte) (*object, bool) {
	b := &object{failed: map[string]bool{}}
	err := json.Unmarshal(body, &b.members)
	return b, err == nil && b.members != nil
}

func (b *object) fail(name, detail string) {
	b.failed[name] = true
	escaped := strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	b.errs = append(b.errs, invalidField("/"+escaped, detail))
}

// take decodes a required member into v and reports whether it could.
func (b *object) take(name string, v any, want string) bool {
	raw, ok := b.members[name]
	delete(b.members, name)
	if !ok || string(raw) == "null" {
		b.fail(name, "`"+name+"` is required.")
		return false
	}
	if json.Unmarshal(raw, v) != nil {
		b.fail(name, "`"+name+"` must be "+want+".")
		return false
	}
	return true
}

func (b *object) text(name string) (v string) {
	if b.take(name, &v, "a string") && v == "" {
		b.fail(name, "`"+name+"` is required.")
	}
	return v
}

func (b *object) integer(name string, within bounds) (v int) {
	if b.take(name, &v, "an integer") && (v < within.Min || v > within.Max) {
		b.fail(name, fmt.Sprintf("`%s` must be between %d and %d.", name, within.Min, within.Max))
	}
	return v
}

// rejectRest fails whatever nobody took.
func (b *object) rejectRest() {
	for _, name := range slices.Sorted(maps.Keys(b.members)) {
		b.fail(name, "Unknown field.")
	}
}
