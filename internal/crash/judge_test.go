package crash

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// breach is what can be wrong.
type breach string

const (
	tooManyServers  breach = "more than one paid server for a key"
	nobodyAsked     breach = "a server was bought that nobody asked for"
	wrongEventID    breach = "not exactly one outcome event id"
	eventChanged    breach = "one event id with two contents"
	notEnded        breach = "a request did not end"
	unannounced     breach = "billed and not announced"
	wrongServer     breach = "a server was announced that was not bought for the key"
	unprovenCreate  breach = "a create followed one that was not proved to have created nothing"
	workerBroke     breach = "a worker misbehaved"
	workedAlone     breach = "work went on without a majority"
	stoodStill      breach = "work stood still although a majority was there"
	harnessBroke    breach = "the suite itself failed"
	notBuried       breach = "a message that nobody can read is not in the dead letters once"
	differentBilled breach = "an event says that nothing was billed, and something was"
)

type violation struct {
	kind breach
	key  string
	text string
}

// facts are all that a round is judged by: what was asked for, what the API
// sold, and what the requesters were told.
type facts struct {
	orders    []order
	creates   []simulator.Create
	invoices  []simulator.Invoice
	events    []event
	allowHeld bool
	// letters are the bodies that nobody can read, buried those of the dead
	// letters.
	letters, buried []string
}

// judge finds everything that is wrong.
func (f *facts) judge() []violation {
	var found []violation
	report := func(kind breach, key, format string, args ...any) {
		found = append(found, violation{kind, key, fmt.Sprintf(format, args...)})
	}
	f.judgeEvents(report)
	f.judgeServers(report)
	f.judgeCreates(report)
	f.judgeLetters(report)
	return found
}

// judgeLetters: what cannot be answered is kept, and nothing else is buried.
func (f *facts) judgeLetters(report reporter) {
	times := make(map[string]int)
	for _, body := range f.buried {
		times[body]++
	}
	for _, body := range f.letters {
		if times[body] != 1 {
			report(notBuried, "", "%q: %d times", body, times[body])
		}
		delete(times, body)
	}
	for body := range times {
		report(notBuried, "", "%q should have been answered", body)
	}
}

type reporter func(kind breach, key, format string, args ...any)

// judgeEvents: each key ends, with one outcome event id, and the same id always
// has the same contents.
func (f *facts) judgeEvents(report reporter) {
	data := make(map[string]string)
	ids := make(map[string]map[string]bool)
	for _, e := range f.events {
		if first, seen := data[e.ID]; seen && first != e.Data {
			report(eventChanged, e.Key, "%s: %s and %s", e.ID, first, e.Data)
		}
		data[e.ID] = e.Data
		if e.outcome() {
			if ids[e.Key] == nil {
				ids[e.Key] = make(map[string]bool)
			}
			ids[e.Key][e.ID] = true
			if want := keyHash(e.Key) + "." + e.Kind; e.ID != want {
				report(wrongEventID, e.Key, "%s, want %s", e.ID, want)
			}
		}
	}
	for _, o := range f.orders {
		if len(ids[o.key]) > 1 {
			report(wrongEventID, o.key, "%d ids", len(ids[o.key]))
		}
		delete(ids, o.key)
	}
	for _, o := range unended(f.orders, f.events, f.allowHeld) {
		if !f.allowHeld || !o.twin {
			report(notEnded, o.key, "no outcome event")
		}
	}
	for key := range ids {
		report(wrongEventID, key, "an outcome for a key that nobody used")
	}
}

func keyHash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// product is what orders that cannot be told apart at the API have in common.
type product struct {
	name                   string
	cores, memory, storage int
}

func (o order) product() product { return product{o.name, o.cores, o.memory, o.storage} }

// judgeServers: at most one paid server per key, each of them announced to a
// key that asked for it, and nothing announced that was not bought.
func (f *facts) judgeServers(report reporter) {
	buyers := make(map[product][]order)
	for _, o := range f.orders {
		buyers[o.product()] = append(buyers[o.product()], o)
	}
	bought := make(map[product]map[string]bool)
	for _, i := range f.invoices {
		p := product{i.Name, i.Resources.CPUCores, i.Resources.MemoryGB, i.Resources.StorageGB}
		if len(buyers[p]) == 0 {
			report(nobodyAsked, "", "%s %s", i.VPSID, i.Name)
			continue
		}
		if bought[p] == nil {
			bought[p] = make(map[string]bool)
		}
		bought[p][i.VPSID] = true
	}
	ended := outcomes(f.events)
	for p, of := range buyers {
		if extra := len(bought[p]) - len(of); extra > 0 {
			report(tooManyServers, of[0].key, "%d servers for %d keys", len(bought[p]), len(of))
		}
		f.judgeAnnounced(report, of, bought[p], ended)
	}
}

