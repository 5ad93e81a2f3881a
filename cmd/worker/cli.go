package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Exit codes (contract section 1).
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitPartly      = 4
	exitTimeout     = 5
	exitInterrupted = 130
)

// cli is the command line: the one description of every flag, its variable,
// its default and its help.
type cli struct {
	ConfigFile string `name:"config-file" env:"WORKER_CONFIG_FILE" placeholder:"FILE" help:"YAML file of settings, by flag or variable name. Flags win over the environment, the environment over the file."`

	Run        runCmd        `cmd:"" help:"Consume requests until SIGTERM or SIGINT."`
	Demo       demoCmd       `cmd:"" help:"Show the main job end to end on nothing but this binary."`
	Submit     submitCmd     `cmd:"" help:"Order servers: one by flags, or a file of them."`
	List       listCmd       `cmd:"" help:"List the requests that the ledger knows."`
	Get        getCmd        `cmd:"" help:"Show what the ledger holds of one request."`
	Explain    explainCmd    `cmd:"" help:"Tell the whole story of one request, and what comes next."`
	Events     eventsCmd     `cmd:"" help:"Follow the outcome events."`
	Resolve    resolveCmd    `cmd:"" help:"Decide a held request: adopt a server, try again, or abandon it."`
	Audit      auditCmd      `cmd:"" help:"Compare the ledger with the account's servers. Changes nothing."`
	Dead       deadCmd       `cmd:"" help:"List, show and replay dead letters."`
	Doctor     doctorCmd     `cmd:"" help:"Check everything that run depends on, and say what to do."`
	Health     healthCmd     `cmd:"" help:"Ask a running worker whether it lives, or is ready: exit code 0 or 1."`
	Top        topCmd        `cmd:"" help:"Watch queue, requests, gate and limits on a full screen. Changes nothing."`
	Pause      pauseCmd      `cmd:"" help:"Put the brake on: no new create call anywhere in the fleet."`
	Resume     resumeCmd     `cmd:"" help:"Take the brake off."`
	Simulate   simulateCmd   `cmd:"" help:"Serve the simulated HostUp API."`
	Setup      setupCmd      `cmd:"" help:"Create or update the streams, the consumer and the ledger."`
	Completion completionCmd `cmd:"" help:"Print what makes a shell complete worker's commands and flags."`
	Config     configCmd     `cmd:"" help:"Print the effective configuration, secrets redacted."`
	Version    versionCmd    `cmd:"" help:"Print version, commit and Go version."`
}

const description = `Turns deploy requests from NATS JetStream into exactly one HostUp server and one outcome event each.

Try it without anything else: worker demo`

// usageError is a mistake of the caller: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// notFoundError: something asked for does not exist: exit code 3.
type notFoundError struct{ error }

func (e notFoundError) Unwrap() error { return e.error }

// partlyError: some of a batch failed: exit code 4. What failed has been told on
// stdout already.
type partlyError struct{ error }

func (e partlyError) Unwrap() error { return e.error }

// timeoutError: what was waited for did not happen in time: exit code 5.
type timeoutError struct{ error }

func (e timeoutError) Unwrap() error { return e.error }

// quietError has been told on stdout already: exit code 1 and no more words.
type quietError struct{ error }

func (e quietError) Unwrap() error { return e.error }

// helped ends parsing after --help has printed.
type helped struct{ code int }

// run is the program: it returns the exit code and never exits itself.
func run(ctx context.Context, args []string, t *terminal) (code int) {
	defer func() {
		if p := recover(); p != nil {
			h, ok := p.(helped)
			if !ok {
				panic(p)
			}
			code = h.code
		}
	}()
	var c cli
	file := make(fileValues)
	parser, err := kong.New(&c,
		kong.Name("worker"), kong.Description(description),
		kong.Writers(t.out, t.err),
		kong.Exit(func(code int) { panic(helped{code}) }),
		kong.Resolvers(file),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	)
	if err != nil {
		// The command line itself is malformed: a bug, found by any test.
		panic(err)
	}
	complete(parser)
	if len(args) == 0 {
		args = []string{"--help"}
	}
	unreadable := checkValues(parser, args, file)
	parsed, err := parser.Parse(args)
	if err != nil {
		return report(t.err, usageError{fmt.Errorf("%w\nsee `worker --help`", errors.Join(unreadable, err))})
	}
	if err := errors.Join(unreadable, validate(parsed)); err != nil {
		return report(t.err, usageError{err})
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run(t, parsed)
	if err == nil {
		return exitDone
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		_, _ = fmt.Fprintln(t.err, "worker: interrupted")
		return exitInterrupted
	}
	return report(t.err, err)
}

// validate asks the chosen command what is wrong with its settings.
func validate(parsed *kong.Context) error {
	if v, ok := reflect.TypeAssert[interface{ validate() error }](parsed.Selected().Target.Addr()); ok {
		return v.validate()
	}
	return nil
}

// report tells an error to a person and returns its exit code.
func report(w io.Writer, err error) int {
	if _, told := errors.AsType[quietError](err); told {
		return exitFailed
	}
	_, _ = fmt.Fprintln(w, "worker:", harmless(err.Error()))
	if unanswered(err) {
		_, _ = fmt.Fprintln(w, "worker: if that was the broker, it may be choosing a leader, so try again in some seconds,"+
			" or it does not permit this: `worker doctor` tells")
	}
	for _, kind := range []struct {
		code int
		is   func(error) bool
	}{
		{exitUsage, isA[usageError]},
		{exitNotFound, isA[notFoundError]},
		{exitPartly, isA[partlyError]},
		{exitTimeout, isA[timeoutError]},
	} {
		if kind.is(err) {
			return kind.code
		}
	}
	return exitFailed
}

// unanswered says that something had no answer in time, most likely a request to
// the broker, which its client tells in words that say nothing to who reads them.
func unanswered(err error) bool {
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
	return late && !isA[timeoutError](err) && !isA[*provision.ReadError](err)
}

func isA[E error](err error) bool {
	_, is := errors.AsType[E](err)
	return is
}
