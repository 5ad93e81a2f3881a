package runreport

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// page is a Run as the template prints it: texts, and places in percent of the
// time axis.
type page struct {
	Run

	Right      bool
	Verdict    string
	Facts      []fact
	Ticks      []tick
	Bands      []band
	Forms      []form
	LaneHeight int
	Lanes      []lane
	Latencies  []latency
	Histogram  []bucket
	Gate       gate
	Charts     []chart
	Bills      []bill
	PerHour    string
	Took       string
	Date       string
}

type fact struct{ Value, Name string }

type tick struct {
	At, Label string
	First     bool
}

// band is a closed gate behind the lanes.
type band struct {
	X, Width, End string
	Probing       bool
	// Edges are drawn where there is room between them.
	Edges bool
}

type lane struct {
	Order

	// Title is the lane in one sentence.
	Title string
	Took  string
	Bars  []shape
	Marks []shape
	Story []line
}

// shape is a step in a lane.
type shape struct {
	form

	X, Width, Title string
}

// line is a step in an order's story.
type line struct{ At, What, Length, Text string }

type gate struct {
	Sentence string
	Rows     []gateRow
	// Few is whether the rows are shown without being asked for.
	Few bool
}

// fewRows are so many that they are in nobody's way.
const fewRows = 8

type gateRow struct{ From, To, Length, What, Reason string }

// chart is a limit as steps in a box of 1000 by 100.
type chart struct {
	Name, Sentence, Steps, Area string
}

type bill struct {
	Server

	At, Price string
}

// view computes all that the page shows.
func view(r Run) page {
	a := axis{r.Started, r.Ended}
	p := page{
		Run: r, Right: len(r.Faults) == 0, Forms: used(r.Orders), LaneHeight: laneHeight, Ticks: a.ticks(),
		Latencies: latencies(r.Orders, r.Classes), Histogram: histogram(r.Orders), Gate: a.gate(r.Closures),
		Took: length(a.span()), Date: r.Started.Format("2 January 2006, 15:04:05 MST"),
	}
	p.Verdict = verdict(r.Claim, len(r.Faults))
	for _, c := range r.Closures {
		x, width := a.place(c.From, c.To)
		wide := a.share(a.end(c.To))-a.share(c.From) >= edged
		p.Bands = append(p.Bands, band{X: x, Width: width, End: percent(a.share(a.end(c.To))), Probing: c.Probing, Edges: wide && !c.Probing})
	}
	for _, o := range r.Orders {
		p.Lanes = append(p.Lanes, a.lane(o))
	}
	for _, l := range r.Limits {
		p.Charts = append(p.Charts, a.chart(l))
	}
	perHour := 0.0
	for _, s := range r.Servers {
		perHour += s.PricePerHour
		p.Bills = append(p.Bills, bill{Server: s, At: a.offset(s.At), Price: price(s.PricePerHour)})
	}
	slices.SortStableFunc(p.Bills, func(x, y bill) int { return cmp.Compare(x.Name, y.Name) })
	p.PerHour = fmt.Sprintf("%.2f %s", perHour, r.Currency)
	calls := 0
	for _, c := range r.Calls {
		calls += c.Number
	}
	p.Facts = []fact{
		{strconv.Itoa(len(r.Orders)), fmt.Sprintf("orders in %d messages", r.Messages)},
		{strconv.Itoa(len(r.Servers)), "servers billed"},
		{p.PerHour, "per hour"},
		{strconv.Itoa(calls), "create calls"},
		{p.Took, "from the first message to the last outcome"},
	}
	return p
}

func verdict(claim string, faults int) string {
	switch faults {
	case 0:
		return claim
	case 1:
		return "One thing is not as it should be"
	default:
		return fmt.Sprintf("%d things are not as they should be", faults)
	}
}

// used are the forms that occur.
func used(orders []Order) []form {
	occurs := make(map[Kind]bool)
	for _, o := range orders {
		for _, s := range o.Steps {
			occurs[s.Kind] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(forms), func(f form) bool { return !occurs[f.kind] })
}

func price(p float64) string { return strconv.FormatFloat(p, 'f', 4, 64) }

// percent writes a share of one.
func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 2, 64) + "%" }

// axis is the time of the run.
type axis struct{ from, to time.Time }

func (a axis) span() time.Duration { return max(a.to.Sub(a.from), time.Millisecond) }

// share is where a time is, from 0 to 1.
func (a axis) share(t time.Time) float64 {
	return min(max(float64(t.Sub(a.from))/float64(a.span()), 0), 1)
}

// end is a time, or the axis's end for none.
func (a axis) end(t time.Time) time.Time {
	if t.IsZero() {
		return a.to
	}
	return t
}

const (
	// narrowest is the share that a bar has at least, to be seen and pointed at.
	narrowest = 0.004
	// edged is the share from which on a band has edges.
	edged = 0.02
)

