package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

type deadCmd struct {
	List   deadListCmd   `cmd:"" help:"List dead letters, the newest first."`
	Show   deadShowCmd   `cmd:"" help:"Show one dead letter with its headers and its body."`
	Replay deadReplayCmd `cmd:"" help:"Publish dead letters again as requests: a dry run until --yes."`
}

// graveyard is what the commands about dead letters work with.
type graveyard struct {
	js      jetstream.JetStream
	letters *consumer.Letters
	book    *ledger.Ledger
}

// dead works on the dead letters, whose stream has to exist.
func (c *readerFlags) dead(ctx context.Context, work func(graveyard) error) error {
	return c.broker(func(js jetstream.JetStream) error {
		asking, cancel := context.WithTimeout(ctx, setupTimeout)
		defer cancel()
		letters, err := consumer.OpenLetters(asking, js, c.DeadStream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("%w\ncreate it with `worker setup`, or set WORKER_DEAD_STREAM", err)
		}
		if err != nil {
			return err
		}
		return work(graveyard{js: js, letters: letters, book: ledger.New(js, ledger.Config{Bucket: c.Ledger})})
	})
}

// deadFilter selects dead letters.
type deadFilter struct {
	Reason  []string `name:"reason" env:"WORKER_DEAD_REASON" placeholder:"REASON" help:"Only letters that died for this reason; repeat it for more: undecodable, no-key, invalid-key, too-large, panic."`
	Since   string   `name:"since" env:"WORKER_DEAD_SINCE" placeholder:"TIME" help:"Only what died at this time or later: RFC 3339, or an age like 2h or 7d."`
	Until   string   `name:"until" env:"WORKER_DEAD_UNTIL" placeholder:"TIME" help:"Only what died before this time."`
	Subject string   `name:"subject" env:"WORKER_DEAD_SUBJECT" placeholder:"SUBJECT" help:"Only what was published on this subject."`
}

func (f deadFilter) validate() error {
	var errs []error
	for _, r := range f.Reason {
		errs = append(errs, oneOf("WORKER_DEAD_REASON", r, string(provision.DeadUndecodable), string(provision.DeadNoKey),
			string(provision.DeadInvalidKey), string(provision.DeadTooLarge), string(provision.DeadPanic)))
	}
	_, err := f.takes(time.Now())
	return errors.Join(append(errs, err)...)
}

func (f deadFilter) set() bool {
	return len(f.Reason) > 0 || f.Since != "" || f.Until != "" || f.Subject != ""
}

// takes returns what tells the letters that are meant.
func (f deadFilter) takes(now time.Time) (func(consumer.Letter) bool, error) {
	since, err := moment("WORKER_DEAD_SINCE", f.Since, now)
	until, errUntil := moment("WORKER_DEAD_UNTIL", f.Until, now)
	return func(l consumer.Letter) bool {
		return (len(f.Reason) == 0 || slices.Contains(f.Reason, string(l.Reason))) &&
			(since.IsZero() || !l.Time.Before(since)) && (until.IsZero() || l.Time.Before(until)) &&
			(f.Subject == "" || l.Subject == f.Subject)
	}, errors.Join(err, errUntil)
}

// deadView is a dead letter as it is printed (contract section 5).
type deadView struct {
	Sequence         uint64    `json:"sequence"`
	Reason           string    `json:"reason"`
	Detail           string    `json:"detail"`
	Subject          string    `json:"subject"`
	Stream           string    `json:"stream"`
	OriginalSequence uint64    `json:"originalSequence"`
	Deliveries       uint64    `json:"deliveries"`
	Time             time.Time `json:"time"`
	Size             int       `json:"size"`
	Truncated        bool      `json:"truncated,omitempty"`
	// ReplayedAt and Replays are there once it was replayed.
	ReplayedAt time.Time `json:"replayedAt,omitzero"`
	Replays    int       `json:"replays,omitempty"`
}

func viewOf(l consumer.Letter, r ledger.Replay) deadView {
	return deadView{
		Sequence: l.Sequence, Reason: string(l.Reason), Detail: l.Detail, Subject: l.Subject, Stream: l.Stream, OriginalSequence: l.Original,
		Deliveries: l.Deliveries, Time: l.Time, Size: l.Size, Truncated: l.Truncated, ReplayedAt: r.At, Replays: r.Times,
	}
}

type deadListCmd struct {
	deadFilter

	Limit int `name:"limit" env:"WORKER_DEAD_LIMIT" default:"0" help:"At most so many, the newest; 0 is all."`

	readerFlags
}

// Help is printed below the flags' summary.
func (*deadListCmd) Help() string {
	return `Examples:
  worker dead list --since 24h
  worker dead list --reason panic --reason undecodable -o jsonl

Dead letters are evidence: nothing but the age or size that you gave their stream removes them.`
}

