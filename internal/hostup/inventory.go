package hostup

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Inventory looks servers up for the core. It implements provision.Inventory
// and may be used concurrently. It caches nothing: a look-up is evidence.
type Inventory struct{ client *Client }

var _ provision.Inventory = (*Inventory)(nil)

// NewInventory returns the inventory of the account that the client's key
// belongs to.
func NewInventory(c *Client) *Inventory { return &Inventory{client: c} }

// Named implements provision.Inventory by GET /vps?name=, all pages.
func (i *Inventory) Named(ctx context.Context, name string) ([]provision.Server, error) {
	found, err := i.client.Servers(ctx, ServerFilter{Name: name})
	if err != nil {
		return nil, readError(err)
	}
	servers := make([]provision.Server, len(found))
	for n, s := range found {
		servers[n] = coreServer(s)
	}
	return servers, nil
}

// All returns every server of the account.
func (i *Inventory) All(ctx context.Context) ([]provision.Server, error) { return i.Named(ctx, "") }

// ByID implements provision.Inventory by GET /vps/{id}.
func (i *Inventory) ByID(ctx context.Context, id string) (provision.Server, error) {
	s, err := i.client.Server(ctx, id)
	var e *Error
	switch {
	case errors.As(err, &e) && e.StatusCode == http.StatusNotFound:
		return provision.Server{ID: id}, nil
	case err != nil:
		return provision.Server{}, readError(err)
	}
	return coreServer(s), nil
}

func coreServer(s Server) provision.Server {
	return provision.Server{
		ID: s.ID, Name: s.Name, Live: s.Live(), PAYG: s.IsPAYG,
		CPUCores: s.Size.CPUCores, MemoryGB: s.Size.MemoryGB, StorageGB: s.Size.StorageGB,
	}
}

// CreatedAt implements provision.Inventory by GET /vps/{id}/details, the only
// place that tells it.
func (i *Inventory) CreatedAt(ctx context.Context, id string) (time.Time, error) {
	s, err := i.client.ServerDetails(ctx, id)
	if err != nil {
		return time.Time{}, readError(err)
	}
	return s.CreatedAt, nil
}
