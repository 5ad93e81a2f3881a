package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/telemetry"
)

type runCmd struct {
	workerSettings

	Dev    bool   `name:"dev" env:"WORKER_DEV" group:"Development" help:"Start everything the worker needs inside the process: NATS with JetStream on disk, and the simulated HostUp API."`
	DevDir string `name:"dev-dir" env:"WORKER_DEV_DIR" placeholder:"DIR" group:"Development" help:"Where --dev keeps its streams; a temporary directory unless set."`
}

// Help is printed below the flags' summary.
func (*runCmd) Help() string {
	return `Examples:
  worker run --dev                          everything in one process, no account needed
  HOSTUP_API_TOKEN_FILE=key worker run      against NATS on this machine
  worker run --nats-url nats://n1,nats://n2 --concurrency 64

The first SIGTERM or SIGINT finishes what is in hand and exits 0; a second one exits at once with 130.`
}

// validate adds to the settings' own faults that work needs a key.
func (c *runCmd) validate() error {
	err := c.workerSettings.validate()
	if c.Dev {
		return err
	}
	_, tokenErr := c.tokens()
	return errors.Join(err, tokenErr)
}

// Run consumes until ctx is cancelled.
func (c *runCmd) Run(ctx context.Context, t *terminal) (err error) {
	s := c.workerSettings
	log := s.logger(t.err)
	if c.Dev {
		dev, err := startDev(ctx, &s, c.DevDir)
		if err != nil {
			return err
		}
		defer dev.stop()
		_, _ = fmt.Fprint(t.err, dev.greeting(s))
	}
	telemetry.ReportErrors(log) // the SDK tells what is wrong with its variables there
	exported := exports(os.LookupEnv)
	exported.Version = version
	tel, err := telemetry.Start(ctx, exported)
	if err != nil {
		return err
	}
	log = tel.Log(log)
	telemetry.ReportErrors(log)
	for _, name := range unread(os.LookupEnv) {
		log.Warn("this variable of OpenTelemetry is not followed: see docs/tracing.md", "variable", name)
	}
	opts := s.options()
	opts.Wait, opts.Log = true, log
	nc, js, err := broker.Connect(opts)
	if err != nil {
		return err
	}
	e, err := newEngine(s, nc, js, tel, log)
	if err != nil {
		nc.Close()
		return err
	}
	if err := e.observe(ctx.Done()); err != nil {
		nc.Close()
		return err
	}
	addr, stopAdmin, err := serve(ctx, s.AdminAddr, "WORKER_ADMIN_ADDR", e.adminHandler(ctx.Done()))
	if err != nil {
		nc.Close()
		return err
	}
	defer stopAdmin()
	stopNotify, err := e.notify(ctx)
	if err != nil {
		nc.Close()
		return err
	}
	defer stopNotify()
	log.Info("worker started", "version", version, "commit", revision(), "stream", s.Stream, "consumer", s.Consumer,
		"concurrency", s.Concurrency, "api", broker.RedactURL(s.APIURL), "admin", addr)
	if s.Provision {
		err = e.provision(ctx)
	}
	if err == nil {
		err = e.run(ctx)
	}
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	err = errors.Join(err, broker.Drain(rest, nc), tel.Shutdown(rest))
	if err == nil {
		log.Info("worker stopped: everything in hand was answered")
	}
	return err
}

// provision creates what is missing on the broker and changes nothing that
// exists. It waits for a broker that cannot be reached yet.
func (e *engine) provision(ctx context.Context) error {
	for {
		plan, err := e.settings.topology().Plan(ctx, e.js)
		if err == nil {
			err = broker.Apply(ctx, broker.Missing(plan))
			if ctx.Err() == nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // stopped before it began
		}
		e.log.WarnContext(ctx, "the streams cannot be looked at yet", "error", err)
		if !pause(ctx, keyPoll) {
			return nil
		}
	}
}
