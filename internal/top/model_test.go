package top

import (
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// What a key does, from the screen of a busy day with two held requests and six
// outcomes, of which the newest has no key.
func TestKeys(t *testing.T) {
	t.Parallel()

	many := make([]string, 300)
	for i := range many {
		many[i] = "x"
	}
	for _, test := range []struct {
		keys  string // separated by spaces
		mode  mode
		key   string // selected, or explained
		top   int    // first line of the story
		typed string
	}{
		{"", watching, "order-1001", 0, ""},
		{"up", watching, "order-1001", 0, ""},
		{"down", watching, "order-0999-with-a-key-as-long-as-some-systems-make-them", 0, ""},
		{"j,j", watching, "", 0, ""},
		{"j,j,j", watching, "order-1004", 0, ""},
		{"j,j,j,k", watching, "", 0, ""},
		{"pgdown,pgdown", watching, "order-1000", 0, ""},
		{"end", watching, "order-1000", 0, ""},
		{"G,g", watching, "order-1001", 0, ""},
		{"G,home", watching, "order-1001", 0, ""},
		{"end,pgup", watching, "order-1001", 0, ""},
		{"tab,down", watching, "order-1004", 0, ""},
		{"tab,down,tab", watching, "order-1001", 0, ""},
		{"?,?", watching, "order-1001", 0, ""},
		{"?", helping, "order-1001", 0, ""},
		{"?,q", watching, "order-1001", 0, ""},
		{"p", watching, "order-1001", 0, ""}, // nothing is paused from here
		{"enter", explaining, "order-1001", 0, ""},
		{"e", explaining, "order-1001", 0, ""},
		{"tab,enter", watching, "", 0, ""}, // without a key there is no story
		{"end,enter", explaining, "order-1000", 0, ""},
		{"enter,down,j", explaining, "order-1001", 2, ""},
		{"enter,down,up,up", explaining, "order-1001", 0, ""},
		{"enter,pgdown", explaining, "order-1001", 19, ""},
		{"enter,G", explaining, "order-1001", 41, ""},
		{"enter,G,down", explaining, "order-1001", 41, ""},
		{"enter,G,pgup", explaining, "order-1001", 22, ""},
		{"enter,end,home", explaining, "order-1001", 0, ""},
		{"enter,down,r", explaining, "order-1001", 1, ""}, // read again, in the same place
		{"enter,esc", watching, "order-1001", 0, ""},
		{"enter,q", watching, "order-1001", 0, ""},
		{"/,a,b", typing, "order-1001", 0, "ab"},
		{"/,q,?", typing, "order-1001", 0, "q?"},
		{"/,a,b,backspace", typing, "order-1001", 0, "a"},
		{"/,a,backspace,backspace", watching, "order-1001", 0, ""},
		{"/,a,ctrl+u", typing, "order-1001", 0, ""},
		{"/,a,esc", watching, "order-1001", 0, ""},
		{"/,enter", watching, "order-1001", 0, ""},
		{"/,a,b,enter", explaining, "ab", 0, "ab"},
		{"/,a,enter,/,b", typing, "order-1001", 0, "b"},
		{"/," + strings.Join(many, ","), typing, "order-1001", 0, strings.Repeat("x", longestKey)},
	} {
		t.Run(test.keys[:min(len(test.keys), 40)], func(t *testing.T) {
			t.Parallel()
			m := pressed(given(open(80, 24), busyDay()...), keys(test.keys)...)
			key := m.key()
			if m.mode == explaining {
				key = m.story.key
			}
			if m.mode != test.mode || key != test.key || m.story.top != test.top || m.typed != test.typed {
				t.Errorf("mode %d, key %q, line %d, typed %q; want %d, %q, %d, %q", m.mode, key, m.story.top, m.typed, test.mode, test.key, test.top, test.typed)
			}
		})
	}
}

// keys splits a list of keys.
func keys(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func TestKeysThatEnd(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		before []string
		key    string
		want   tea.Msg
	}{
		{nil, "q", tea.QuitMsg{}},
		{nil, "ctrl+c", tea.QuitMsg{}},
		{[]string{"?"}, "ctrl+c", tea.QuitMsg{}},
		{[]string{"/"}, "ctrl+c", tea.QuitMsg{}},
		{[]string{"enter"}, "ctrl+c", tea.QuitMsg{}},
		{nil, "ctrl+z", tea.SuspendMsg{}},
	} {
		_, cmd := pressed(given(open(80, 24), busyDay()...), test.before...).Update(keyPress(test.key))
		if cmd == nil || cmd() != test.want {
			t.Errorf("%s after %v does not lead to %T", test.key, test.before, test.want)
		}
	}
	for _, key := range []string{"q", "esc", "p", "x"} {
		if _, cmd := open(80, 24).Update(keyPress("/")); cmd != nil {
			t.Errorf("/ leads to %T", cmd())
		}
		if _, cmd := pressed(open(80, 24), "/").Update(keyPress(key)); cmd != nil {
			t.Errorf("%s while typing leads to %T", key, cmd())
		}
	}
}

func TestPasteKeepsWhatAKeyMayHave(t *testing.T) {
	t.Parallel()

	m := given(pressed(open(80, 24), "/"), tea.PasteMsg{Content: " order-1001\r\n\x1b[2Jä"})
	if want := " order-1001[2J"; m.typed != want {
		t.Errorf("typed %q, want %q", m.typed, want)
	}
	if m := given(open(80, 24), tea.PasteMsg{Content: "order-1001"}); m.typed != "" || m.mode != watching {
		t.Errorf("a paste without / typed %q", m.typed)
	}
}

func TestSelectionStaysWhereItIs(t *testing.T) {
	t.Parallel()

	m := pressed(given(open(80, 24), busyDay()...), "tab", "down") // order-1004
	m = given(m, read(ofOutcomes, []Outcome{{Sequence: 7, Kind: provision.KindProvisioning, Key: "order-2000", At: noon}}))
	if m.key() != "order-1004" {
		t.Errorf("a new outcome moved the selection to %s", m.key())
	}
	m = pressed(m, "g")
	m = given(m, read(ofRequests, Requests{Held: []Held{{Key: "order-0001"}, {Key: "order-1001"}}}))
	if m.key() != "order-1001" {
		t.Errorf("a new held request moved the selection to %s", m.key())
	}
	if m = given(m, read(ofRequests, Requests{})); m.key() != "order-2000" {
		t.Errorf("after the selected request was decided %q is selected", m.key())
	}
}

func TestOutcomesAreBounded(t *testing.T) {
	t.Parallel()

	m := open(80, 24)
	for n := range 7 {
		var batch []Outcome
		for i := range 150 {
			sequence := uint64(n*150 + i + 1)
			batch = append(batch, Outcome{Sequence: sequence, Kind: provision.KindProvisioning, Key: fmt.Sprint(sequence), At: noon})
		}
		m = given(m, read(ofOutcomes, batch))
	}
	if len(m.outcomes) != outcomesKept || m.outcomes[0].Sequence != 1050 || m.outcomes[outcomesKept-1].Sequence != 1050-outcomesKept+1 {
		t.Errorf("%d are kept, from %d to %d", len(m.outcomes), m.outcomes[0].Sequence, m.outcomes[len(m.outcomes)-1].Sequence)
	}
	m = given(m, read(ofOutcomes, make([]Outcome, 2*outcomesKept)))
	if len(m.outcomes) != outcomesKept {
		t.Errorf("%d are kept of a long batch", len(m.outcomes))
	}
	if got := m.lately.since(noon, 60).created; got != 1050 {
		t.Errorf("%d are counted, want 1050", got)
	}
}

func TestTallyCountsAnHour(t *testing.T) {
	t.Parallel()

	var ta tally
	one := admission.Resources{CPUCores: 1, Instances: 1}
	for _, o := range []Outcome{
		{Kind: provision.KindProvisioning, At: noon.Add(-61 * time.Minute), Size: one},
		{Kind: provision.KindProvisioning, At: noon.Add(-59 * time.Minute), Size: one},
		{Kind: provision.KindProvisioning, At: noon.Add(-6 * time.Minute), Size: one, Adopted: true},
		{Kind: provision.KindFailed, At: noon.Add(-4 * time.Minute)},
		{Kind: provision.KindHeld, At: noon},
		{Kind: provision.KindProvisioning, At: noon.Add(-66 * time.Minute), Size: one}, // late, and the minute is another's
	} {
		ta = ta.add(o)
	}
	if got, want := ta.since(noon, 60), (minute{created: 2, adopted: 1, failed: 1, held: 1, size: admission.Resources{CPUCores: 2, Instances: 2}}); got != want {
		t.Errorf("in an hour %+v, want %+v", got, want)
	}
	if got, want := ta.since(noon, 5), (minute{failed: 1, held: 1}); got != want {
		t.Errorf("in five minutes %+v, want %+v", got, want)
	}
	if got := ta.since(noon.Add(2*time.Hour), 60); got != (minute{}) {
		t.Errorf("two hours later %+v", got)
	}
}

func TestStoryIsReadForTheWidth(t *testing.T) {
	t.Parallel()

	m := pressed(given(open(80, 24), busyDay()...), "enter")
	if want := "order-1001 on 80 columns"; m.story.lines[0] != want {
		t.Errorf("the story begins with %q, want %q", m.story.lines[0], want)
	}
	m = given(m, tea.WindowSizeMsg{Width: 120, Height: 30})
	if want := "order-1001 on 120 columns"; m.story.lines[0] != want {
		t.Errorf("on a wider terminal it begins with %q, want %q", m.story.lines[0], want)
	}
	// One that comes when nobody wants it any more is dropped.
	m = given(pressed(m, "esc"), told{key: "order-1001", text: "late"})
	if m.mode != watching || m.story.lines != nil {
		t.Errorf("mode %d, story %q", m.mode, m.story.lines)
	}
}
