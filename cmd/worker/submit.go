package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hostup/deploy-worker/internal/batch"
	"github.com/hostup/deploy-worker/internal/provision"
)

// orderFlags are one order. No flag may have the name of one of run's: a
// configuration file may serve both.
type orderFlags struct {
	Key       string            `name:"key" env:"WORKER_SUBMIT_KEY" group:"One order" help:"Idempotency key; derived from the order unless given."`
	Name      string            `name:"name" env:"WORKER_SUBMIT_NAME" group:"One order" help:"Name of the server: 3 to 63 letters, digits and hyphens."`
	CPUCores  int32             `name:"cpu-cores" env:"WORKER_SUBMIT_CPU_CORES" placeholder:"N" group:"One order" help:"Cores, 1 to 32."`
	MemoryGB  int32             `name:"memory-gb" env:"WORKER_SUBMIT_MEMORY_GB" placeholder:"N" group:"One order" help:"Memory in GB, 1 to 256."`
	StorageGB int32             `name:"storage-gb" env:"WORKER_SUBMIT_STORAGE_GB" placeholder:"N" group:"One order" help:"Storage in GB, 50 to 2000."`
	Region    string            `name:"region" env:"WORKER_SUBMIT_REGION" group:"One order" help:"Region, like stockholm."`
	Metadata  map[string]string `name:"metadata" env:"WORKER_SUBMIT_METADATA" mapsep:"none" placeholder:"NAME=VALUE" group:"One order" help:"Echoed in every event; may be repeated."`
	AnswerBy  string            `name:"answer-by" env:"WORKER_SUBMIT_ANSWER_BY" placeholder:"TIME" group:"One order" help:"Deadline, as RFC 3339: fail when the order is not answered by then."`
}

func (o orderFlags) given() bool {
	return o.Key != "" || o.Name != "" || o.CPUCores != 0 || o.MemoryGB != 0 || o.StorageGB != 0 || o.Region != "" || len(o.Metadata) > 0 || o.AnswerBy != ""
}

func (o orderFlags) request() (provision.Request, error) {
	r := provision.Request{
		Key: o.Key, Name: o.Name, CPUCores: o.CPUCores, MemoryGB: o.MemoryGB, StorageGB: o.StorageGB,
		Region: o.Region, Metadata: o.Metadata,
	}
	if o.AnswerBy != "" {
		var err error
		if r.Deadline, err = time.Parse(time.RFC3339, o.AnswerBy); err != nil {
			return r, fmt.Errorf("--answer-by=%q: an RFC 3339 time like 2026-12-01T12:00:00Z is wanted", o.AnswerBy)
		}
	}
	return r, nil
}

type submitCmd struct {
	File      string        `name:"file" short:"f" env:"WORKER_SUBMIT_FILE" placeholder:"FILE" help:"File of orders: NDJSON, a JSON array, or CSV with the names of the fields in its first line. - is stdin."`
	Format    string        `name:"format" env:"WORKER_SUBMIT_FORMAT" enum:"auto,ndjson,json,csv" default:"auto" help:"What the file is written in: auto, ndjson, json or csv."`
	KeyPrefix string        `name:"key-prefix" env:"WORKER_SUBMIT_KEY_PREFIX" placeholder:"TEXT" help:"Begins the keys of orders that have none. Another prefix orders the same servers anew."`
	Lane      string        `name:"lane" env:"WORKER_SUBMIT_LANE" enum:"auto,single,batch" default:"auto" help:"single, or batch, which lets single orders go first; auto is batch for a file of more than one order."`
	DryRun    bool          `name:"dry-run" env:"WORKER_SUBMIT_DRY_RUN" help:"Say what it would cost and whether it fits the account. Orders nothing."`
	Wait      bool          `name:"wait" short:"w" env:"WORKER_SUBMIT_WAIT" help:"Wait for the outcomes."`
	Timeout   time.Duration `name:"timeout" env:"WORKER_SUBMIT_TIMEOUT" default:"1h" help:"Longest wait after everything was sent; 0 is for ever."`
	Resume    bool          `name:"resume" env:"WORKER_SUBMIT_RESUME" help:"Go on with a file whose submission was interrupted."`
	Journal   string        `name:"journal" env:"WORKER_SUBMIT_JOURNAL" placeholder:"FILE" help:"Where it is noted what was sent, for --resume; FILE.journal beside the file unless set, none for stdin and pipes."`
	CSVOut    string        `name:"csv-out" env:"WORKER_SUBMIT_CSV_OUT" placeholder:"FILE" help:"Also write the orders with their outcomes to this CSV file."`
	Quiet     bool          `name:"no-progress" env:"WORKER_SUBMIT_NO_PROGRESS" help:"Tell nothing while it goes on."`
	Trace     string        `name:"traceparent" env:"TRACEPARENT" placeholder:"W3C" help:"Trace that the orders belong to."`
	Output    string        `name:"output" short:"o" env:"WORKER_OUTPUT" enum:"table,json,jsonl,csv" default:"table" help:"table, json, jsonl, or csv: the input with the outcomes."`

	orderFlags
	natsSettings
	placeSettings
	hostupSettings
}

