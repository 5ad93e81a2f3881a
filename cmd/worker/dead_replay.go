package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

type deadReplayCmd struct {
	Sequences []uint64 `arg:"" optional:"" name:"sequence" help:"Sequences of dead letters, as list prints them."`
	All       bool     `name:"all" env:"WORKER_REPLAY_ALL" help:"All dead letters, or all that the filters take."`
	deadFilter

	Yes    bool    `name:"yes" env:"WORKER_REPLAY_YES" help:"Publish them. Without it nothing is changed."`
	DryRun bool    `name:"dry-run" env:"WORKER_REPLAY_DRY_RUN" help:"Say what would be done and change nothing, also with --yes."`
	NewKey bool    `name:"new-key" env:"WORKER_REPLAY_NEW_KEY" help:"Order it under another key, which is made of the letter: also what has none, or was done already."`
	Again  bool    `name:"again" env:"WORKER_REPLAY_AGAIN" help:"Also letters that were replayed before. With --new-key the key is another one than then."`
	Rate   float64 `name:"rate" env:"WORKER_REPLAY_RATE" default:"5" help:"At most so many a second."`
	By     string  `name:"by" env:"WORKER_REPLAY_BY" help:"Who; the user of this machine unless set."`

	readerFlags
}

// Help is printed below the flags' summary.
func (*deadReplayCmd) Help() string {
	return `Examples:
  worker dead replay 7 9                       what would be done with two letters
  worker dead replay 7 9 --yes
  worker dead replay --all --reason panic --yes
  worker dead replay 7 --new-key --yes         as another order

The request goes out as it was, under the key it had, to the subject it came from, so a request that was
answered already is a duplicate and nothing is bought. Refused is a key whose outcome is unknown: see
worker explain KEY. Refused is also what is older than the ledger remembers, unless it gets a new key.

--new-key makes the key of the letter: replaying it twice buys once, unless --again says so.

A letter that this version cannot read either would die again: it is replayed when it is named, and left
out by --all. Replayed letters stay, dead list marks them, and --all leaves them out without --again.

Exit code 3 when a sequence does not exist, 4 when some were refused, 1 when all were.`
}

func (c *deadReplayCmd) validate() error {
	errs := []error{c.readerFlags.validate(), c.deadFilter.validate()}
	chosen := c.All || c.set()
	if chosen == (len(c.Sequences) > 0) {
		errs = append(errs, errors.New("give the sequences of dead letters, or --all, or a filter such as --reason"))
	}
	if !(c.Rate > 0) || c.Rate > 1000 {
		errs = append(errs, fmt.Errorf("--rate=%v: more than 0, at most 1000", c.Rate))
	}
	return errors.Join(errs...)
}

// What replay does with a letter.
const (
	replayDo        = "replay"
	replayDone      = "replayed"
	replaySkip      = "skip"
	replayDuplicate = "duplicate"
	replayRefuse    = "refuse"
)

// replayed is what was done with a letter, or would be.
type replayed struct {
	Sequence uint64 `json:"sequence"`
	Action   string `json:"action"`
	Key      string `json:"idempotencyKey"`
	Subject  string `json:"subject"`
	Detail   string `json:"detail"`
	// Stored is the sequence of the request that was published.
	Stored uint64 `json:"storedAs,omitempty"`
}

// Run replays dead letters, or says what it would do.
func (c *deadReplayCmd) Run(ctx context.Context, t *terminal) error {
	return c.dead(ctx, func(g graveyard) error {
		bucket, err := g.js.Stream(ctx, "KV_"+c.Ledger)
		if err != nil {
			return fmt.Errorf("the ledger %s, which says what became of a key: %w: create it with `worker setup`", c.Ledger, err)
		}
		chosen, err := c.choose(ctx, g)
		if err != nil {
			return err
		}
		r := replayer{graveyard: g, cmd: c, remembers: bucket.CachedInfo().Config.MaxAge}
		done, err := r.all(ctx, t, chosen)
		if printErr := c.print(t, done); err == nil {
			err = printErr
		}
		if err != nil {
			return err
		}
		if !c.sends() && c.people() && slices.ContainsFunc(done, func(d replayed) bool { return d.Action == replayDo }) {
			_, _ = fmt.Fprintln(t.err, "nothing was sent; do it with --yes")
		}
		return verdictOn(done)
	})
}

func (c *deadReplayCmd) sends() bool { return c.Yes && !c.DryRun }