func (c *deadListCmd) validate() error {
	errs := []error{c.readerFlags.validate(), c.deadFilter.validate()}
	if c.Limit < 0 {
		errs = append(errs, fmt.Errorf("--limit=%d: must not be negative", c.Limit))
	}
	return errors.Join(errs...)
}

// Run lists dead letters.
func (c *deadListCmd) Run(ctx context.Context, t *terminal) error {
	takes, err := c.takes(time.Now())
	if err != nil {
		return usageError{err}
	}
	return c.dead(ctx, func(g graveyard) error {
		replays, err := g.book.Replays(ctx)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		found := []deadView{}
		err = g.letters.Each(ctx, func(l consumer.Letter) error {
			if takes(l) {
				found = append(found, viewOf(l, replays[l.ID]))
			}
			return nil
		})
		if err != nil {
			return err
		}
		slices.Reverse(found)
		if c.Limit > 0 && len(found) > c.Limit {
			found = found[:c.Limit]
		}
		return c.print(t, found)
	})
}

func (c *deadListCmd) print(t *terminal, found []deadView) error {
	return printAll(t.out, c.outputFlag, found, func() error {
		if len(found) == 0 {
			_, err := fmt.Fprintln(t.out, "no dead letters")
			return err
		}
		now := time.Now()
		tab := newTable(t.out, []string{"SEQ", "DIED", "REASON", "REPLAYED", "WHY"}, "WHY")
		for _, v := range found {
			tab.row(v.Sequence, ago(now, v.Time), v.Reason, ago(now, v.ReplayedAt), v.Detail)
		}
		return tab.print()
	})
}

type deadShowCmd struct {
	Sequence uint64 `arg:"" help:"Sequence of the dead letter, as list prints it."`

	readerFlags
}

// Help is printed below the flags' summary.
func (*deadShowCmd) Help() string {
	return `Example:
  worker dead show 7
  worker dead show 7 -o json | jq -r .body

The headers are those of the request. A body that is not UTF-8 is base64 in JSON, with "bodyEncoding": "base64".`
}

// deadWhole is a dead letter with everything in it.
type deadWhole struct {
	deadView

	Headers nats.Header `json:"headers"`
	Body    string      `json:"body"`
	// BodyEncoding is base64, or empty for a text.
	BodyEncoding string `json:"bodyEncoding,omitempty"`
}

// Run shows a dead letter.
func (c *deadShowCmd) Run(ctx context.Context, t *terminal) error {
	return c.dead(ctx, func(g graveyard) error {
		l, err := g.letters.Get(ctx, c.Sequence)
		if errors.Is(err, consumer.ErrNoLetter) {
			return notFoundError{fmt.Errorf("%w\nsee `worker dead list`", err)}
		}
		if err != nil {
			return err
		}
		r, err := g.book.Replayed(ctx, l.ID)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		v := deadWhole{deadView: viewOf(l, r), Headers: l.Headers, Body: string(l.Body)}
		if !utf8.Valid(l.Body) {
			v.Body, v.BodyEncoding = base64.StdEncoding.EncodeToString(l.Body), "base64"
		}
		return printOne(t.out, c.outputFlag, v, func() error { return showLetter(t, l, r) })
	})
}

func showLetter(t *terminal, l consumer.Letter, r ledger.Replay) error {
	now, number := time.Now(), strconv.FormatUint(l.Sequence, 10)
	tab := newTable(t.out, []string{"DEAD LETTER", number}, number)
	tab.row("reason", string(l.Reason))
	tab.row("detail", l.Detail)
	tab.row("died", fmt.Sprintf("%s (%s), deliveries: %d", ago(now, l.Time), l.Time.UTC().Format(time.RFC3339), l.Deliveries))
	tab.row("was", fmt.Sprintf("%s, sequence %d of %s", l.Subject, l.Original, l.Stream))
	if r.Times > 0 {
		tab.row("replayed", fmt.Sprintf("%s by %s, as sequence %d of %s%s; replays: %d", ago(now, r.At), r.By, r.Sequence, r.Stream, withKey(r.Key), r.Times))
	}
	for _, name := range slices.Sorted(maps.Keys(l.Headers)) {
		for _, value := range l.Headers[name] {
			tab.row(name, value)
		}
	}
	if err := tab.print(); err != nil {
		return err
	}
	about := fmt.Sprintf("%d bytes", l.Size)
	if l.Truncated {
		about += ", the beginning of a longer body"
	}
	if l.HeadersDropped {
		about += "; the headers did not fit and are gone"
	}
	_, err := fmt.Fprintf(t.out, "%s:\n%s\n", about, harmless(string(l.Body)))
	return err
}

func withKey(key string) string {
	if key == "" {
		return ""
	}
	return " for " + key
}