// Help is printed below the flags' summary.
func (*submitCmd) Help() string {
	return `Examples:
  worker submit --name web-01 --cpu-cores 2 --memory-gb 4 --storage-gb 80 --region stockholm --wait
  worker submit -f orders.csv --dry-run            what it costs per hour, whether it fits; orders nothing
  worker submit -f orders.csv --wait --csv-out done.csv
  worker submit -f orders.csv --wait --resume      after an interruption
  jq -c '.[]' orders.json | worker submit -f - --wait -o jsonl

Fields are idempotencyKey, name, cpuCores, memoryGb, storageGb, region, metadata and deadline (RFC 3339),
or cpu_cores and so on; in a CSV, metadata is a column for each entry (metadata.customer), or JSON in one
column. Every row is judged before the first one is sent; if any has a fault, all are listed and nothing is
sent. A field that does not exist is a fault.

An order without a key gets one made of --key-prefix, its name, and a hash over name, cores, memory, storage
and region. Metadata and deadline do not count, nor does the place in the file: sending a file again orders
nothing again, also after rows were added, moved, or corrected in their metadata. Rows that say the same are
one order; the later ones are reported as duplicates and not sent. To have two such servers, give the rows
keys of their own. Rows that have one key and say different things are faults. An order that failed stays
failed under its key: try it again with another key or --key-prefix.

Orders that were sent go on by themselves; interrupting the command stops no order. While it runs it keeps a
journal beside the file. Should it be interrupted, --resume sends what was not confirmed and waits on.

Exit codes: 0 all sent, with --wait all provisioning, with --dry-run all would fit; 1 nothing could be sent,
all failed, or --dry-run finds that not all would fit; 2 bad usage or input, nothing was sent; 4 some could
not be sent, some failed, or the only ones without an outcome at the timeout are held for a person;
5 unanswered at the timeout; 130 interrupted.`
}

// validate wants a file or an order.
func (c *submitCmd) validate() error {
	errs := []error{c.natsSettings.validate(), c.placeSettings.validate()}
	switch {
	case c.File == "" && !c.given():
		errs = append(errs, errors.New("give an order (--name, --cpu-cores, --memory-gb, --storage-gb, --region), or a file of them with -f"))
	case c.File != "" && c.given():
		errs = append(errs, errors.New("give an order by flags or a file of them with -f, not both"))
	}
	if _, err := c.request(); err != nil {
		errs = append(errs, err)
	}
	if len(c.KeyPrefix) > batch.MaxKeyPrefix || c.KeyPrefix != "" && !provision.ValidKey(c.KeyPrefix) {
		errs = append(errs, fmt.Errorf("--key-prefix=%q: at most %d printable ASCII characters", c.KeyPrefix, batch.MaxKeyPrefix))
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("--timeout=%s: must not be negative", c.Timeout))
	}
	if c.Resume && c.journalPath() == "" {
		errs = append(errs, errors.New("--resume needs a file (-f), or a --journal"))
	}
	if c.DryRun {
		_, err := c.tokens()
		errs = append(errs, c.hostupSettings.validate(), err)
		if c.Output == outputCSV {
			errs = append(errs, errors.New("--dry-run has no csv output"))
		}
	}
	return errors.Join(errs...)
}

// journalPath is where the journal lies, "" for none.
func (c *submitCmd) journalPath() string {
	switch {
	case c.Journal != "":
		return c.Journal
	case c.File == "" || c.File == stdin:
		return ""
	}
	if info, err := os.Stat(c.File); err == nil && !info.Mode().IsRegular() {
		return "" // a pipe, as of a shell's <(…)
	}
	return c.File + ".journal"
}

// stdin is the name of the file that is none.
const stdin = "-"

// input opens what the orders are read from.
func (c *submitCmd) input(ctx context.Context, t *terminal) (*batch.Input, error) {
	switch c.File {
	case "":
		r, err := c.request()
		return batch.Single(r), err
	case stdin:
		return spoolStdin(ctx, t)
	default:
		return batch.Open(c.File)
	}
}

// spoolStdin reads stdin to its end, but does not keep anybody from
// interrupting: a read of a terminal cannot be ended.
func spoolStdin(ctx context.Context, t *terminal) (*batch.Input, error) {
	type spooled struct {
		in  *batch.Input
		err error
	}
	done := make(chan spooled, 1)
	go func() {
		in, err := batch.Spool("stdin", t.in)
		done <- spooled{in, err}
	}()
	select {
	case s := <-done:
		return s.in, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Run orders, unless anything is wrong with the input.
func (c *submitCmd) Run(ctx context.Context, t *terminal) error {
	in, err := c.input(ctx, t)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return usageError{err}
	}
	defer func() { _ = in.Close() }() // what it leaves is removed by the system
	b, err := batch.Load(in, batch.Options{Format: batch.Format(c.Format), KeyPrefix: c.KeyPrefix})
	if err != nil {
		return usageError{err}
	}
	defer func() { _ = b.Close() }()
	if c.DryRun {
		return c.rehearse(ctx, t, b)
	}
	s := &submission{submitCmd: c, t: t, batch: b, input: in, startedAt: time.Now(), began: time.Now()}
	return s.run(ctx)
}