// choose returns the sequences that are meant, all of which exist.
func (c *deadReplayCmd) choose(ctx context.Context, g graveyard) ([]uint64, error) {
	var chosen []uint64
	if len(c.Sequences) == 0 {
		takes, err := c.takes(time.Now())
		if err != nil {
			return nil, usageError{err}
		}
		err = g.letters.Each(ctx, func(l consumer.Letter) error {
			if takes(l) {
				chosen = append(chosen, l.Sequence)
			}
			return nil
		})
		return chosen, err
	}
	for _, sequence := range c.Sequences {
		if slices.Contains(chosen, sequence) {
			continue
		}
		_, err := g.letters.Get(ctx, sequence)
		if errors.Is(err, consumer.ErrNoLetter) {
			return nil, notFoundError{fmt.Errorf("%w\nnothing was replayed; see `worker dead list`", err)}
		}
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, sequence)
	}
	return chosen, nil
}

func (c *deadReplayCmd) print(t *terminal, done []replayed) error {
	return printAll(t.out, c.outputFlag, done, func() error {
		if len(done) == 0 {
			_, err := fmt.Fprintln(t.out, "no dead letters")
			return err
		}
		tab := newTable(t.out, []string{"SEQ", "ACTION", "KEY", "SUBJECT", "WHY"}, "WHY", "KEY", "SUBJECT")
		for _, d := range done {
			tab.row(d.Sequence, d.Action, d.Key, d.Subject, d.Detail)
		}
		return tab.print()
	})
}

// verdictOn is the exit of the whole.
func verdictOn(done []replayed) error {
	refused := 0
	for _, d := range done {
		if d.Action == replayRefuse {
			refused++
		}
	}
	switch refused {
	case 0:
		return nil
	case len(done):
		return quietError{errors.New("all were refused")}
	default:
		return partlyError{fmt.Errorf("%d of %d were refused", refused, len(done))}
	}
}

// replayer goes through letters.
type replayer struct {
	graveyard

	cmd *deadReplayCmd
	// remembers is how long the ledger knows a request; 0 is for ever.
	remembers time.Duration
}

// all judges each letter right before it is sent. What was done is returned
// also when it breaks off.
func (r replayer) all(ctx context.Context, t *terminal, chosen []uint64) ([]replayed, error) {
	pace := time.NewTicker(time.Duration(float64(time.Second) / r.cmd.Rate))
	defer pace.Stop()
	var done []replayed
	sent := 0
	defer func() {
		if sent > 0 && isTerminal(t.err) {
			_, _ = fmt.Fprint(t.err, "\r\033[K")
		}
	}()
	for i, sequence := range chosen {
		letter, err := r.letters.Get(ctx, sequence)
		if errors.Is(err, consumer.ErrNoLetter) {
			continue // it has aged out since it was chosen
		}
		if err != nil {
			return done, err
		}
		d, m, err := r.judge(ctx, letter)
		if err != nil {
			return done, err
		}
		if d.Action == replayDo && r.cmd.sends() {
			if sent > 0 {
				select {
				case <-pace.C:
				case <-ctx.Done():
					return done, ctx.Err()
				}
			}
			sent++
			if err := r.send(ctx, letter, m, &d); err != nil {
				return done, err
			}
			if isTerminal(t.err) {
				_, _ = fmt.Fprintf(t.err, "\r%d of %d ", i+1, len(chosen))
			}
		}
		done = append(done, d)
	}
	return done, nil
}

// send publishes a request and remembers that. In this order: a letter that is
// marked but was not sent would be lost, and one that is sent twice is a
// duplicate.
func (r replayer) send(ctx context.Context, l consumer.Letter, m *nats.Msg, d *replayed) error {
	// An interruption waits for both.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), setupTimeout)
	defer cancel()
	ack, err := r.js.PublishMsg(ctx, m, jetstream.WithExpectStream(l.Stream))
	if err != nil {
		return fmt.Errorf("publish the dead letter %d on %s: %w\nit may have been stored all the same; replaying it once more is safe", l.Sequence, m.Subject, err)
	}
	d.Action, d.Stored = replayDone, ack.Sequence
	d.Detail = joined(fmt.Sprintf("sequence %d of %s", ack.Sequence, ack.Stream), d.Detail)
	err = r.book.NoteReplay(ctx, ledger.Replay{
		Letter: l.ID, At: time.Now().UTC(), By: person(r.cmd.By), Key: d.Key, Stream: ack.Stream, Sequence: ack.Sequence,
	})
	if err != nil {
		return fmt.Errorf("the dead letter %d was replayed, but is not marked as such: %w", l.Sequence, err)
	}
	return nil
}

