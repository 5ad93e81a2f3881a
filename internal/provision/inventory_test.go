package provision_test

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

var _ provision.Inventory = inventoryPort{}

// rented is one server of the account, whoever bought it.
type rented struct {
	provision.Server
	// Key is that of the order which bought it, "" for a foreign one.
	Key string
	// Born is what HostUp says, zero when it does not. Seen is from when on
	// the server is in the inventory.
	Born, Seen time.Time
}

// look is one Named, with what was there when it began.
type look struct {
	At   time.Time
	Name string
	Err  error
	IDs  []string
}

// inventory is the account's inventory, fed by the create calls of the API.
type inventory struct {
	journal *journal

	mu      sync.Mutex
	servers []rented
	looks   []look
	lag     time.Duration // between the end of a call and the server's turning up
	takes   time.Duration // of each Named, after it has seen what it returns
	errs    []error       // of the next looks
	down    func() error
	broken  map[string]error // of CreatedAt and ByID, by id
	skew    time.Duration    // HostUp's clock against ours
	during  func()           // what happens while the next look is under way
}

// namesake is a server that fits the order of a key in everything.
func namesake(key, id string) rented {
	return rented{Born: time.Now(), Server: provision.Server{
		ID: id, Name: "web-" + key, Live: true, PAYG: true, CPUCores: 2, MemoryGB: 4, StorageGB: 80,
	}}
}

// plant puts servers into the account that no call bought.
func (i *inventory) plant(servers ...rented) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.servers = append(i.servers, servers...)
}

// never is when a server is seen whose call has not ended.
const never = 1 << 62

func (i *inventory) bought(id string, r provision.Request) {
	i.plant(rented{Key: r.Key, Born: time.Now().Add(i.skew), Seen: time.Now().Add(never), Server: provision.Server{
		ID: id, Name: r.Name, Live: true, PAYG: true,
		CPUCores: int64(r.CPUCores), MemoryGB: int64(r.MemoryGB), StorageGB: int64(r.StorageGB),
	}})
}

// settle says when the server of a call that has ended turns up.
func (i *inventory) settle(id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for n := range i.servers {
		if i.servers[n].ID == id {
			i.servers[n].Seen = time.Now().Add(i.lag)
		}
	}
}

func (i *inventory) all() []rented {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]rented(nil), i.servers...)
}

func (i *inventory) looked() []look {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]look(nil), i.looks...)
}

// fail takes the error of the next look.
func (i *inventory) fail() error {
	if len(i.errs) > 0 {
		err := i.errs[0]
		i.errs = i.errs[1:]
		return err
	}
	if i.down != nil {
		return i.down()
	}
	return nil
}

func (i *inventory) named(ctx context.Context, name string) ([]provision.Server, error) {
	i.mu.Lock()
	var out []provision.Server
	l := look{At: time.Now(), Name: name, Err: i.fail()}
	for n := range i.servers {
		s := &i.servers[n]
		// The filter is asked of HostUp, and HostUp is not to be relied upon.
		if !s.Seen.After(l.At) && (name == "" || strings.EqualFold(s.Name, name) || strings.HasPrefix(s.ID, "stray")) {
			out = append(out, s.Server)
			l.IDs = append(l.IDs, s.ID)
		}
	}
	takes, during := i.takes, i.during
	i.during = nil
	i.mu.Unlock()
	if during != nil {
		during()
	}
	if takes > 0 {
		t := time.NewTimer(takes)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			l.Err = ctx.Err()
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.looks = append(i.looks, l)
	if l.Err != nil {
		return nil, l.Err
	}
	return out, nil
}

func (i *inventory) byID(id string) (rented, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.broken[id]; err != nil {
		return rented{}, err
	}
	for _, s := range i.servers {
		if s.ID == id && !s.Seen.After(time.Now()) {
			return s, nil
		}
	}
	return rented{Server: provision.Server{ID: id}}, nil
}

type inventoryPort struct{ wk *worker }

func (p inventoryPort) Named(ctx context.Context, name string) (out []provision.Server, err error) {
	p.wk.life.around(func() {
		if err = p.wk.read(ctx); err != nil {
			return
		}
		p.wk.w.journal.add(p.wk.name, "look", "", name)
		out, err = p.wk.w.inventory.named(ctx, name)
	})
	return out, err
}

func (p inventoryPort) CreatedAt(ctx context.Context, id string) (at time.Time, err error) {
	p.wk.life.around(func() {
		if err = p.wk.read(ctx); err != nil {
			return
		}
		p.wk.w.journal.add(p.wk.name, "details", "", id)
		var s rented
		s, err = p.wk.w.inventory.byID(id)
		at = s.Born
	})
	return at, err
}

func (p inventoryPort) ByID(ctx context.Context, id string) (out provision.Server, err error) {
	p.wk.life.around(func() {
		if err = p.wk.read(ctx); err != nil {
			return
		}
		p.wk.w.journal.add(p.wk.name, "server", "", id)
		var s rented
		s, err = p.wk.w.inventory.byID(id)
		out = s.Server
	})
	return out, err
}

// Errors of a look, as the edge reports them.
func lookError(status int) error {
	return &provision.ReadError{Status: status, Err: errLook}
}
