package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// show is the screen of the demo: progress while it runs, a table at its end.
type show struct {
	err      io.Writer
	live     bool
	orders   []*demoOrder
	byKey    map[string][]*demoOrder
	strays   []provision.Event
	dead     uint64
	started  time.Time
	ended    time.Time
	messages int
	tracer   trace.Tracer
}

func newShow(err io.Writer, orders []*demoOrder) *show {
	w := &show{err: err, live: isTerminal(err), orders: orders, byKey: make(map[string][]*demoOrder)}
	for _, o := range orders {
		w.byKey[o.key] = append(w.byKey[o.key], o)
		w.messages += max(o.times, 1)
	}
	return w
}

func (w *show) begin() {
	w.started = time.Now()
	_, _ = fmt.Fprintf(w.err, "worker demo: NATS, a simulated HostUp account and a worker in this process; %d messages for %d orders\n", w.messages, len(w.orders))
}

func (w *show) end() {
	w.ended = time.Now()
	if w.live {
		_, _ = fmt.Fprint(w.err, "\r\x1b[K")
	}
}

// saw notes an event with the order it answers: one key may have an accepted
// order and a rejected message.
func (w *show) saw(e provision.Event) {
	for _, o := range w.byKey[e.Key] {
		if o.rejected() == e.Rejected {
			o.events = append(o.events, e)
			o.took = time.Since(o.placedAt)
			if !w.live {
				_, _ = fmt.Fprintf(w.err, "%6.2fs  %-14s %-12s %s\n", time.Since(w.started).Seconds(), o.key, e.Kind, o.about)
			}
			return
		}
	}
	w.strays = append(w.strays, e)
}

// rejected tells whether the order is never accepted.
func (o *demoOrder) rejected() bool {
	switch o.reason {
	case provision.ReasonInvalidRequest, provision.ReasonIdempotencyConflict, provision.ReasonUndecodable:
		return true
	default:
		return false
	}
}

// draw repaints the progress line on a terminal.
func (w *show) draw() {
	if !w.live {
		return
	}
	const width = 30
	done := w.answered()
	filled := width * done / max(len(w.orders), 1)
	counts := make(map[provision.Kind]int)
	for _, o := range w.orders {
		if len(o.events) > 0 {
			counts[o.events[len(o.events)-1].Kind]++
		}
	}
	_, _ = fmt.Fprintf(w.err, "\r\x1b[K%s%s %d/%d  provisioning %d  failed %d  held %d  %.1fs",
		strings.Repeat("█", filled), strings.Repeat("░", width-filled), done, len(w.orders),
		counts[provision.KindProvisioning], counts[provision.KindFailed], counts[provision.KindHeld], time.Since(w.started).Seconds())
}

// answered counts the orders that have what they wait for.
func (w *show) answered() int {
	n := 0
	for _, o := range w.orders {
		if len(o.events) > 0 || o.kind == "" {
			n++
		}
	}
	return n
}

// complete tells whether all orders are answered, the late ones included or
// not.
func (w *show) complete(late bool) bool {
	for _, o := range w.orders {
		if len(o.events) == 0 && o.kind != "" && (late || !o.late) {
			return false
		}
	}
	return true
}

// heldCount is how many messages stay in the queue for a person.
func (w *show) heldCount() int {
	n := 0
	for _, o := range w.orders {
		if o.kind == provision.KindHeld {
			n++
		}
	}
	return n
}

// wantDead is how many dead letters there should be.
func (w *show) wantDead() uint64 {
	var n uint64
	for _, o := range w.orders {
		if o.kind == "" || o.reason == provision.ReasonUndecodable {
			n++
		}
	}
	return n
}

