package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/broker"
)

type setupCmd struct {
	natsSettings
	placeSettings
	outputFlag

	Reader      []string `name:"reader" env:"WORKER_SETUP_READER" placeholder:"NAME" help:"Also a durable consumer of the events stream, for who reads outcomes with worker events --reader NAME; repeat it for more."`
	DryRun      bool     `name:"dry-run" env:"WORKER_SETUP_DRY_RUN" help:"Print the difference and change nothing."`
	AllowWeaker bool     `name:"allow-weaker" env:"WORKER_SETUP_ALLOW_WEAKER" help:"Make changes that give up some safety, and leave as it is what is unsafe and cannot be changed. Both are refused otherwise."`
}

// setupTimeout bounds the whole of setup.
const setupTimeout = 30 * time.Second

// Help is printed below the flags' summary.
func (*setupCmd) Help() string {
	return `Examples:
  worker setup --dry-run          what would change
  worker setup                    on one server
  worker setup --replicas 3       on a cluster
  worker setup --reader billing   and a memory of what billing has read of the outcomes

It is safe to repeat. What the worker does not rely on stays as you set it, and so do replicas, a
duplicate window and max_ack_pending that are larger than asked for.

A change that gives up some safety is refused: nothing at all is changed, and each of them is named.
So is a setting that JetStream cannot change on what exists. --allow-weaker permits both.

A reader begins with the oldest stored event. Without --reader those that exist stay as they are.`
}

func (c *setupCmd) validate() error {
	errs := []error{c.natsSettings.validate(), c.placeSettings.validate()}
	for _, name := range c.Reader {
		errs = append(errs, validReader("WORKER_SETUP_READER", name))
	}
	return errors.Join(errs...)
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
	wanted := c.topology()
	wanted.Readers = c.Reader
	plan, err := wanted.Plan(ctx, js)
	if err != nil {
		return fmt.Errorf("%w\nis JetStream on? start the server with `nats-server -js`", err)
	}
	if c.people() {
		printPlan(t.out, plan)
	} else if err := json.NewEncoder(t.out).Encode(plan); err != nil {
		return err
	}
	refused := weaker(plan)
	if c.DryRun {
		if len(refused) > 0 && !c.AllowWeaker {
			_, _ = fmt.Fprintln(t.err, "worker setup would refuse this without --allow-weaker:\n"+strings.Join(refused, "\n"))
		}
		return nil
	}
	if len(refused) > 0 && !c.AllowWeaker {
		return fmt.Errorf("nothing was changed, because safety would be given up:\n%s\nset the variable to what is there, mend it as described, or accept it with --allow-weaker", strings.Join(refused, "\n"))
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

// weaker names what a plan gives up, and what it has to leave unsafe.
func weaker(plan []broker.Change) []string {
	var all []string
	for _, c := range plan {
		for _, f := range c.Fields {
			is := fmt.Sprintf("  %s %s: %s is %s, wanted %s", c.Kind, c.Name, f.Name, f.Have, f.Want)
			if f.Weakens != "" {
				all = append(all, is+": "+f.Weakens)
			}
			if f.Fixed != "" {
				all = append(all, is+", and cannot be changed on what exists: "+f.Why+"; to mend it, "+f.Fixed)
			}
		}
	}
	return all
}

func printPlan(w io.Writer, plan []broker.Change) {
	for _, c := range plan {
		_, _ = fmt.Fprintf(w, "%-7s %-8s %s\n", c.Action, c.Kind, c.Name)
		for _, f := range c.Fields {
			switch {
			case c.Action == broker.Create:
				_, _ = fmt.Fprintf(w, "          %-26s %s\n", f.Name, f.Want)
			case f.Fixed != "":
				_, _ = fmt.Fprintf(w, "          %-26s %s, wanted %s: stays, it cannot be changed\n", f.Name, f.Have, f.Want)
			case f.Weakens != "":
				_, _ = fmt.Fprintf(w, "          %-26s %s -> %s: WEAKER\n", f.Name, f.Have, f.Want)
			default:
				_, _ = fmt.Fprintf(w, "          %-26s %s -> %s\n", f.Name, f.Have, f.Want)
			}
		}
	}
}
