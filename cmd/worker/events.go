package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/events"
	"github.com/hostup/deploy-worker/internal/provision"
)

type eventsCmd struct {
	Reader        string   `name:"reader" env:"WORKER_EVENTS_READER" placeholder:"NAME" help:"Go on where this durable consumer of the events stream stands, and let it remember how far it has come."`
	FromBeginning bool     `name:"from-beginning" env:"WORKER_EVENTS_FROM_BEGINNING" help:"Begin with the oldest stored event."`
	Since         string   `name:"since" env:"WORKER_EVENTS_SINCE" placeholder:"TIME" help:"Begin with events stored at this time: RFC 3339, or an age like 2h or 7d."`
	NoFollow      bool     `name:"no-follow" env:"WORKER_EVENTS_NO_FOLLOW" help:"End when everything stored has been given. From the beginning, unless --since or --reader says otherwise."`
	Count         int      `name:"count" env:"WORKER_EVENTS_COUNT" placeholder:"N" help:"End after so many events."`
	Kind          []string `name:"kind" env:"WORKER_EVENTS_KIND" placeholder:"KIND" help:"Only this kind of event; repeat it for more: provisioning, failed, held."`
	Key           []string `name:"key" env:"WORKER_EVENTS_KEY" help:"Only events of this idempotency key; repeat it for more."`
	Reason        []string `name:"reason" env:"WORKER_EVENTS_REASON" help:"Only failures for this reason, or whose problem has this code; repeat it for more."`
	Name          string   `name:"name" env:"WORKER_EVENTS_NAME" help:"Only servers with this in their name; with * or ? it is a pattern of the whole name."`
	Region        string   `name:"region" env:"WORKER_EVENTS_REGION" help:"Only requests for this region."`

	readerFlags
}

// Help is printed below the flags' summary.
func (*eventsCmd) Help() string {
	return `Examples:
  worker events                                what happens from now on
  worker events --kind failed --kind held
  worker events --since 1h -o jsonl | jq -r 'select(.reason == "refused") | .problem.detail'
  worker events --key order-1001 --no-follow   all that was ever answered to a key
  worker events --key order-1001 --count 1     wait for the next one
  worker events --reader billing -o jsonl      all that billing has not had yet, and what comes

Without --from-beginning, --since or --no-follow only what is published from now on is shown. With
-o json the events are the elements of one array, which is closed at the end, also by Ctrl-C. It
needs no API key and changes nothing.

With --reader it goes on where the last one with that name ended; worker setup --reader makes it
first. An event counts as read once it is written, or left out by a filter. Whatever ends the
command, none is lost; one may come twice, with the same id.`
}

func (c *eventsCmd) validate() error {
	_, err := moment("WORKER_EVENTS_SINCE", c.Since, time.Now())
	errs := []error{c.readerFlags.validate(), validPattern("WORKER_EVENTS_NAME", c.Name), err}
	for _, k := range c.Kind {
		errs = append(errs, oneOf("WORKER_EVENTS_KIND", k, "provisioning", "failed", "held"))
	}
	if c.Count < 0 {
		errs = append(errs, fmt.Errorf("WORKER_EVENTS_COUNT=%d: must not be negative", c.Count))
	}
	if c.FromBeginning && c.Since != "" {
		errs = append(errs, errors.New("give one of --from-beginning and --since"))
	}
	if c.Reader != "" && (c.FromBeginning || c.Since != "") {
		errs = append(errs, errors.New("--reader goes on where it stands: give it without --from-beginning and --since"))
	}
	if c.Reader != "" {
		errs = append(errs, validReader("WORKER_EVENTS_READER", c.Reader))
	}
	return errors.Join(errs...)
}

// Run follows the events.
func (c *eventsCmd) Run(ctx context.Context, t *terminal) error {
	follow, err := c.follow(time.Now())
	if err != nil {
		return usageError{err}
	}
	return c.broker(func(js jetstream.JetStream) error {
		out := newEventPrinter(t.out, c.outputFlag, c.SubjectPrefix)
		given := 0
		err := events.Follow(ctx, js, follow, func() { c.begun(t) }, func(f events.Followed) error {
			if !c.wants(f) {
				return nil
			}
			given++
			if err := out.print(f); err != nil {
				return fmt.Errorf("print an event: %w", err)
			}
			if given == c.Count {
				return events.ErrEnough
			}
			return nil
		})
		switch {
		case errors.Is(err, events.ErrEnough):
			err = nil
		case c.Reader != "" && (errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrConsumerDeleted)):
			err = fmt.Errorf("%w: make %s with `worker setup --reader %s`", err, c.Reader, c.Reader)
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("%w: create it with `worker setup`", err)
		}
		return errors.Join(err, out.end())
	})
}

func (c *eventsCmd) follow(now time.Time) (events.FollowConfig, error) {
	since, err := moment("WORKER_EVENTS_SINCE", c.Since, now)
	f := events.FollowConfig{Stream: c.EventsStream, Prefix: c.SubjectPrefix, Since: since, Reader: c.Reader}
	if c.FromBeginning || c.NoFollow && since.IsZero() {
		f.From = 1
	}
	if c.NoFollow {
		f.Ended = func() bool { return true }
	}
	for _, k := range c.Kind {
		f.Kinds = append(f.Kinds, provision.Kind(k))
	}
	return f, err
}

// begun tells a person who looks at a quiet terminal that nothing is wrong.
func (c *eventsCmd) begun(t *terminal) {
	if !c.NoFollow && isTerminal(t.err) {
		_, _ = fmt.Fprintf(t.err, "following %s; Ctrl-C ends it\n", c.EventsStream)
	}
}

// wants reports whether an event is asked for. What cannot be read has no name,
// region or reason.
func (c *eventsCmd) wants(f events.Followed) bool {
	switch {
	case len(c.Key) > 0 && !slices.Contains(c.Key, f.Key):
		return false
	case !named(c.Name, f.Request.Name), c.Region != "" && !strings.EqualFold(c.Region, f.Request.Region):
		return false
	}
	return len(c.Reason) == 0 || slices.ContainsFunc(c.Reason, func(reason string) bool {
		return string(f.Reason) == reason || f.Problem != nil && problemOf(f.Problem).Code == reason
	})
}

// eventJSON is an event as one JSON object: what is around its body, and the
// members of the body.
func eventJSON(f events.Followed, prefix string) (json.RawMessage, error) {
	around := struct {
		ID         string    `json:"id"`
		Subject    string    `json:"subject"`
		Time       time.Time `json:"time"`
		Sequence   uint64    `json:"sequence"`
		Unreadable string    `json:"unreadable,omitempty"`
	}{f.ID, f.Subject, f.StoredAt.UTC(), f.Sequence, ""}
	if f.Unreadable != nil {
		around.Unreadable = f.Unreadable.Error()
		return json.Marshal(around)
	}
	head, err := json.Marshal(around)
	if err != nil {
		return nil, err
	}
	e := f.Event
	e.Encoding = provision.JSON
	m, err := events.Encode(prefix, e)
	if err != nil {
		return nil, err
	}
	// Both are objects, and the body has a key at least.
	return slices.Concat(head[:len(head)-1], []byte(","), m.Data[1:]), nil
}
