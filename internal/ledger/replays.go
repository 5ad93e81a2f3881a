package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// replayPrefix begins dead.<H of the id of a dead letter>.
const replayPrefix = "dead."

// Replay is the memory of a dead letter that was published again. It is kept
// for as long as the bucket: a letter that looks as if nobody had replayed it
// could buy again.
type Replay struct {
	// Letter is the id of the letter.
	Letter string `json:"letter"`
	// Times counts replays; the rest is of the newest.
	Times int       `json:"times"`
	At    time.Time `json:"at"`
	By    string    `json:"by,omitempty"`
	Key   string    `json:"idempotencyKey,omitempty"`
	// Stream and Sequence are where the request was stored.
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`

	Revision uint64 `json:"-"`
	Newer    string `json:"-"` // see encode
}

// Replayed returns the memory of a letter, a zero one when it was never
// replayed.
func (l *Ledger) Replayed(ctx context.Context, letter string) (Replay, error) {
	return l.updateReplay(ctx, letter, func(r Replay) (Replay, bool) { return r, false })
}

// NoteReplay remembers a replay and counts it.
func (l *Ledger) NoteReplay(ctx context.Context, r Replay) error {
	_, err := l.updateReplay(ctx, r.Letter, func(before Replay) (Replay, bool) {
		r.Times, r.Newer = before.Times+1, before.Newer
		return r, true
	})
	return err
}

func (l *Ledger) updateReplay(ctx context.Context, letter string, change func(Replay) (Replay, bool)) (Replay, error) {
	return update(ctx, l, replayPrefix+provision.KeyHash(letter), change, func(r *Replay) *uint64 { return &r.Revision })
}

// Replays returns what is remembered of all letters, by their id.
func (l *Ledger) Replays(ctx context.Context) (map[string]Replay, error) {
	found := make(map[string]Replay)
	err := read(ctx, l.store, scope{prefix: replayPrefix, values: true}, func(c change) error {
		if len(c.data) == 0 {
			return nil
		}
		r, err := decode[Replay](c.data)
		if err != nil {
			return fmt.Errorf("decode revision %d: %w", c.revision, err)
		}
		found[r.Letter] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what was replayed: %w", err)
	}
	return found, nil
}
