package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hostup/deploy-worker/internal/broker"
)

type setupCmd struct {
	natsSettings
	placeSettings
	outputFlag

	DryRun bool `name:"dry-run" env:"WORKER_SETUP_DRY_RUN" help:"Print the difference and change nothing."`
}

// setupTimeout bounds the whole of setup.
const setupTimeout = 30 * time.Second

// Help is printed below the flags' summary.
func (*setupCmd) Help() string {
	return `Examples:
  worker setup --dry-run        what would change
  worker setup                  on one server
  worker setup --replicas 3     on a cluster

It is safe to repeat. What the worker does not rely on stays as you set it.`
}

func (c *setupCmd) validate() error {
	return errors.Join(c.natsSettings.validate(), c.placeSettings.validate())
}

// Run brings the broker to what the worker needs.
func (c *setupCmd) Run(ctx context.Context, t *terminal) error {
	nc, js, err := broker.Connect(c.options())
	if err != nil {
		return fmt.Errorf("%w\nstart a server with `nats-server -js`, or set NATS_URL", err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	plan, err := c.topology().Plan(ctx, js)
	if err != nil {
		return fmt.Errorf("%w\nis JetStream on? start the server with `nats-server -js`", err)
	}
	if c.people() {
		printPlan(t.out, plan)
	} else if err := json.NewEncoder(t.out).Encode(plan); err != nil {
		return err
	}
	if c.DryRun {
		return nil
	}
	if err := broker.Apply(ctx, plan); err != nil {
		return err
	}
	if c.people() {
		end := "done"
		if !slices.ContainsFunc(plan, func(c broker.Change) bool { return c.Action != broker.Keep }) {
			end = "nothing to do"
		}
		_, _ = fmt.Fprintln(t.out, end)
	}
	return nil
}

func printPlan(w io.Writer, plan []broker.Change) {
	for _, c := range plan {
		_, _ = fmt.Fprintf(w, "%-7s %-8s %s\n", c.Action, c.Kind, c.Name)
		for _, f := range c.Fields {
			if c.Action == broker.Create {
				_, _ = fmt.Fprintf(w, "          %-26s %s\n", f.Name, f.Want)
			} else {
				_, _ = fmt.Fprintf(w, "          %-26s %s -> %s\n", f.Name, f.Have, f.Want)
			}
		}
	}
}