// place is where a span begins and how wide it is. One without an end goes to
// the end of the axis.
func (a axis) place(from, to time.Time) (x, width string) {
	start, end := a.share(from), a.share(a.end(to))
	start = min(start, 1-narrowest)
	return percent(start), percent(max(end-start, narrowest))
}

// offset is a time as one after the start.
func (a axis) offset(t time.Time) string { return fmt.Sprintf("%.3f s", t.Sub(a.from).Seconds()) }

// mostTicks are as many as a narrow screen has room for.
const mostTicks = 6

// ticks are at round times.
func (a axis) ticks() []tick {
	step, decade := time.Millisecond, time.Millisecond
	for i := 0; a.span()/step >= mostTicks; i++ {
		step = []time.Duration{2 * decade, 5 * decade, 10 * decade}[i%3]
		if step == 10*decade {
			decade = step
		}
	}
	var all []tick
	for at := time.Duration(0); at <= a.span(); at += step {
		label := strconv.FormatFloat(at.Seconds(), 'f', -1, 64) + " s"
		all = append(all, tick{percent(a.share(a.from.Add(at))), label, at == 0})
	}
	return all
}

func (a axis) lane(o Order) lane {
	l := lane{Order: o, Took: length(o.Took)}
	if o.Took < 0 {
		l.Took = ""
	}
	calls := 0
	for _, s := range o.Steps {
		f := formOf(s.Kind)
		at, lasts := a.offset(s.From), ""
		what := f.word
		if f.Bar() {
			lasts = length(a.end(s.To).Sub(s.From))
		}
		title := fmt.Sprintf("%s at %s", what, at)
		if lasts != "" {
			title += " for " + lasts
		}
		if s.Text != "" {
			title += ": " + s.Text
		}
		sh := shape{form: f, Title: title}
		if f.Bar() {
			sh.X, sh.Width = a.place(s.From, s.To)
			l.Bars = append(l.Bars, sh)
		} else {
			sh.X = percent(a.share(s.From))
			l.Marks = append(l.Marks, sh)
		}
		l.Story = append(l.Story, line{At: at, What: what, Length: lasts, Text: s.Text})
		if strings.HasPrefix(f.word, "create call") {
			calls++
		}
	}
	outcome := o.Outcome
	if o.Detail != "" {
		outcome += ", " + o.Detail
	}
	l.Title = fmt.Sprintf("%s, %s: %s after %s and %d create calls", o.Key, o.About, outcome, cmp.Or(l.Took, "no time"), calls)
	return l
}

func (a axis) gate(closures []Closure) gate {
	g := gate{Sentence: "It was open all the time."}
	times, total := 0, time.Duration(0)
	for _, c := range closures {
		end, to := a.end(c.To), a.offset(c.To)
		if c.To.IsZero() {
			to = "the end"
		}
		row := gateRow{From: a.offset(c.From), To: to, Length: length(end.Sub(c.From)), What: "closed", Reason: c.Reason}
		if c.Probing {
			row.What = "one call tries"
		} else {
			times++
			total += end.Sub(c.From)
		}
		g.Rows = append(g.Rows, row)
	}
	g.Few = len(g.Rows) <= fewRows
	switch {
	case times == 1:
		g.Sentence = fmt.Sprintf("It closed once, for %s.", length(total))
	case times > 1:
		g.Sentence = fmt.Sprintf("It closed %d times, for %s in all.", times, length(total))
	}
	return g
}

// chartWidth and chartHeight are those of the box that the steps are drawn in.
const (
	chartWidth  = 1000
	chartHeight = 100
)

func (a axis) chart(l Limit) chart {
	y := func(used int) float64 {
		return chartHeight * (1 - min(float64(used)/float64(max(l.Max, 1)), 1))
	}
	var b strings.Builder
	last := 0
	for i, r := range l.Readings {
		x := chartWidth * a.share(r.At)
		if i == 0 {
			fmt.Fprintf(&b, "M%.1f %.1f", x, y(r.Used))
		} else {
			fmt.Fprintf(&b, "H%.1fV%.1f", x, y(r.Used))
		}
		last = r.Used
	}
	if len(l.Readings) == 0 {
		b.WriteString("M0 " + strconv.Itoa(chartHeight))
	}
	fmt.Fprintf(&b, "H%d", chartWidth)
	first := 0.0
	if len(l.Readings) > 0 {
		first = chartWidth * a.share(l.Readings[0].At)
	}
	return chart{
		Name: l.Name, Steps: b.String(), Area: b.String() + fmt.Sprintf("V%dH%.1fZ", chartHeight, first),
		Sentence: fmt.Sprintf("%d of %d%s at the end", last, l.Max, unit(l.Unit)),
	}
}

func unit(u string) string {
	if u == "" {
		return ""
	}
	return " " + u
}
