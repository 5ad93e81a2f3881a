package top

import (
	"context"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// part is what is known of one source.
type part struct {
	// at is when it was last read, took how long that was; zero before.
	at   time.Time
	took time.Duration
	// away is since when it cannot be read, why the newest reason.
	away time.Time
	why  string
	// skipped says why it is not read, on purpose.
	skipped string
}

// model is the whole screen as a value: Update and View are functions of it and
// of what they are given, and read no clock.
type model struct {
	title    string
	noLimits string
	explain  func(key string, columns int) tea.Cmd
	clock    func() time.Time

	width, height int
	now           time.Time
	// began is the time of the first clock message.
	began time.Time

	parts    [sources]part
	lanes    []Lane
	shared   Shared
	requests Requests
	facts    admission.Facts
	// outcomes are the newest events, newest first.
	outcomes []Outcome
	lately   tally

	// mode is what the keys go to and what is shown.
	mode mode
	// chosen is the selected row; see rows.
	chosen choice
	typed  string
	story  story
}

type mode int

const (
	watching mode = iota
	helping
	typing
	explaining
)

// choice names a row that can be selected: it stays selected when others come
// and go.
type choice struct {
	held     string // key of a held request
	sequence uint64 // of an outcome
}

// story is the pane with what there is to say of one request.
type story struct {
	key     string
	lines   []string
	failed  string
	reading bool
	top     int // the first line that is shown
}

// tick is the time, once a second.
type tick time.Time

// told is the answer to a wish for a story.
type told struct {
	key  string
	text string
	err  error
}

const (
	// outcomesKept is how many events can be scrolled through.
	outcomesKept = 500
	// explainTimeout bounds the reading of one story.
	explainTimeout = 15 * time.Second
)

func newModel(ctx context.Context, c Config, clock func() time.Time) model {
	return model{
		title: c.Title, noLimits: c.NoLimits, clock: clock,
		explain: func(key string, columns int) tea.Cmd {
			return func() tea.Msg {
				ctx, cancel := context.WithTimeout(ctx, explainTimeout)
				defer cancel()
				text, err := c.Sources.Explain(ctx, key, columns)
				return told{key, text, err}
			}
		},
	}
}

// Init implements tea.Model.
func (m model) Init() tea.Cmd {
	clock := m.clock
	return func() tea.Msg { return tick(clock()) }
}

// Update implements tea.Model.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tick:
		m.now = time.Time(msg)
		if m.began.IsZero() {
			m.began = m.now
		}
		clock := m.clock
		return m, tea.Tick(time.Second, func(time.Time) tea.Msg { return tick(clock()) })
	case tea.WindowSizeMsg:
		resized := m.width != 0 && m.width != msg.Width
		m.width, m.height = msg.Width, msg.Height
		if resized && m.mode == explaining {
			return m.read(m.story.key)
		}
		return m, nil
	case reading:
		return m.learn(msg), nil
	case told:
		return m.listen(msg), nil
	case tea.KeyPressMsg:
		return m.press(msg)
	case tea.PasteMsg:
		if m.mode == typing {
			m.typed = keyable(m.typed + msg.Content)
		}
		return m, nil
	default:
		return m, nil
	}
}

// learn takes in what a source says.
func (m model) learn(r reading) model {
	p := &m.parts[r.from]
	p.skipped = r.skipped
	switch {
	case r.skipped != "":
		return m
	case r.err != nil:
		if p.away.IsZero() {
			p.away = r.at
		}
		p.why = r.err.Error()
		return m
	}
	p.at, p.took, p.away, p.why = r.at, r.took, time.Time{}, ""
	switch v := r.value.(type) {
	case []Lane:
		m.lanes = v
	case Shared:
		m.shared = v
	case Requests:
		m.requests = v
	case Limits:
		m.facts = v.Facts
	case []Outcome:
		m = m.happened(v)
	}
	return m
}

// happened takes in events, the oldest first.
func (m model) happened(events []Outcome) model {
	for _, o := range events {
		m.lately = m.lately.add(o)
	}
	newest := slices.Clone(events[max(0, len(events)-outcomesKept):])
	slices.Reverse(newest)
	kept := min(len(m.outcomes), outcomesKept-len(newest))
	m.outcomes = append(newest, m.outcomes[:kept]...)
	return m
}

// read asks for a story and shows the pane for it.
func (m model) read(key string) (tea.Model, tea.Cmd) {
	top := 0
	if m.story.key == key {
		top = m.story.top
	}
	m.mode, m.story = explaining, story{key: key, reading: true, top: top}
	return m, m.explain(key, m.width)
}

// listen takes in a story, unless nobody wants it any more.
func (m model) listen(t told) model {
	if m.mode != explaining || m.story.key != t.key {
		return m
	}
	m.story.reading = false
	if t.err != nil {
		m.story.failed = t.err.Error()
		return m
	}
	m.story.lines = lines(t.text)
	return m.scroll(0)
}

// scroll moves the story by so many lines.
func (m model) scroll(by int) model {
	last := max(0, len(m.story.lines)-m.storyHeight())
	m.story.top = min(max(m.story.top+by, 0), last)
	return m
}

// storyHeight is how many lines of a story fit.
func (m model) storyHeight() int { return max(1, m.height-storyFrame) }

// rows are all that can be selected, from the top.
func (m model) rows() []choice {
	var all []choice
	for _, h := range m.requests.Held {
		all = append(all, choice{held: h.Key})
	}
	for _, o := range m.outcomes {
		all = append(all, choice{sequence: o.Sequence})
	}
	return all
}

// at is where the selected row is, the first one where it is gone.
func (m model) at(rows []choice) int { return max(0, slices.Index(rows, m.chosen)) }

// move selects the row so many further down.
func (m model) move(by int) model {
	rows := m.rows()
	if len(rows) == 0 {
		return m
	}
	m.chosen = rows[min(max(m.at(rows)+by, 0), len(rows)-1)]
	return m
}

// key is that of the selected row, "" when there is none.
func (m model) key() string {
	rows := m.rows()
	if len(rows) == 0 {
		return ""
	}
	at := m.at(rows)
	if at < len(m.requests.Held) {
		return m.requests.Held[at].Key
	}
	return m.outcomes[at-len(m.requests.Held)].Key
}

// tally counts the events of the last hour by minute.
type tally [60]minute

type minute struct {
	start                    int64 // Unix time in minutes
	created, adopted, failed int
	held                     int
	size                     admission.Resources
}

func (t tally) add(o Outcome) tally {
	start := o.At.Unix() / 60
	at := &t[((start%60)+60)%60]
	switch {
	case start < at.start:
		return t // more than an hour before another one
	case start > at.start:
		*at = minute{start: start}
	}
	switch o.Kind {
	case provision.KindProvisioning:
		at.created++
		if o.Adopted {
			at.adopted++
		}
		at.size = at.size.Add(o.Size)
	case provision.KindFailed:
		at.failed++
	case provision.KindHeld:
		at.held++
	}
	return t
}

// since sums the last minutes up to now.
func (t tally) since(now time.Time, minutes int64) minute {
	var sum minute
	end := now.Unix() / 60
	for _, at := range t {
		if at.start > end-minutes && at.start <= end {
			sum.created += at.created
			sum.adopted += at.adopted
			sum.failed += at.failed
			sum.held += at.held
			sum.size = sum.size.Add(at.size)
		}
	}
	return sum
}
