//go:build !notop

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/hostup"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/top"
)

type topCmd struct {
	LimitsTTL time.Duration `name:"limits-ttl" env:"WORKER_LIMITS_TTL" default:"10s" help:"How often the account's limits are read."`

	natsSettings
	hostupSettings
	placeSettings
}

// Help is printed below the flags' summary.
func (*topCmd) Help() string {
	return `Example:
  worker top

Keys: up and down select a held request or an outcome, enter explains it, / explains a key, ? helps, q quits.
It changes nothing. Without an API key it shows everything but the limits. What cannot be reached is named on
the screen, with since when, and read again. Without a terminal: worker list, worker events.`
}

func (c *topCmd) validate() error {
	return errors.Join(c.natsSettings.validate(), c.hostupSettings.validate(), c.placeSettings.validate(), positive("WORKER_LIMITS_TTL", c.LimitsTTL))
}

// Run shows the screen until the person quits.
func (c *topCmd) Run(ctx context.Context, t *terminal) error {
	if !isTerminal(t.in) || !isTerminal(t.out) {
		return usageError{errors.New("worker top needs a terminal on stdin and stdout; in a script use worker list -o json, or worker events to follow outcomes")}
	}
	if kind := os.Getenv("TERM"); kind == "" || kind == "dumb" {
		return usageError{fmt.Errorf("TERM=%q: worker top cannot draw on such a terminal; use worker list, or worker events to follow outcomes", kind)}
	}
	o := c.options()
	// It starts without a broker, and nothing may write beside the screen.
	o.Wait, o.Log = true, slog.New(slog.DiscardHandler)
	nc, js, err := broker.Connect(o)
	if err != nil {
		return err
	}
	defer nc.Close()
	w := &watch{where: cmp.Or(c.NATSContext, broker.RedactURL(c.NATSURL)), place: c.placeSettings, nc: nc, js: js, book: ledger.New(js, ledger.Config{Bucket: c.Ledger}), most: recordsRead}
	config := top.Config{
		In: t.in, Out: t.out, Environ: os.Environ(), Title: c.Stream + " at " + w.where, LimitsEvery: c.LimitsTTL,
		Sources: top.Sources{Queue: w.queue, Shared: w.shared, Requests: w.requests, Outcomes: w.outcomes, Explain: w.explain},
	}
	if c.APIToken == "" && c.APITokenFile == "" {
		config.NoLimits = "not read: no API key (HOSTUP_API_TOKEN or HOSTUP_API_TOKEN_FILE)"
		return top.Show(ctx, config)
	}
	tokens, err := c.tokens()
	if err != nil {
		return usageError{err}
	}
	var counted countedReads
	client, err := hostup.New(hostup.Config{
		BaseURL: c.APIURL, AllowHTTP: c.AllowHTTP, Token: tokens, ReadTimeout: c.ReadTimeout, UserAgent: "deploy-worker/" + version,
		Reads: &counted,
	})
	if err != nil {
		return usageError{err}
	}
	defer client.Close()
	account := hostup.NewAccount(client)
	config.Sources.Limits = func(ctx context.Context) (top.Limits, error) {
		facts, err := account.Facts(ctx, time.Now())
		return top.Limits{Facts: facts, Counted: counted.Load()}, err
	}
	return top.Show(ctx, config)
}

// countedReads is whether an answer said that HostUp counts reads. Each read has
// its turn at once.
type countedReads struct{ atomic.Bool }

// Enter implements hostup.Turns.
func (c *countedReads) Enter(context.Context) (func(provision.ReadAnswer), error) {
	return func(a provision.ReadAnswer) {
		if a.Rate.Limit > 0 {
			c.Store(true)
		}
	}, nil
}

// watch reads for the screen.
type watch struct {
	where string
	place placeSettings
	nc    *nats.Conn
	js    jetstream.JetStream
	book  *ledger.Ledger
	// known are the unfinished records as they were read last, by hash. Held and
	// waiting requests rarely change.
	known map[string]*knownRecord
	// most bounds how many unfinished records are read for their reasons; the
	// others are only counted.
	most int
	// last is the sequence of the newest event that was given.
	last uint64
}

