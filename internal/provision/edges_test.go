package provision_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

func roomy() admission.Facts {
	plenty := admission.Resources{CPUCores: 1000, MemoryGB: 1000, StorageGB: 100_000, Instances: 1000}
	return admission.Facts{Remaining: plenty, Max: plenty, CanDeploy: true, Regions: []string{"stockholm", "gothenburg"}}
}

// account answers from its cache as the real one does.
type account struct {
	journal *journal

	mu    sync.Mutex
	room  admission.Facts
	errs  []error
	ask   func(n int) (admission.Facts, error)
	reads []time.Time
	takes time.Duration
	cache *admission.Facts
	// apart is whether every worker has a cache of its own.
	apart bool
}

func (a *account) asked() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]time.Time(nil), a.reads...)
}

func (a *account) facts(oldest time.Time) (admission.Facts, error) {
	return a.cached(&a.cache, oldest)
}

func (a *account) stale(cache **admission.Facts, oldest time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return *cache == nil || (*cache).AskedAt.Before(oldest)
}

func (a *account) cached(cache **admission.Facts, oldest time.Time) (admission.Facts, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if *cache != nil && !(*cache).AskedAt.Before(oldest) {
		return **cache, nil
	}
	now := time.Now()
	a.reads = append(a.reads, now)
	f, err := a.room, error(nil)
	switch {
	case len(a.errs) > 0:
		err, a.errs = a.errs[0], a.errs[1:]
	case a.ask != nil:
		f, err = a.ask(len(a.reads))
	}
	if err != nil {
		return admission.Facts{}, err
	}
	f.AskedAt = now
	*cache = &f
	return f, nil
}

type accountPort struct{ wk *worker }

func (p accountPort) Facts(ctx context.Context, oldest time.Time) (f admission.Facts, err error) {
	a := p.wk.w.account
	p.wk.life.around(func() {
		a.journal.add(p.wk.name, "facts", "", "")
		if a.takes > 0 {
			t := time.NewTimer(a.takes)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
				err = ctx.Err()
				return
			}
		}
		cache := &a.cache
		if a.apart {
			cache = &p.wk.facts
		}
		if a.stale(cache, oldest) {
			p.wk.asking <- struct{}{}
			defer func() { <-p.wk.asking }()
			for a.stale(cache, oldest) && p.wk.got < 2 { // limits and options
				if err = p.wk.read(ctx); err != nil {
					return
				}
				p.wk.got++
			}
			p.wk.got = 0
		}
		f, err = a.cached(cache, oldest)
	})
	return f, err
}

// events is the stream of events.
type events struct {
	journal *journal
	shelf   *shelf

	mu        sync.Mutex
	failing   int // so many publishes fail, nothing is stored
	ambiguous int // so many fail although the event is stored
	published []provision.Event
	states    []string // of the record, when each was published
}

func (e *events) all() []provision.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]provision.Event(nil), e.published...)
}

// ids are the distinct event ids of a key in order, those of the kinds given.
func (e *events) ids(key string, kinds ...provision.Kind) []string {
	var ids []string
	seen := make(map[string]bool)
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.published {
		ev := &e.published[i]
		for _, k := range kinds {
			if ev.Key == key && ev.Kind == k && !ev.Rejected && !seen[ev.ID] {
				seen[ev.ID] = true
				ids = append(ids, ev.ID)
			}
		}
	}
	return ids
}

func (e *events) outcomes(key string) []string {
	return e.ids(key, provision.KindProvisioning, provision.KindFailed)
}

func (e *events) publish(ev provision.Event) error {
	state := e.shelf.state(ev.Key)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failing > 0 {
		e.failing--
		return errors.New("the stream does not answer")
	}
	e.published = append(e.published, ev)
	e.states = append(e.states, state)
	if e.ambiguous > 0 {
		e.ambiguous--
		return errors.New("no answer from the stream")
	}
	return nil
}

type eventsPort struct{ wk *worker }

func (p eventsPort) Publish(_ context.Context, ev provision.Event) (err error) {
	p.wk.life.around(func() {
		p.wk.w.events.journal.add(p.wk.name, "publish", ev.Key, string(ev.Kind))
		err = p.wk.w.events.publish(ev)
	})
	return err
}
