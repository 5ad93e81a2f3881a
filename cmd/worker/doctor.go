package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

type doctorCmd struct {
	workerSettings
	outputFlag
	diskFlags
}

// Help is printed below the flags' summary.
func (*doctorCmd) Help() string {
	return `Examples:
  worker doctor
  worker doctor --nats-monitor http://n1:8222,http://n2:8222,http://n3:8222
  worker doctor -o json | jq '.[] | select(.status != "ok")'

One line a check: ok, warning or failure, and what to do about it. Exit code 1 when anything is a failure.

Nothing is changed and nothing is ordered. NATS permissions are tried with messages that the broker refuses or
cannot read, so that nothing is stored, taken or answered; whoever listens on the subjects of events without
JetStream sees an empty message with the header deploy-doctor. HostUp is only read: that the key may order
(write:billing) would only be proved by an order. Give it the settings that run has.`
}

// The three results of an examination.
const (
	checkOK   = "ok"
	checkWarn = "warning"
	checkFail = "failure"
)

// examination is one line of the doctor (contract section 5).
type examination struct {
	Check  string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix"`
}

// doctor collects what it finds.
type doctor struct {
	settings workerSettings
	// monitor are the monitoring addresses, synced whether all of them say that
	// what is confirmed is on the disk.
	monitor string
	synced  bool
	found   []examination
}

func (d *doctor) okf(check, format string, args ...any) {
	d.say(check, checkOK, fmt.Sprintf(format, args...), "")
}

func (d *doctor) say(check, status, detail, fix string) {
	d.found = append(d.found, examination{Check: check, Status: status, Detail: detail, Fix: fix})
}

// doctorTimeout bounds all examinations, and stepTimeout one that may have to
// wait for an answer that does not come.
const (
	doctorTimeout = time.Minute
	stepTimeout   = 5 * time.Second
)

// Run examines everything that run depends on. What is not ours may be slow:
// NATS and HostUp are examined at once.
func (c *doctorCmd) Run(ctx context.Context, t *terminal) error {
	bounded, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	local, queue, api := &doctor{settings: c.workerSettings}, &doctor{settings: c.workerSettings, monitor: c.NATSMonitor}, &doctor{settings: c.workerSettings}
	local.local()
	var both sync.WaitGroup
	both.Go(func() { queue.nats(bounded) })
	both.Go(func() { api.api(bounded) })
	both.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	found := append(append(local.found, queue.found...), api.found...)
	if err := c.print(t, found); err != nil {
		return err
	}
	for _, e := range found {
		if e.Status == checkFail {
			return quietError{errors.New("something is a failure")}
		}
	}
	return nil
}

func (c *doctorCmd) print(t *terminal, found []examination) error {
	return printAll(t.out, c.outputFlag, found, func() error {
		counts := make(map[string]int)
		tab := newTable(t.out, []string{"STATUS", "CHECK", "DETAIL"}, "DETAIL")
		for _, e := range found {
			counts[e.Status]++
			detail := e.Detail
			if e.Fix != "" {
				detail += "\n-> " + e.Fix
			}
			tab.row(e.Status, e.Check, detail)
		}
		if err := tab.print(); err != nil {
			return err
		}
		_, err := fmt.Fprintf(t.out, "ok: %d, warnings: %d, failures: %d\n", counts[checkOK], counts[checkWarn], counts[checkFail])
		return err
	})
}
