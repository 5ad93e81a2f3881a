package provision_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/provision"
)

// harmless says whether a verdict proves that nothing was bought, and another
// attempt may follow.
func harmless(v provision.Verdict) bool {
	return v == provision.VerdictThrottled || v == provision.VerdictNeverSent || v == provision.VerdictRefused
}

// safe reports what is wrong with a key's history: a second server, a create
// after one that may have bought, more or less than one outcome.
func (w *world) safe(key string, ended bool) []string {
	var wrong []string
	if n := w.api.made(key); n > 1 {
		wrong = append(wrong, fmt.Sprintf("%d servers were bought for %q", n, key))
	}
	var last *call
	for _, c := range w.api.sent() {
		if c.Key != key {
			continue
		}
		if c.Rival != "" {
			wrong = append(wrong, fmt.Sprintf("a create for %q while %q may have a server of that name", key, c.Rival))
		}
		if c.State != "creating" {
			wrong = append(wrong, fmt.Sprintf("a create for %q while the ledger held %s", key, c.State))
		}
		if last != nil {
			wrong = append(wrong, w.follows(key, *last, c)...)
		}
		last = &c
	}
	if n := len(w.events.outcomes(key)); n > 1 || ended && n != 1 {
		wrong = append(wrong, fmt.Sprintf("outcome ids of %q: %v", key, w.events.outcomes(key)))
	}
	if n := len(w.events.ids(key, provision.KindHeld)); n > 1+w.decided[key] {
		wrong = append(wrong, fmt.Sprintf("%q was held %d times", key, n))
	}
	if r := w.shelf.peek(key); ended && (r == nil || r.State != provision.StateDone) {
		wrong = append(wrong, fmt.Sprintf("the record of %q: %+v", key, r))
	}
	return append(wrong, w.accounted()...)
}

// follows reports why a create must not have followed another one of its key:
// it takes a verdict, a proof of absence by the witness's own record of the
// looks, or a person.
func (w *world) follows(key string, last, c call) []string {
	var wrong []string
	if last.Ended.IsZero() || last.Ended.After(c.At) {
		wrong = append(wrong, fmt.Sprintf("a create for %q while another was in flight", key))
	}
	if last.Verdict == provision.VerdictCreated || last.Bought {
		wrong = append(wrong, fmt.Sprintf("a create for %q followed one that bought a server (%q)", key, last.Verdict))
	}
	if c.Recorded == provision.VerdictThrottled && c.At.Before(last.Ended.Add(last.After)) {
		wrong = append(wrong, fmt.Sprintf("a create for %q came %s after a 429 that asked for %s", key, c.At.Sub(last.Ended), last.After))
	}
	if harmless(c.Recorded) && (harmless(last.Verdict) || w.api.unsent(key, last.At, c.At)) || w.decided[key] > 0 {
		return wrong
	}
	over := w.cfg.SettleUnanswered
	if last.Answered {
		over = w.cfg.SettleAnswered
	}
	need := w.cfg.SettleReads
	if w.wiped[key] {
		over, need = 0, 1
	}
	looks, newest := 0, time.Time{}
	for _, l := range w.inventory.looked() {
		if l.Err == nil && strings.EqualFold(l.Name, c.Name) && !l.At.Before(last.Ended) && !l.At.After(c.At) {
			looks, newest = looks+1, l.At
		}
	}
	if looks < need || newest.Sub(last.Ended) < over {
		wrong = append(wrong, fmt.Sprintf("a create for %q followed %q (recorded as %q) after %d looks over %s; it takes %d over %s",
			key, last.Verdict, c.Recorded, looks, newest.Sub(last.Ended), need, over))
	}
	return wrong
}

// unsent reports whether some intent between two calls was never sent, so that
// the verdict recorded last is not that of the earlier call.
func (a *api) unsent(key string, from, to time.Time) bool {
	intents := 0
	for _, e := range a.journal.all() {
		if e.Op == "intend" && e.What == "creating" && e.Key == key && e.At.After(from) && !e.At.After(to) {
			intents++
		}
	}
	return intents > 1
}

// accounted reports servers that were announced twice, and servers that were
// bought and of whom nobody says so.
func (w *world) accounted() []string {
	var wrong []string
	told := make(map[string]string)
	for _, e := range w.events.all() {
		if e.Kind != provision.KindProvisioning {
			continue
		}
		if other, ok := told[e.VPSID]; ok && other != e.Key {
			wrong = append(wrong, fmt.Sprintf("the server %s was announced for %q and for %q", e.VPSID, other, e.Key))
		}
		told[e.VPSID] = e.Key
	}
	for _, s := range w.inventory.all() {
		if _, ok := told[s.ID]; ok || s.Key == "" {
			continue
		}
		if r := w.shelf.peek(s.Key); r != nil && r.State == provision.StateDone && (r.Outcome.Kind == provision.KindProvisioning || r.Outcome.Billed == provision.BilledNo) {
			wrong = append(wrong, fmt.Sprintf("the server %s of %q was announced for nobody, and %q ended %s, billed %s", s.ID, s.Key, s.Key, r.Outcome.Kind, r.Outcome.Billed))
		}
	}
	return wrong
}
