package provision_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

var (
	_ provision.Ledger    = ledgerPort{}
	_ provision.Names     = ledgerPort{}
	_ provision.API       = apiPort{}
	_ provision.Account   = accountPort{}
	_ provision.Publisher = eventsPort{}
)

var (
	errLedger = errors.New("the ledger does not answer")
	errLook   = errors.New("HostUp does not answer")
)

// fault replaces one write: do is the write itself.
type fault func(do func() error) error

func unwritten(func() error) error     { return errLedger }
func lostAnswer(do func() error) error { do(); return errLedger }
func conflicting(func() error) error   { return provision.ErrConflict }

// shelf is the memory ledger with faults.
type shelf struct {
	mu    sync.Mutex
	under *ledger.Ledger
	n     int
	// plan may replace the n-th write (from 1), loadErr a read.
	plan    func(n int, op string, r *provision.Record) fault
	loadErr func(key string) error
	// past may change what is remembered of a name.
	past func(provision.Past) provision.Past
	// gone are records that were lost, with the last revision that is lost.
	gone map[string]uint64
}

// load reads the ledger, which may have forgotten.
func (s *shelf) load(ctx context.Context, key string) (*provision.Record, error) {
	r, err := s.ledger().Load(ctx, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r != nil && r.Revision <= s.gone[key] {
		return nil, err
	}
	return r, err
}

// known makes a write that starts a lost record anew take the place of what
// the ledger underneath still has.
func (s *shelf) known(r *provision.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lost := s.gone[r.Key]; r.Revision == 0 && lost > 0 {
		r.Revision = lost
	}
}

func (s *shelf) ledger() *ledger.Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.under
}

// lose empties the ledger, as a power cut on a broker that had not synced.
func (s *shelf) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.under = ledger.NewMemory()
}

// forget loses the record of one key.
func (s *shelf) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		s.gone = make(map[string]uint64)
	}
	r, err := s.under.Load(context.Background(), key)
	if err != nil || r == nil {
		return
	}
	s.gone[key] = r.Revision
}

// heal ends all faults of writing.
func (s *shelf) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan = nil
}

func (s *shelf) peek(key string) *provision.Record {
	r, err := s.load(context.Background(), key)
	if err != nil {
		panic(err)
	}
	return r
}

func (s *shelf) state(key string) string {
	if r := s.peek(key); r != nil {
		return string(r.State)
	}
	return "nothing"
}

func (s *shelf) write(op string, r *provision.Record, do func(*provision.Record) error) error {
	s.mu.Lock()
	s.n++
	n, plan := s.n, s.plan
	s.mu.Unlock()
	var f fault
	if plan != nil {
		f = plan(n, op, r)
	}
	written := *r
	s.known(&written)
	var err error
	if f == nil {
		err = do(&written)
	} else {
		err = f(func() error { return do(&written) })
	}
	var taken *provision.NameTakenError
	if err == nil || errors.As(err, &taken) {
		r.Revision = written.Revision
	}
	return err
}

type ledgerPort struct{ wk *worker }

func (l ledgerPort) Load(ctx context.Context, key string) (r *provision.Record, err error) {
	s := l.wk.w.shelf
	l.wk.life.around(func() {
		l.wk.w.journal.add(l.wk.name, "load", key, "")
		if s.loadErr != nil {
			if err = s.loadErr(key); err != nil {
				return
			}
		}
		r, err = s.load(ctx, key)
	})
	return r, err
}

func (l ledgerPort) Store(ctx context.Context, r *provision.Record) (err error) {
	s := l.wk.w.shelf
	l.wk.life.around(func() {
		l.wk.w.journal.add(l.wk.name, "store", r.Key, string(r.State))
		err = s.write("store", r, func(r *provision.Record) error { return s.ledger().Store(ctx, r) })
	})
	return err
}

func (l ledgerPort) Intend(ctx context.Context, r *provision.Record) (err error) {
	s := l.wk.w.shelf
	l.wk.life.around(func() {
		l.wk.w.journal.add(l.wk.name, "intend", r.Key, string(r.State))
		err = s.write("intend", r, func(r *provision.Record) error { return s.ledger().Intend(ctx, r) })
	})
	return err
}

func (l ledgerPort) Finished(ctx context.Context, name string) (past provision.Past, err error) {
	s := l.wk.w.shelf
	l.wk.life.around(func() {
		l.wk.w.journal.add(l.wk.name, "finished", "", name)
		if s.loadErr != nil {
			if err = s.loadErr(name); err != nil {
				return
			}
		}
		past, err = s.ledger().Finished(ctx, name)
		if s.past != nil {
			past = s.past(past)
		}
	})
	return past, err
}

func (l ledgerPort) Release(ctx context.Context, r *provision.Record) (err error) {
	l.wk.life.around(func() {
		l.wk.w.journal.add(l.wk.name, "release", r.Key, "")
		err = l.wk.w.shelf.ledger().Release(ctx, r)
	})
	return err
}

// reply is one scripted answer of the API.
type reply struct {
	answer provision.Answer
	// buys is whether a server is made, whatever is answered.
	buys   bool
	takes  time.Duration
	during func()
}

func created() reply {
	return reply{answer: provision.Answer{Verdict: provision.VerdictCreated, Status: 201}, buys: true}
}

