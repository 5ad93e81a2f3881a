package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

// witness is what the report knows beside what the show has seen: the gate as
// it was, the ledger and the dead letters as they are at the end.
type witness struct {
	mu   sync.Mutex
	gate []gateRow

	records map[string]*provision.Record
	// letters are the dead letters by the sequence of their request.
	letters map[uint64]consumer.Letter
}

// gateRow is what the gate was from a time on.
type gateRow struct {
	at  time.Time
	row admission.Gate
}

// watch takes down how the gate changes, until ctx ends.
func (w *witness) watch(ctx context.Context, book *ledger.Ledger, log *slog.Logger) {
	broken := func(err error) {
		log.WarnContext(ctx, "the gate could not be followed; the report may lack a change of it", "error", err)
	}
	book.Watch(ctx, ledger.Watch{Broken: broken, Control: ledger.Control{Broken: broken, Gate: func(g admission.Gate) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.gate = append(w.gate, gateRow{time.Now(), g})
	}}.Changed})
}

// gather reads what the ledger and the dead letters hold.
func (w *witness) gather(ctx context.Context, js jetstream.JetStream, book *ledger.Ledger, deadStream string) error {
	w.records = make(map[string]*provision.Record)
	if err := book.Records(ctx, func(r *provision.Record) error {
		w.records[r.Key] = r
		return nil
	}); err != nil {
		return err
	}
	letters, err := consumer.OpenLetters(ctx, js, deadStream)
	if err != nil {
		return err
	}
	w.letters = make(map[uint64]consumer.Letter)
	return letters.Each(ctx, func(l consumer.Letter) error {
		w.letters[l.Original] = l
		return nil
	})
}
