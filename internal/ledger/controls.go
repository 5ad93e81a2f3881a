package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// Rows that the fleet shares.
const (
	gateName, readsName, brakeName, spendName = "gate", "reads", "brake", "spend"

	gateKey  = controlPrefix + gateName
	readsKey = controlPrefix + readsName
	brakeKey = controlPrefix + brakeName
	spendKey = controlPrefix + spendName
	auditKey = controlPrefix + "audits"
)

// controlKeys are those that a Watch tells.
var controlKeys = []string{gateKey, readsKey, brakeKey, spendKey}

var (
	_ provision.Controls     = (*Ledger)(nil)
	_ provision.ReadControls = (*Ledger)(nil)
)

// UpdateGate implements provision.Controls.
func (l *Ledger) UpdateGate(ctx context.Context, change func(admission.Gate) (admission.Gate, bool)) (admission.Gate, error) {
	return update(ctx, l, gateKey, change, func(g *admission.Gate) *uint64 { return &g.Revision })
}

// UpdateReads implements provision.ReadControls.
func (l *Ledger) UpdateReads(ctx context.Context, change func(admission.Gate) (admission.Gate, bool)) (admission.Gate, error) {
	return update(ctx, l, readsKey, change, func(g *admission.Gate) *uint64 { return &g.Revision })
}

// UpdateBrake implements provision.Controls.
func (l *Ledger) UpdateBrake(ctx context.Context, change func(admission.Brake) (admission.Brake, bool)) (admission.Brake, error) {
	return update(ctx, l, brakeKey, change, func(b *admission.Brake) *uint64 { return &b.Revision })
}

// UpdateSpend implements provision.Controls.
func (l *Ledger) UpdateSpend(ctx context.Context, change func(admission.Spend) (admission.Spend, bool)) (admission.Spend, error) {
	return update(ctx, l, spendKey, change, func(s *admission.Spend) *uint64 { return &s.Revision })
}

// UpdateAudits changes the row of the timed audits, as UpdateGate does the
// gate's.
func (l *Ledger) UpdateAudits(ctx context.Context, change func(provision.Audits) (provision.Audits, bool)) (provision.Audits, error) {
	return update(ctx, l, auditKey, change, func(a *provision.Audits) *uint64 { return &a.Revision })
}

// update changes one row until it is stored or ctx ends. Somebody else's change
// in between is progress, so there is no bound on the tries.
func update[T any](ctx context.Context, l *Ledger, key string, change func(T) (T, bool), revision func(*T) *uint64) (T, error) {
	for {
		var stored T
		c, err := l.store.get(ctx, key)
		if err != nil {
			return stored, fmt.Errorf("read %s: %w", key, err)
		}
		if !c.absent() {
			if stored, err = decode[T](c.data); err != nil {
				return stored, fmt.Errorf("decode %s: %w", key, err)
			}
		}
		*revision(&stored) = c.revision
		next, changed := change(stored)
		if !changed {
			return stored, nil
		}
		data, err := encode(next)
		if err != nil {
			return stored, fmt.Errorf("encode %s: %w", key, err)
		}
		written, err := l.store.start(ctx, write{key: key, data: data, revision: c.revision, ttl: forever})()
		switch {
		case err == nil:
			*revision(&next) = written
			return next, nil
		case !errors.Is(err, provision.ErrConflict), ctx.Err() != nil:
			return stored, fmt.Errorf("store %s: %w", key, err)
		}
	}
}

// Control is told of the rows that the fleet shares, each of which may be nil. A
// row that is gone is a zero one of revision 0; what cannot be decoded is
// reported and not obeyed.
type Control struct {
	Gate   func(admission.Gate)
	Reads  func(admission.Gate)
	Brake  func(admission.Brake)
	Spend  func(admission.Spend)
	Broken func(error)
}

// Changed is a Watch.Control that decodes the rows.
func (c Control) Changed(name string, data []byte, revision uint64) {
	if len(data) == 0 {
		revision = 0
	}
	var err error
	switch name {
	case gateName:
		err = tell(data, admission.Gate{Revision: revision}, c.Gate)
	case readsName:
		err = tell(data, admission.Gate{Revision: revision}, c.Reads)
	case brakeName:
		err = tell(data, admission.Brake{Revision: revision}, c.Brake)
	case spendName:
		err = tell(data, admission.Spend{Revision: revision}, c.Spend)
	}
	if err != nil && c.Broken != nil {
		c.Broken(fmt.Errorf("decode %s%s: %w", controlPrefix, name, err))
	}
}

func tell[T any](data []byte, row T, to func(T)) error {
	if to == nil {
		return nil
	}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &row); err != nil {
			return err
		}
	}
	to(row)
	return nil
}