// knownRecord is a record as it was stored at a time.
type knownRecord struct {
	at     time.Time
	record *provision.Record
}

const (
	recordsRead = 1000
	// recordsTime bounds how long one look takes for that.
	recordsTime = 2 * time.Second
	// eventsRead bounds how many stored events the screen begins with.
	eventsRead = 5000
)

// missing turns an error into one that says what to do about it.
func (w *watch) missing(err error) error {
	switch {
	case err == nil:
		return nil
	case !w.nc.IsConnected():
		err = fmt.Errorf("not connected to NATS at %s", w.where)
		if last := w.nc.LastError(); last != nil {
			err = fmt.Errorf("%w: %w", err, last)
		}
		return err
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("%w; create it with worker setup", err)
	}
	return err
}

func (w *watch) queue(ctx context.Context) ([]top.Lane, error) {
	t := w.place.topology()
	lanes := []top.Lane{{Name: "single"}, {Name: "batch"}}
	for i, name := range []string{t.Consumer, t.BatchConsumer()} {
		cons, err := w.js.Consumer(ctx, t.Stream, name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			lanes[i].Missing = true
			continue
		}
		if err != nil {
			return nil, w.missing(err)
		}
		info := cons.CachedInfo()
		lanes[i].Pending, lanes[i].AckPending, lanes[i].Redelivered = info.NumPending, uint64(info.NumAckPending), uint64(info.NumRedelivered)
	}
	return lanes, nil
}

func (w *watch) shared(ctx context.Context) (top.Shared, error) {
	gate, err := w.book.UpdateGate(ctx, func(g admission.Gate) (admission.Gate, bool) { return g, false })
	if err != nil {
		return top.Shared{}, w.missing(err)
	}
	brake, err := w.book.UpdateBrake(ctx, func(b admission.Brake) (admission.Brake, bool) { return b, false })
	return top.Shared{Gate: gate, Brake: brake}, w.missing(err)
}

// requests counts by headers, and reads those that nobody has decided yet.
func (w *watch) requests(ctx context.Context) (top.Requests, error) {
	r := top.Requests{States: make(map[provision.State]int)}
	var open []provision.Audited
	err := w.book.Scan(ctx, func(a provision.Audited) {
		r.States[a.State]++
		if !a.State.Settled() {
			open = append(open, a)
		}
	})
	if err != nil {
		return r, w.missing(err)
	}
	// What is read first if not everything can be: what a person has to decide,
	// then what takes room, then what has waited longest.
	slices.SortFunc(open, func(a, b provision.Audited) int {
		return cmp.Or(cmp.Compare(urgency(a.State), urgency(b.State)), a.StoredAt.Compare(b.StoredAt))
	})
	records, err := w.read(ctx, open[:min(len(open), w.most)])
	if err != nil {
		return r, w.missing(err)
	}
	r.Unread = len(open) - len(records)
	summarize(&r, records)
	return r, nil
}

func urgency(s provision.State) int {
	return slices.Index([]provision.State{provision.StateHeld, provision.StateUnknown, provision.StateCreating, provision.StateAccepted}, s)
}

// read reads records, as far as they have changed since the last time and as
// far as the time allows.
func (w *watch) read(ctx context.Context, open []provision.Audited) ([]*provision.Record, error) {
	var records []*provision.Record
	known := make(map[string]*knownRecord, len(open))
	end := time.Now().Add(recordsTime)
	for _, a := range open {
		k := w.known[a.Hash]
		if k == nil || !k.at.Equal(a.StoredAt) {
			if time.Now().After(end) {
				continue
			}
			record, err := w.book.LoadHash(ctx, a.Hash)
			if err != nil {
				return nil, err
			}
			if record == nil {
				continue // gone meanwhile
			}
			k = &knownRecord{at: a.StoredAt, record: record}
		}
		known[a.Hash] = k
		records = append(records, k.record)
	}
	w.known = known
	return records, nil
}

