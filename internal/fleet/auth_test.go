package fleet

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// auth: a key that is revoked fails nobody; a new one lets everybody go on.
func auth(ctx context.Context, b *bench) {
	key := filepath.Join(b.dir, "key")
	s := setup{
		replicas: 3, concurrency: 8, api: simulator.Config{Latency: 50 * time.Millisecond},
		env: map[string]string{"HOSTUP_API_TOKEN": "", "HOSTUP_API_TOKEN_FILE": key},
	}
	const replaced = "the-new-key"
	if err := os.WriteFile(key, []byte(token), 0o600); err != nil {
		b.judgef("auth", false, "%v", err)
		return
	}
	b.in(ctx, "auth", s, func(w *world) {
		load := orders("load", 800, 1)
		w.place(load...)
		w.await("creates under load", func() bool { return len(w.sim.Invoices()) > 50 })
		w.update(func(c *simulator.Config) { c.Token = replaced })
		bought := len(w.sim.Invoices())
		var red int
		var why string
		w.until(patience/4, func() bool { red, why = w.red(); return red == len(w.replicas) })
		w.judgef(red == len(w.replicas), "replicas that are not ready and say why: %d of %d (%s)", red, len(w.replicas), why)
		before := w.sim.Stats().Outcomes["401"]
		w.watch(3 * time.Second)
		w.notef("creates answered 401: %d, and %d more in the 3 s after all were red; sold meanwhile %d", before,
			w.sim.Stats().Outcomes["401"]-before, len(w.sim.Invoices())-bought)
		w.must(os.WriteFile(key+".new", []byte(replaced), 0o600), "write the key")
		w.must(os.Rename(key+".new", key), "replace the key")
		w.until(patience, func() bool { return w.witness.ended() == len(load) })
		w.judgef(w.witness.count(provisioned) == len(load), "provisioned with the new key %d, failed %d (goal %d, 0)",
			w.witness.count(provisioned), w.witness.count(failed), len(load))
		w.judgef(w.green() == len(w.replicas), "replicas that are ready again: %d of %d", w.green(), len(w.replicas))
		w.judgeOnce()
		w.judgeNothingLost(0)
	})
}
