package simulator

import (
	"fmt"
	"strings"
	"time"
)

// Invoice is one purchase as the account sees it, whatever its buyer was told.
// Invoices are the witness of a test: as many as there were paid servers.
type Invoice struct {
	InvoiceID    string    `json:"invoiceId"`
	OrderID      string    `json:"orderId"`
	VPSID        string    `json:"vpsId"`
	Name         string    `json:"name"`
	Region       string    `json:"region"`
	Resources    Resources `json:"resources"`
	PricePerHour float64   `json:"pricePerHour"`
	CurrencyCode string    `json:"currencyCode"`
	At           time.Time `json:"at"`
	// Fault is the specification of the fault that spoiled the answer, "" if
	// none did.
	Fault string `json:"fault,omitempty"`
}

// VPS is a server in the account's inventory.
type VPS struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Region    string    `json:"region"`
	Resources Resources `json:"resources"`
	IsPayg    bool      `json:"isPayg"`
	CreatedAt time.Time `json:"createdAt"`
	// Status is one of the documented serviceStatus values: active suspended
	// terminated pending cancelled expired fraud unknown.
	Status string `json:"serviceStatus"`
	// PowerState and PrimaryIP follow from the status and the time; Plant
	// ignores them.
	PowerState string `json:"powerState"`
	PrimaryIP  string `json:"primaryIp,omitempty"`
	// Planted servers came from Plant and have no invoice.
	Planted bool `json:"planted,omitempty"`
}

// The serviceStatus and powerState values that servers take on here.
const (
	statusPending     = "pending"
	statusActive      = "active"
	statusCancelled   = "cancelled"
	powerProvisioning = "provisioning"
	powerRunning      = "running"
	powerStopped      = "stopped"
)

// live reports whether the server exists and so counts against the limits.
func (v VPS) live() bool {
	switch v.Status {
	case statusCancelled, "terminated", "expired", "fraud":
		return false
	}
	return true
}

// server is a VPS with what the account alone knows.
type server struct {
	VPS

	sequence  int // index in account.servers
	visibleAt time.Time
	activeAt  time.Time // a pending server becomes active by itself
}

// at returns the server as it is at a time.
func (s *server) at(now time.Time) VPS {
	v := s.VPS
	if v.Status == statusPending && !s.activeAt.IsZero() && !now.Before(s.activeAt) {
		v.Status = statusActive
	}
	switch v.Status {
	case statusActive:
		v.PowerState = powerRunning
		n := s.sequence + 1
		v.PrimaryIP = fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255)
	case statusPending:
		v.PowerState = powerProvisioning
	default:
		v.PowerState = powerStopped
	}
	return v
}

// account is the state behind the API. It is guarded by Server.mu.
type account struct {
	servers  []*server // in order of creation
	byID     map[string]*server
	byName   map[string][]*server // lower case
	invoices []Invoice
	used     Limits
}

func newAccount() account {
	return account{byID: map[string]*server{}, byName: map[string][]*server{}}
}

func (a *account) add(s *server) {
	s.sequence = len(a.servers)
	a.servers = append(a.servers, s)
	a.byID[s.ID] = s
	key := strings.ToLower(s.Name)
	a.byName[key] = append(a.byName[key], s)
	if s.IsPayg && s.live() {
		a.used = a.used.add(s.Resources.usage())
	}
}

// cancel ends a server at once and gives its share of the limits back.
func (a *account) cancel(s *server) {
	if s.IsPayg && s.live() {
		a.used = a.used.sub(s.Resources.usage())
	}
	s.Status = statusCancelled
}

// visible returns the server with that id unless it is too new to be seen.
func (a *account) visible(id string, now time.Time) (*server, bool) {
	s, ok := a.byID[id]
	return s, ok && !now.Before(s.visibleAt)
}

// over names the limits that one more server would break, with a sentence.
func (a *account) over(limits Limits, r Resources) (reasons []string, detail string) {
	free, want := limits.sub(a.used), r.usage()
	var parts []string
	for _, l := range []struct {
		reason, what    string
		want, free, max int
	}{
		{"cpu_limit_exceeded", "CPU cores", want.CPUCores, free.CPUCores, limits.CPUCores},
		{"memory_limit_exceeded", "GB of memory", want.MemoryGB, free.MemoryGB, limits.MemoryGB},
		{"storage_limit_exceeded", "GB of storage", want.StorageGB, free.StorageGB, limits.StorageGB},
		{"instance_limit_exceeded", "instances", want.Instances, free.Instances, limits.Instances},
	} {
		if l.want > l.free {
			reasons = append(reasons, l.reason)
			parts = append(parts, fmt.Sprintf("%d %s asked, %d of %d left", l.want, l.what, l.free, l.max))
		}
	}
	return reasons, "The deployment exceeds the account's limits: " + strings.Join(parts, "; ") + "."
}