// judge says what becomes of a letter, and how the request looks that would be
// published.
func (r replayer) judge(ctx context.Context, l consumer.Letter) (replayed, *nats.Msg, error) {
	m := l.Request(r.cmd.topology().RequestSubject(), person(r.cmd.By), time.Now())
	d := replayed{Sequence: l.Sequence, Subject: m.Subject}
	say := func(action, format string, args ...any) (replayed, *nats.Msg, error) {
		d.Action, d.Detail = action, fmt.Sprintf(format, args...)
		return d, m, nil
	}
	before, err := r.book.Replayed(ctx, l.ID)
	if err != nil {
		return d, nil, err
	}
	read := events.Decode(m.Header, m.Data)
	d.Key = read.Request.Key
	switch {
	case l.Truncated:
		return say(replayRefuse, "only the beginning of the body was kept: ask whoever sent it")
	case l.HeadersDropped:
		return say(replayRefuse, "its headers were not kept: ask whoever sent it")
	case before.Times > 0 && !r.cmd.Again:
		return say(replaySkip, "was replayed %s by %s%s; once more with --again", ago(time.Now(), before.At), before.By, withKey(before.Key))
	}
	known, err := r.known(ctx, d.Key)
	if err != nil {
		return d, nil, err
	}
	if known != nil && !known.State.Settled() {
		if known.State == provision.StateAccepted && !r.cmd.NewKey {
			return say(replayDuplicate, "is in work without it; see worker explain %s", d.Key)
		}
		return say(replayRefuse, "its outcome is not known yet (%s): worker explain %s", known.State, d.Key)
	}
	if r.cmd.NewKey {
		return r.judgeNew(ctx, l, m, d, known, before.Times)
	}
	return r.judgeOld(l, m, d, known, read)
}

// judgeOld is about a request that keeps its key.
func (r replayer) judgeOld(l consumer.Letter, m *nats.Msg, d replayed, known *provision.Record, read provision.Message) (replayed, *nats.Msg, error) {
	d.Action = replayDo
	switch {
	case read.Defect != nil:
		d.Detail = fmt.Sprintf("will die again (%s): %s", read.Defect.Reason, read.Defect.Detail)
		if read.Defect.Reason == provision.DeadNoKey || read.Defect.Reason == provision.DeadInvalidKey {
			d.Detail += "; --new-key gives it one"
		}
		if len(r.cmd.Sequences) == 0 {
			d.Action, d.Detail = replaySkip, d.Detail+"; name it to replay it all the same"
		}
	case len(read.Faults) > 0:
		d.Detail = "will be answered invalid-request: " + read.Faults[0].Detail
	case known != nil && !known.Request.Same(read.Request):
		d.Detail = "will be answered idempotency-conflict: the key was used for another order"
	case known != nil && known.State == provision.StateDone:
		d.Action, d.Detail = replayDuplicate, "was answered already"+boughtAs(known)
	case known != nil:
		d.Detail = "has its outcome, which is published once more"
	case r.remembers > 0 && time.Since(l.Time) > r.remembers:
		d.Action, d.Detail = replayRefuse, fmt.Sprintf("the ledger remembers for %s, and may have forgotten that it was done: see worker audit, or order it with --new-key", r.remembers)
	}
	return d, m, nil
}

// judgeNew is about a request that gets another key.
func (r replayer) judgeNew(ctx context.Context, l consumer.Letter, m *nats.Msg, d replayed, known *provision.Record, times int) (replayed, *nats.Msg, error) {
	if known != nil {
		d.Detail = d.Key + " was answered already" + boughtAs(known) + ": this is another order"
	}
	d.Key = newKey(d.Key, l.ID, times)
	var err error
	if m.Header, m.Data, err = events.Rekey(m.Header, m.Data, d.Key); err != nil {
		d.Action, d.Detail = replayRefuse, fmt.Sprintf("cannot get another key: %v", err)
		return d, nil, nil
	}
	again, err := r.known(ctx, d.Key)
	switch {
	case err != nil:
		return d, nil, err
	case again == nil:
		d.Action = replayDo
	case again.State.Settled():
		d.Action, d.Detail = replayDuplicate, "was ordered under this key before"+boughtAs(again)
	default:
		d.Action, d.Detail = replayRefuse, fmt.Sprintf("its outcome is not known yet (%s): worker explain %s", again.State, d.Key)
	}
	return d, m, nil
}

// known is the record of a key, nil without one or without a key.
func (r replayer) known(ctx context.Context, key string) (*provision.Record, error) {
	if key == "" {
		return nil, nil
	}
	return r.book.Load(ctx, key)
}

func boughtAs(r *provision.Record) string {
	switch {
	case r.VPSID != "":
		return " with " + r.VPSID
	case r.Outcome != nil:
		return ": " + string(r.Outcome.Reason)
	default:
		return ""
	}
}

// newKey makes a key of a letter, another one after each replay. That it was
// replayed is noted after the fact: whoever is interrupted in between and does
// it again gets the same key.
func newKey(old, letter string, times int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s#%d", letter, times))
	suffix := fmt.Sprintf("replay-%x", sum[:8])
	if old == "" || len(old)+1+len(suffix) > provision.MaxKeyLength {
		return suffix
	}
	return old + "." + suffix
}

func joined(first, rest string) string {
	if rest == "" {
		return first
	}
	return first + "; " + rest
}