// judge says what came of an order and whether it should have.
func (o *demoOrder) judge() (outcome, detail string, right bool) {
	if o.kind == "" {
		return "dead letter", "no event: nobody to answer", len(o.events) == 0
	}
	if len(o.events) == 0 {
		return "nothing", "no event arrived", false
	}
	e := o.events[0]
	outcome, detail = string(e.Kind), e.VPSID
	if e.Adopted {
		detail += " (adopted)"
	}
	switch e.Kind {
	case provision.KindFailed:
		detail = string(e.Reason)
	case provision.KindHeld:
		detail = "two servers could be it: a person decides"
	case provision.KindProvisioning:
	}
	return outcome, detail, len(o.events) == 1 && e.Kind == o.kind && e.Reason == o.reason && e.Adopted == o.adopted
}

// errDemo is the end of a demo that showed something wrong.
var errDemo = errors.New("the demo did not end as it should; see the lines marked WRONG")

// faults are what is not as it should be, in sentences: outcomes, what the
// simulated account's invoices say of them, dead letters.
func (w *show) faults(sim *simulator.Server) []string {
	perName := make(map[string]int)
	for _, inv := range sim.Invoices() {
		perName[inv.Name]++
	}
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, o := range w.orders {
		if outcome, detail, right := o.judge(); !right {
			say("%s (%s) ended with %s: %s", o.key, o.about, outcome, detail)
		}
		switch bought := perName[o.request.Name]; {
		case bought > 1 && !o.rejected():
			say("%s (%s) was bought %d times", o.key, o.request.Name, bought)
		case bought == 0 && o.kind == provision.KindProvisioning:
			say("%s (%s) is on no invoice", o.key, o.request.Name)
		}
	}
	if w.dead != w.wantDead() || len(w.strays) > 0 {
		say("%d dead letters instead of %d, %d events that answer nothing", w.dead, w.wantDead(), len(w.strays))
	}
	return all
}

// report prints the table and what the simulated account was billed, and
// fails when anything is not as it should be.
func (w *show) report(out io.Writer, sim *simulator.Server, faults []string) error {
	tab := table.NewWriter()
	tab.SetOutputMirror(out)
	tab.SetStyle(table.StyleRounded)
	tab.AppendHeader(table.Row{"KEY", "ORDER", "OUTCOME", "SERVER OR REASON", "CALLS", "TOOK", ""})
	for _, o := range w.orders {
		outcome, detail, right := o.judge()
		mark := "ok"
		if !right {
			mark = "WRONG"
		}
		calls := ""
		if len(o.events) > 0 && o.kind != provision.KindHeld {
			calls = strconv.Itoa(o.events[0].Attempts)
		}
		tab.AppendRow(table.Row{o.key, o.about, outcome, detail, calls, o.took.Round(time.Millisecond), mark})
	}
	tab.Render()
	w.reportMoney(out, sim)
	for _, fault := range faults {
		_, _ = fmt.Fprintf(out, "WRONG: %s\n", fault)
	}
	if len(faults) > 0 {
		return errDemo
	}
	_, _ = fmt.Fprintf(out, "%d messages, %d orders, no order was bought twice, every outcome as it should be, in %.1f s\n", w.messages, len(w.orders), w.ended.Sub(w.started).Seconds())
	return nil
}

// reportMoney lets the simulator's invoices speak: they do not depend on what
// the worker was told.
func (w *show) reportMoney(out io.Writer, sim *simulator.Server) {
	perName := make(map[string]int)
	perHour, currency := 0.0, ""
	invoices := sim.Invoices()
	for _, inv := range invoices {
		perName[inv.Name]++
		perHour += inv.PricePerHour
		currency = inv.CurrencyCode
	}
	announced, held := 0, 0
	for _, o := range w.orders {
		switch o.kind {
		case provision.KindProvisioning:
			announced += perName[o.request.Name]
		case provision.KindHeld:
			held += perName[o.request.Name]
		case provision.KindFailed:
		}
	}
	_, _ = fmt.Fprintf(out, "billed by the simulated account: %d servers (%d announced, %d behind a held order), %.2f %s per hour, in %d create calls\n",
		len(invoices), announced, held, perHour, currency, len(sim.Creates()))
}