// judgeAnnounced compares the servers of one product with what its buyers were
// told. bought is used up.
func (f *facts) judgeAnnounced(report reporter, of []order, bought map[string]bool, ended map[string]event) {
	open := 0 // buyers who were told that nobody knows
	for _, o := range of {
		e, is := ended[o.key]
		switch {
		case is && e.Kind == "provisioning":
			switch {
			case bought[e.VPSID]:
				delete(bought, e.VPSID)
			case o.ambiguous:
				// The namesake alone could be seen while the own one lagged.
				open++
			default:
				report(wrongServer, o.key, "%s", e.VPSID)
			}
		case is && e.Billed == "unknown" && (o.ambiguous || f.allowHeld),
			!is && f.allowHeld && heldKeys(f.events)[o.key]:
			open++
		}
	}
	if len(bought) <= open {
		return
	}
	kind := unannounced
	for _, o := range of {
		if e, is := ended[o.key]; is && e.Billed == "no" {
			kind = differentBilled
		}
	}
	report(kind, of[0].key, "%d servers", len(bought)-open)
}

// judgeCreates: a create follows another of the same name only when the other
// one surely created nothing: it was refused, or what was unknown about it has
// been looked up for the settle time. Keys of one name may buy one server each.
func (f *facts) judgeCreates(report reporter) {
	byName := make(map[string][]simulator.Create)
	for _, c := range f.creates {
		if c.Name == "" && !c.Created {
			continue // its sender was killed in the middle of the body
		}
		byName[c.Name] = append(byName[c.Name], c)
	}
	buyers := make(map[string][]order)
	for _, o := range f.orders {
		buyers[o.name] = append(buyers[o.name], o)
	}
	for name, creates := range byName {
		of := buyers[name]
		if len(of) == 0 {
			report(nobodyAsked, "", "a create of %q", name)
			continue
		}
		others := len(of) - 1
		for i := range len(creates) - 1 {
			before, after := creates[i], creates[i+1]
			switch {
			case before.Created && others > 0:
				others--
			case before.Created:
				report(unprovenCreate, of[0].key, "create %d bought %s, and create %d followed", i+1, before.VPSID, i+2)
			case refused(before.Outcome):
			case f.allowHeld:
				report(unprovenCreate, of[0].key, "create %d ended with %s, and create %d followed", i+1, before.Outcome, i+2)
			case after.At.Sub(before.At) < settleTime(before):
				report(unprovenCreate, of[0].key, "create %d ended with %s, and create %d followed after %s", i+1, before.Outcome, i+2, after.At.Sub(before.At))
			}
		}
	}
}

// refused reports whether an outcome in the simulator's log proves that
// nothing was created: a 4xx but for those that say nothing.
func refused(outcome string) bool {
	return len(outcome) == 3 && outcome[0] == '4' && outcome != "408" && outcome != "425"
}

// settleTime is the shortest time after which absence may count as proved; it
// is short only after a problem document of the API itself. The log has the
// time at which a create arrived, which is before its end, so less than this
// between two of them cannot be right.
func settleTime(c simulator.Create) time.Duration {
	if strings.HasPrefix(c.Outcome, "5") && !strings.Contains(c.Fault, "bare") && !strings.Contains(c.Fault, "upstream_") {
		return settleAnswered
	}
	return settleUnanswered
}

// tell prints what is known of some keys, or of all of them when a violation
// belongs to none.
func (f *facts) tell(out io.Writer, keys map[string]bool) {
	for _, o := range f.orders {
		if !keys[o.key] && !keys[""] {
			continue
		}
		_, _ = fmt.Fprintf(out, "--- %s, name %s\n", o.key, o.name)
		for _, c := range f.creates {
			if c.Name == o.name {
				_, _ = fmt.Fprintf(out, "create %s outcome %s created %t %s fault %s\n", c.At.Format("15:04:05.000"), c.Outcome, c.Created, c.VPSID, c.Fault)
			}
		}
		for _, e := range f.events {
			if e.Key == o.key {
				_, _ = fmt.Fprintf(out, "event %s %s %s\n", e.Kind, e.ID, e.Data)
			}
		}
	}
}