func refused(status int, kind provision.Refusal) reply {
	return reply{answer: provision.Answer{
		Verdict: provision.VerdictRefused, Status: status, Refusal: kind, Detail: "refused",
		Problem: json.RawMessage(fmt.Sprintf(`{"type":"about:blank","status":%d,"detail":"theirs"}`, status)),
	}}
}

func throttled(after time.Duration) reply {
	return reply{answer: provision.Answer{
		Verdict: provision.VerdictThrottled, Status: 429, RetryAfter: after, Problem: json.RawMessage(`{"status":429}`),
	}}
}

func neverSent() reply {
	return reply{answer: provision.Answer{Verdict: provision.VerdictNeverSent, Detail: "connection refused"}}
}

// lost is a call that nobody can judge; the server may be there all the same.
func lost(status int, buys bool) reply {
	return reply{answer: provision.Answer{Verdict: provision.VerdictUnknown, Status: status, Detail: "no telling"}, buys: buys}
}

// answered is a call of which HostUp itself said that it failed.
func answered(status int, buys bool) reply {
	r := lost(status, buys)
	r.answer.Answered = true
	r.answer.Problem = json.RawMessage(`{"status":500,"code":"internal"}`)
	return r
}

// call is what the API and the ledger looked like when a create was sent.
type call struct {
	At       time.Time
	Ended    time.Time
	Worker   string
	Key      string
	State    string
	Deadline time.Time
	Verdict  provision.Verdict
	After    time.Duration
	// Rival is another key that may have an unannounced server of that name.
	Rival string
	Name  string
	// Answered is the answer's; Bought whether a server was made.
	Answered bool
	Bought   bool
	// Recorded is what the ledger says of the attempt before this one.
	Recorded provision.Verdict
}

// api counts the servers that were really made.
type api struct {
	journal   *journal
	shelf     *shelf
	inventory *inventory

	mu      sync.Mutex
	script  []reply
	answers func(n int, r provision.Request) reply
	calls   []call
	servers map[string][]string          // by key
	wanted  map[string][]string          // keys that were called for, by name in lower case
	newest  map[string]provision.Verdict // of the newest call, by key
}

func (a *api) made(key string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.servers[key])
}

func (a *api) sent() []call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]call(nil), a.calls...)
}

// begin takes the next reply and makes the server, if one is made.
func (a *api) begin(ctx context.Context, worker string, r provision.Request) (int, reply) {
	state := a.shelf.state(r.Key)
	var recorded provision.Verdict
	if old := a.shelf.peek(r.Key); old != nil && len(old.Attempts) > 1 {
		recorded = old.Attempts[len(old.Attempts)-2].Verdict
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	rival := a.rival(r)
	deadline, _ := ctx.Deadline()
	n := len(a.calls) + 1
	next := created()
	switch {
	case n <= len(a.script):
		next = a.script[n-1]
	case a.answers != nil:
		next = a.answers(n, r)
	}
	if next.buys {
		if a.servers == nil {
			a.servers = make(map[string][]string)
		}
		id := fmt.Sprintf("vps_%d", n)
		a.servers[r.Key] = append(a.servers[r.Key], id)
		a.inventory.bought(id, r)
		if next.answer.Verdict == provision.VerdictCreated {
			next.answer.VPSID, next.answer.OrderID, next.answer.InvoiceID = id, "ord_"+id, "inv_"+id
		}
	}
	a.calls = append(a.calls, call{
		At: time.Now(), Worker: worker, Key: r.Key, State: state, Deadline: deadline,
		Verdict: next.answer.Verdict, After: next.answer.RetryAfter, Rival: rival,
		Name: r.Name, Answered: next.answer.Answered, Bought: next.buys, Recorded: recorded,
	})
	if a.wanted == nil {
		a.wanted, a.newest = make(map[string][]string), make(map[string]provision.Verdict)
	}
	name := strings.ToLower(r.Name)
	if !slices.Contains(a.wanted[name], r.Key) {
		a.wanted[name] = append(a.wanted[name], r.Key)
	}
	a.newest[r.Key] = next.answer.Verdict
	return n, next
}

// rival finds a request whose newest call may have bought a server of the same
// name, and whose result the ledger does not have yet.
func (a *api) rival(r provision.Request) string {
	for _, key := range a.wanted[strings.ToLower(r.Name)] {
		if key == r.Key || harmless(a.newest[key]) {
			continue
		}
		if old := a.shelf.peek(key); old != nil && old.State.Owns() {
			return key
		}
	}
	return ""
}

type apiPort struct{ wk *worker }

func (p apiPort) Create(ctx context.Context, r provision.Request) (answer provision.Answer) {
	a := p.wk.w.api
	p.wk.life.around(func() {
		a.journal.add(p.wk.name, "create", r.Key, "")
		n, next := a.begin(ctx, p.wk.name, r)
		answer = next.answer
		if next.during != nil {
			next.during()
		}
		if next.takes > 0 {
			t := time.NewTimer(next.takes)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
				answer = provision.Answer{Verdict: provision.VerdictUnknown, Detail: ctx.Err().Error()}
			}
		}
		a.inventory.settle(fmt.Sprintf("vps_%d", n))
		a.mu.Lock()
		defer a.mu.Unlock()
		a.calls[n-1].Ended = time.Now()
		a.calls[n-1].Answered = answer.Answered
	})
	return answer
}
