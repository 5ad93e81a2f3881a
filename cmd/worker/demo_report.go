package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/consumer"
	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/runreport"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// The classes of the latency table.
const (
	classStraight = "straight to a server"
	classGate     = "held up by a 429"
	classLost     = "answer lost"
	classFailed   = "failed"
)

// writeReport writes the page that --report asks for.
func (w *show) writeReport(page *wholeFile, saw *witness, sim *simulator.Server, limits simulator.Limits, faults []string) error {
	defer page.discard()
	if err := runreport.Write(page.file, w.run(saw, sim, limits, faults)); err != nil {
		return err
	}
	if err := page.keep(); err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	return nil
}

// run is the demo as the report tells it.
func (w *show) run(saw *witness, sim *simulator.Server, limits simulator.Limits, faults []string) runreport.Run {
	run := runreport.Run{
		Title: "worker demo", Version: "worker " + version, Started: w.started, Ended: w.ended,
		Claim: "Every outcome is as it should be, and no order was bought twice", Faults: faults, Messages: w.messages, Classes: []string{classStraight, classGate, classLost, classFailed},
		Closures: saw.closures(), Limits: used(sim, limits, w.started), Calls: countCalls(sim.Creates()),
	}
	for _, o := range w.orders {
		run.Orders = append(run.Orders, w.order(o, saw))
	}
	for _, inv := range sim.Invoices() {
		run.Currency = inv.CurrencyCode
		key, told := w.owner(inv)
		run.Servers = append(run.Servers, runreport.Server{
			Name: inv.Name, Key: key, ID: inv.VPSID, Told: told, At: inv.At, PricePerHour: inv.PricePerHour,
			Size: fmt.Sprintf("%d cores, %d GB, %d GB disk", inv.Resources.CPUCores, inv.Resources.MemoryGB, inv.Resources.StorageGB),
		})
	}
	return run
}

func (w *show) order(o *demoOrder, saw *witness) runreport.Order {
	outcome, detail, right := o.judge()
	var record *provision.Record
	if !o.rejected() {
		record = saw.records[o.key]
	}
	var letter *consumer.Letter
	if l, there := saw.letters[o.sequence]; there {
		letter = &l
	}
	told := runreport.Order{
		Key: o.key, About: o.about, Outcome: outcome, Right: right, Took: -1,
		Steps: o.steps(record, letter, saw.closures(), w.started, w.ended),
	}
	if len(o.events) > 0 {
		told.Took = o.took
		told.Class = class(o.events[0], told.Steps)
	}
	switch outcome {
	case string(provision.KindProvisioning):
		if o.events[0].Adopted {
			told.Detail = "adopted"
		}
	default:
		told.Detail = detail
	}
	return told
}

// class is the row of the latency table that an event counts in; a held order
// has no outcome yet.
func class(e provision.Event, steps []runreport.Step) string {
	had := func(kinds ...runreport.Kind) bool {
		return slices.ContainsFunc(steps, func(s runreport.Step) bool { return slices.Contains(kinds, s.Kind) })
	}
	switch {
	case e.Kind == provision.KindHeld:
		return ""
	case e.Kind == provision.KindFailed:
		return classFailed
	case had(runreport.Unknown):
		return classLost
	case had(runreport.Throttled, runreport.WaitGate):
		return classGate
	default:
		return classStraight
	}
}

// owner is whose server was bought, and how the orderer knows of it.
func (w *show) owner(inv simulator.Invoice) (key, told string) {
	for _, o := range w.orders {
		if o.request.Name != inv.Name || o.rejected() {
			continue
		}
		switch {
		case len(o.events) == 0:
			return o.key, "not at all: no event came"
		case o.events[0].Kind == provision.KindHeld:
			return o.key, "not yet: the order is held"
		case o.events[0].VPSID != inv.VPSID:
			return o.key, "its event does not name this server"
		case o.events[0].Adopted:
			return o.key, "by its event; found by a look-up"
		default:
			return o.key, "by its event"
		}
	}
	return "", "nobody ordered it"
}

// closures are the times in which the gate was not open.
func (w *witness) closures() []runreport.Closure {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []runreport.Closure
	open := true
	for _, g := range w.gate {
		last := len(all) - 1
		now := runreport.Closure{From: g.at, Reason: gateWords(g.row), Probing: g.row.Phase == admission.Probing}
		shut := g.row.Phase == admission.Closed || now.Probing
		if !open && shut && all[last].Probing == now.Probing && all[last].Reason == now.Reason {
			continue // it counts something, or closes for longer
		}
		if !open {
			all[last].To = g.at
		}
		if open = !shut; shut {
			all = append(all, now)
		}
	}
	return all
}

// used is how much of the account's limits was taken, by the account's own
// books: what was there before, and what was bought.
func used(sim *simulator.Server, limits simulator.Limits, started time.Time) []runreport.Limit {
	none := func() []runreport.Reading { return []runreport.Reading{{At: started}} }
	all := []runreport.Limit{
		{Name: "Servers", Max: limits.Instances, Readings: none()},
		{Name: "Cores", Max: limits.CPUCores, Readings: none()},
		{Name: "Memory", Unit: "GB", Max: limits.MemoryGB, Readings: none()},
		{Name: "Storage", Unit: "GB", Max: limits.StorageGB, Readings: none()},
	}
	servers := sim.Servers()
	slices.SortStableFunc(servers, func(a, b simulator.VPS) int { return a.CreatedAt.Compare(b.CreatedAt) })
	for _, s := range servers {
		for i, more := range []int{1, s.Resources.CPUCores, s.Resources.MemoryGB, s.Resources.StorageGB} {
			l := &all[i]
			l.Readings = append(l.Readings, runreport.Reading{At: s.CreatedAt, Used: l.Readings[len(l.Readings)-1].Used + more})
		}
	}
	return all
}

// countCalls counts create calls by what the API answered and whether that
// bought a server, the most frequent first.
func countCalls(creates []simulator.Create) []runreport.Count {
	by := make(map[string]int)
	for _, c := range creates {
		bought := ", nothing bought"
		if c.Created {
			bought = ", server bought"
		}
		answer := "HTTP " + c.Outcome
		if strings.Trim(c.Outcome, "0123456789") != "" {
			answer = "answer lost (" + c.Outcome + ")"
		}
		by[answer+bought]++
	}
	var all []runreport.Count
	for name, n := range by {
		all = append(all, runreport.Count{Name: name, Number: n})
	}
	slices.SortFunc(all, func(a, b runreport.Count) int {
		return cmp.Or(cmp.Compare(b.Number, a.Number), cmp.Compare(a.Name, b.Name))
	})
	return all
}
