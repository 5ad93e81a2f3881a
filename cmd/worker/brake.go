package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/ledger"
)

// brakeFlags is what pause and resume have in common. They need the ledger and
// no API key: the brake must work when nothing else does.
type brakeFlags struct {
	Reason string `name:"reason" env:"WORKER_BRAKE_REASON" required:"" help:"Why; every replica logs it."`
	By     string `name:"by" env:"WORKER_BRAKE_BY" help:"Who; the user of this machine unless set."`

	natsSettings
	placeSettings
	outputFlag
}

func (c *brakeFlags) validate() error {
	errs := []error{c.natsSettings.validate(), c.placeSettings.validate()}
	if c.Reason == "" {
		errs = append(errs, errors.New("--reason must say why"))
	}
	return errors.Join(errs...)
}

type pauseCmd struct{ brakeFlags }

// Help is printed below the flags' summary.
func (*pauseCmd) Help() string {
	return `Example:
  worker pause --reason 'the price list looks wrong'

It returns when the brake is stored; every replica obeys within a second. Requests wait; calls that
were already sent are finished, and what they bought is looked up and announced. Nothing but
worker resume takes the brake off again.`
}

type resumeCmd struct{ brakeFlags }

// Help is printed below the flags' summary.
func (*resumeCmd) Help() string {
	return `Example:
  worker resume --reason 'prices checked'

The counts behind WORKER_MAX_CREATES_PER_HOUR and WORKER_MAX_HOURLY_COST start anew, and doubles that
the audit suspected do not put the brake on a second time.`
}

// Run puts the brake on.
func (c *pauseCmd) Run(ctx context.Context, t *terminal) error {
	return c.change(ctx, func(l *ledger.Ledger) error {
		changed := false
		b, err := l.UpdateBrake(ctx, func(b admission.Brake) (next admission.Brake, ok bool) {
			next, changed = b.Set(time.Now(), person(c.By), c.Reason)
			return next, changed
		})
		if err != nil {
			return err
		}
		return c.tell(t.out, b, changed, "paused: no create call is made until worker resume", "already paused")
	})
}

// Run takes the brake off.
func (c *resumeCmd) Run(ctx context.Context, t *terminal) error {
	return c.change(ctx, func(l *ledger.Ledger) error {
		// The counts first: a cap that is still reached would put it on again.
		_, err := l.UpdateSpend(ctx, func(s admission.Spend) (admission.Spend, bool) { return s.Anew(time.Now()), true })
		if err != nil {
			return err
		}
		changed := false
		b, err := l.UpdateBrake(ctx, func(b admission.Brake) (next admission.Brake, ok bool) {
			next, changed = b.Lift(time.Now(), person(c.By), c.Reason)
			return next, changed
		})
		if err != nil {
			return err
		}
		return c.tell(t.out, b, changed, "resumed: creates go on", "not paused")
	})
}

// change works on the ledger, which has to exist.
func (c *brakeFlags) change(ctx context.Context, work func(*ledger.Ledger) error) error {
	nc, js, err := broker.Connect(c.options())
	if err != nil {
		return fmt.Errorf("%w\nstart a server, or set NATS_URL", err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	if _, err := js.Stream(ctx, "KV_"+c.Ledger); err != nil {
		return fmt.Errorf("the ledger %s: %w: create it with `worker setup`", c.Ledger, err)
	}
	return work(ledger.New(js, ledger.Config{Bucket: c.Ledger}))
}

func (c *brakeFlags) tell(w io.Writer, b admission.Brake, changed bool, done, already string) error {
	if !c.people() {
		return json.NewEncoder(w).Encode(map[string]any{"paused": b.On, "changed": changed, "reason": b.Reason, "by": b.By, "at": b.At})
	}
	if changed {
		_, err := fmt.Fprintln(w, done)
		return err
	}
	if b.By != "" {
		already += fmt.Sprintf(" (%s, %s: %s)", ago(time.Now(), b.At), b.By, b.Reason)
	}
	_, err := fmt.Fprintln(w, already)
	return err
}