// summarize says what records wait for.
func summarize(r *top.Requests, records []*provision.Record) {
	waiting := make(map[string]*top.Waiting)
	for _, record := range records {
		q := record.Request
		switch record.State {
		case provision.StateHeld:
			held := top.Held{Key: record.Key, Name: q.Name, Since: record.HeldAt, Why: record.HeldReason}
			if record.Evidence != nil {
				held.Why = lastWord(record.Evidence, held.Why)
				for _, c := range record.Evidence.Candidates {
					held.Candidates = append(held.Candidates, c.VPSID)
				}
			}
			r.Held = append(r.Held, held)
			continue
		case provision.StateCreating, provision.StateUnknown:
			r.InFlight = r.InFlight.Add(size(q))
		}
		if record.State != provision.StateAccepted && record.State != provision.StateUnknown {
			continue
		}
		why := waiting[record.WaitReason]
		if why == nil {
			why = &top.Waiting{Reason: record.WaitReason}
			waiting[record.WaitReason] = why
		}
		why.Count++
		if at := record.NotBefore; !at.IsZero() && (why.Next.IsZero() || at.Before(why.Next)) {
			why.Next = at
		}
	}
	for _, why := range waiting {
		r.Waiting = append(r.Waiting, *why)
	}
	slices.SortFunc(r.Waiting, func(a, b top.Waiting) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason))
	})
	slices.SortStableFunc(r.Held, func(a, b top.Held) int { return a.Since.Compare(b.Since) })
}

// lastWord is what the newest attempt came to: the part of a held reason that
// differs from one to the next.
func lastWord(e *provision.Evidence, otherwise string) string {
	if n := len(e.Attempts); n > 0 {
		return cmp.Or(e.Attempts[n-1].Detail, otherwise)
	}
	return otherwise
}

func size(r provision.Request) admission.Resources {
	return admission.Resources{CPUCores: int64(r.CPUCores), MemoryGB: int64(r.MemoryGB), StorageGB: int64(r.StorageGB), Instances: 1}
}

// outcomes follows the events: the newest ones of what is stored, then what
// comes.
func (w *watch) outcomes(ctx context.Context, ready func(), each func(top.Outcome)) error {
	s, err := w.js.Stream(ctx, w.place.EventsStream)
	if err != nil {
		return w.missing(err)
	}
	newest := s.CachedInfo().State.LastSeq
	from := w.last + 1
	if newest < w.last || newest-w.last > eventsRead {
		// The first time, long away, or a stream that was made anew.
		from = max(newest, eventsRead) - eventsRead + 1
	}
	err = events.Follow(ctx, w.js, events.FollowConfig{Stream: w.place.EventsStream, Prefix: w.place.SubjectPrefix, From: from}, ready, func(f events.Followed) error {
		w.last = f.Sequence
		each(outcomeOf(f))
		return nil
	})
	return w.missing(err)
}

func outcomeOf(f events.Followed) top.Outcome {
	e := f.Event
	o := top.Outcome{
		Sequence: f.Sequence, Kind: e.Kind, Key: e.Key, Name: e.Request.Name, At: e.OccurredAt,
		Size: size(e.Request), VPSID: e.VPSID, Adopted: e.Adopted, Reason: e.Reason, Billed: e.Billed,
	}
	if f.Unreadable != nil {
		o.At, o.Unreadable = f.StoredAt, f.Unreadable.Error()
	}
	var problem struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(e.Problem, &problem) == nil {
		o.Detail = cmp.Or(problem.Detail, problem.Title)
	}
	if e.Evidence != nil {
		o.Detail = lastWord(e.Evidence, o.Detail)
	}
	return o
}

// explain tells the story of a key.
func (w *watch) explain(ctx context.Context, key string, columns int) (string, error) {
	s, err := loadStory(ctx, w.book, key)
	if err != nil {
		return "", w.missing(err)
	}
	var page strings.Builder
	err = s.write(&page, columns)
	return page.String(), err
}
