package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/ledger"
)

// readerFlags is what the commands have in common that read what is on the
// broker. They need no API key and change nothing.
type readerFlags struct {
	natsSettings
	placeSettings
	outputFlag
}

func (c *readerFlags) validate() error {
	return errors.Join(c.natsSettings.validate(), c.placeSettings.validate())
}

// broker works on what is on the broker.
func (c *readerFlags) broker(work func(jetstream.JetStream) error) error {
	nc, js, err := broker.Connect(c.options())
	if err != nil {
		return fmt.Errorf("%w\nstart a server, or set NATS_URL", err)
	}
	defer nc.Close()
	return work(js)
}

// ledger works on the ledger, which has to exist.
func (c *readerFlags) ledger(ctx context.Context, work func(*ledger.Ledger) error) error {
	return c.broker(func(js jetstream.JetStream) error {
		asking, cancel := context.WithTimeout(ctx, setupTimeout)
		defer cancel()
		if _, err := js.Stream(asking, "KV_"+c.Ledger); err != nil {
			return fmt.Errorf("the ledger %s: %w: create it with `worker setup`", c.Ledger, err)
		}
		return work(ledger.New(js, ledger.Config{Bucket: c.Ledger}))
	})
}

// moment reads a time that a person gives: RFC 3339, or how long ago it was,
// like 90s, 2h or 7d; "" is the zero time.
func moment(variable, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, strings.ToUpper(s)); err == nil {
		return t, nil
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("%s=%q: give a time like 2026-12-01T12:00:00Z or an age like 90s, 2h or 7d", variable, s)
	}
	return now.Add(-d), nil
}

// named reports whether a name is meant by a pattern: one with * or ? is that
// of the whole name, any other is a part of it. The case of letters does not
// count, as it does not for HostUp.
func named(pattern, name string) bool {
	pattern, name = strings.ToLower(pattern), strings.ToLower(name)
	if !strings.ContainsAny(pattern, "*?") {
		return strings.Contains(name, pattern)
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// validReader judges the name of a durable consumer.
func validReader(variable, name string) error {
	if nameable(name, false) {
		return nil
	}
	return fmt.Errorf("%s=%q: a name has letters, digits, - and _", variable, name)
}

// validPattern judges a pattern for names.
func validPattern(variable, pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("%s=%q: %w", variable, pattern, err)
	}
	return nil
}
