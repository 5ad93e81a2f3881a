package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/hostup/deploy-worker/internal/provision"
)

type auditCmd struct {
	workerSettings
	outputFlag
}

// Help is printed below the flags' summary.
func (*auditCmd) Help() string {
	return `Examples:
  worker audit                  what the account has that no order asked for, with its price
  worker audit -o json          the same for a program

Findings:
  orphan            a live pay-as-you-go server that no request is known for
  suspected-double  a server whose name belongs to a request that was given another one
  vanished          an announced server that is not in the account any more

Nothing is changed. Exit code 1 when anything was found. On a timer: WORKER_AUDIT_EVERY.`
}

func (c *auditCmd) validate() error {
	_, tokenErr := c.tokens()
	return errors.Join(c.workerSettings.validate(), tokenErr)
}

// Run compares the ledger with the account.
func (c *auditCmd) Run(ctx context.Context, t *terminal) error {
	return withEngine(ctx, c.workerSettings, t, func(e *engine) error {
		found, err := e.core.Audit(ctx, e.book)
		if err != nil {
			return err
		}
		if err := c.print(t, found); err != nil {
			return err
		}
		if len(found) > 0 {
			return quietError{fmt.Errorf("%d findings", len(found))}
		}
		return nil
	})
}

func (c *auditCmd) print(t *terminal, found []provision.Finding) error {
	return printAll(t.out, c.outputFlag, found, func() error {
		if len(found) == 0 {
			_, err := fmt.Fprintln(t.out, "ledger and account agree")
			return err
		}
		tab := newTable(t.out, []string{"FINDING", "SERVER", "NAME", "KEY", "PER HOUR", "DETAIL"}, "DETAIL", "KEY", "NAME")
		for _, f := range found {
			tab.row(string(f.Finding), f.VPSID, f.Name, f.IdempotencyKey, fmt.Sprintf("%.2f %s", f.PricePerHour, f.Currency), f.Detail)
		}
		return tab.print()
	})
}
