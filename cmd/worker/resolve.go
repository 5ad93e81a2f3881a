package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/user"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/telemetry"
)

type resolveCmd struct {
	Key        string `arg:"" help:"Idempotency key of the held request."`
	Adopt      string `name:"adopt" env:"WORKER_RESOLVE_ADOPT" placeholder:"VPS_ID" help:"This server is the one that the request bought."`
	NotCreated bool   `name:"not-created" env:"WORKER_RESOLVE_NOT_CREATED" help:"Nothing was created; try again. Refused while the account has a server that could be it."`
	Abandon    bool   `name:"abandon" env:"WORKER_RESOLVE_ABANDON" help:"Give the request up: it fails with reason abandoned."`
	Reason     string `name:"reason" env:"WORKER_RESOLVE_REASON" required:"" help:"Why; kept in the ledger."`
	By         string `name:"by" env:"WORKER_RESOLVE_BY" help:"Who decides; the user of this machine unless set."`
	Billed     string `name:"billed" env:"WORKER_RESOLVE_BILLED" default:"unknown" help:"With --abandon: what it cost, as far as you know: no, yes or unknown."`

	workerSettings
	outputFlag
}

// Help is printed below the flags' summary.
func (*resolveCmd) Help() string {
	return `Examples:
  worker resolve order-1001 --adopt vps_01hxa… --reason 'seen in the control panel, created 10:02'
  worker resolve order-1001 --not-created --reason 'HostUp support: the call never arrived'
  worker resolve order-1001 --abandon --billed no --reason 'the customer cancelled'

The account is looked at again before anything is changed. Exit code 3 when there is no such request or server.`
}

// validate wants exactly one decision.
func (c *resolveCmd) validate() error {
	errs := []error{c.workerSettings.validate(), oneOf("WORKER_RESOLVE_BILLED", c.Billed, "no", "yes", "unknown")}
	given := 0
	for _, set := range []bool{c.Adopt != "", c.NotCreated, c.Abandon} {
		if set {
			given++
		}
	}
	if given != 1 {
		errs = append(errs, errors.New("give exactly one of --adopt VPS_ID, --not-created and --abandon"))
	}
	if c.Reason == "" {
		errs = append(errs, errors.New("--reason must say why"))
	}
	_, tokenErr := c.tokens()
	return errors.Join(append(errs, tokenErr)...)
}

func (c *resolveCmd) decision() provision.Resolution {
	d := provision.Resolution{Reason: c.Reason, By: c.By}
	d.By = person(d.By)
	switch {
	case c.Adopt != "":
		d.Action, d.VPSID = provision.ResolveAdopt, c.Adopt
	case c.NotCreated:
		d.Action = provision.ResolveNotCreated
	default:
		d.Action, d.Billed = provision.ResolveAbandon, provision.Billed(c.Billed)
	}
	return d
}

// Run carries out a person's decision.
func (c *resolveCmd) Run(ctx context.Context, t *terminal) error {
	return withEngine(ctx, c.workerSettings, t, func(e *engine) error {
		r, err := e.core.Resolve(ctx, c.Key, c.decision())
		if errors.Is(err, provision.ErrNoRecord) || errors.Is(err, provision.ErrNoServer) {
			return notFoundError{err}
		}
		if err != nil {
			return err
		}
		if err := e.core.Wait(ctx); err != nil {
			return err
		}
		if !c.people() {
			return json.NewEncoder(t.out).Encode(map[string]any{"idempotencyKey": r.Key, "state": r.State, "vpsId": r.VPSID, "resolution": r.Resolution})
		}
		switch r.State {
		case provision.StateAccepted:
			_, err = fmt.Fprintf(t.out, "%s: will be tried again by a running worker within %s\n", r.Key, heldPoll)
		case provision.StateCreated:
			_, err = fmt.Fprintf(t.out, "%s: adopted %s; deploy.provisioning was published\n", r.Key, r.VPSID)
		default:
			_, err = fmt.Fprintf(t.out, "%s: abandoned; deploy.failed was published\n", r.Key)
		}
		return err
	})
}

// person is who decides: the one who is named, or the user of this machine.
func person(named string) string {
	if named != "" {
		return named
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return unknown
}

// withEngine runs an operator's command on a worker that consumes nothing.
func withEngine(ctx context.Context, s workerSettings, t *terminal, work func(*engine) error) error {
	if s.LogLevel == "info" {
		s.LogLevel = "warn" // the result is on stdout
	}
	log := s.logger(t.err)
	tel, err := telemetry.Start(ctx, telemetry.Options{Version: version})
	if err != nil {
		return err
	}
	nc, js, err := broker.Connect(s.options())
	if err != nil {
		return fmt.Errorf("%w\nstart a server, or set NATS_URL", err)
	}
	defer nc.Close()
	e, err := newEngine(s, nc, js, tel, log)
	if err != nil {
		return err
	}
	defer e.client.Close()
	if err := e.complete(ctx); err != nil {
		return err
	}
	return errors.Join(work(e), tel.Shutdown(context.WithoutCancel(ctx)))
}
