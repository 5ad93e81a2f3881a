package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/hostup/deploy-worker/internal/broker"
)

type configCmd struct {
	workerSettings
	outputFlag
}

// Help is printed below the flags' summary.
func (*configCmd) Help() string {
	return `Examples:
  worker config                                     what run would use here
  worker config --config-file worker.yaml -o json   with a file, for a program`
}

// redacted stands for a secret that is set.
const redacted = "[redacted]"

// Run prints every variable with its effective value.
func (c *configCmd) Run(t *terminal, parsed *kong.Context) error {
	values := effective(parsed)
	return printOne(t.out, c.outputFlag, values, func() error {
		tab := newTable(t.out, []string{"VARIABLE", "VALUE"}, "VALUE")
		for _, name := range slices.Sorted(maps.Keys(values)) {
			tab.row(name, values[name])
		}
		return tab.print()
	})
}

// effective returns the variables of the worker with what they are in force.
func effective(parsed *kong.Context) map[string]string {
	values := make(map[string]string)
	for _, group := range parsed.Selected().AllFlags(true) {
		for _, f := range group {
			if len(f.Envs) == 0 || f.Name == "output" {
				continue
			}
			values[f.Envs[0]] = display(f, parsed.FlagValue(f))
		}
	}
	return values
}

// display is a value as one would write it, without secrets.
func display(f *kong.Flag, v any) string {
	s := fmt.Sprint(v)
	if d, ok := v.(time.Duration); ok {
		s = shortDuration(d)
		if usual, err := time.ParseDuration(f.Default); err == nil && usual == d {
			s = f.Default
		}
	}
	switch f.Name {
	case "hostup-api-token", "nats-password":
		if s != "" {
			return redacted
		}
	case "nats-url", "hostup-api-url":
		return broker.RedactURL(s)
	}
	return s
}

// shortDuration is Go's syntax without the zero units: 24h, not 24h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
