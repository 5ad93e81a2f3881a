package top

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/provision"
)

// update writes the screens as they are: go test ./internal/top -update.
var update = flag.Bool("update", false, "write the screens into testdata")

// noon is the time on every screen of these tests.
var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// open is a screen of a size that knows nothing yet.
func open(width, height int) model {
	m := newModel(context.Background(), Config{Title: "DEPLOY at nats://127.0.0.1:4222", Sources: Sources{
		Explain: func(_ context.Context, key string, columns int) (string, error) {
			if key == "nobody" {
				return "", errors.New("no request is known by the key \"nobody\"")
			}
			return fmt.Sprintf("%s on %d columns\n%s", key, columns, strings.Repeat("one more line\n", 60)), nil
		},
	}}, func() time.Time { return noon })
	return given(m, tick(noon), tea.WindowSizeMsg{Width: width, Height: height})
}

// given is a model after messages and after the commands that they lead to, but
// for the clock's.
func given(m model, messages ...tea.Msg) model {
	for _, msg := range messages {
		next, cmd := m.Update(msg)
		m = next.(model)
		if _, clock := msg.(tick); cmd != nil && !clock {
			if answer, ok := cmd().(told); ok {
				m = given(m, answer)
			}
		}
	}
	return m
}

// pressed is a model after keys: names as bubbletea has them, or text.
func pressed(m model, keys ...string) model {
	for _, k := range keys {
		m = given(m, keyPress(k))
	}
	return m
}

func keyPress(name string) tea.KeyPressMsg {
	if rest, ok := strings.CutPrefix(name, "ctrl+"); ok {
		return tea.KeyPressMsg{Code: rune(rest[0]), Mod: tea.ModCtrl}
	}
	if code, ok := map[string]rune{
		"up": tea.KeyUp, "down": tea.KeyDown, "pgup": tea.KeyPgUp, "pgdown": tea.KeyPgDown, "home": tea.KeyHome, "end": tea.KeyEnd,
		"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "backspace": tea.KeyBackspace,
	}[name]; ok {
		return tea.KeyPressMsg{Code: code}
	}
	return tea.KeyPressMsg{Code: rune(name[0]), Text: name}
}

func read(from source, value any) reading {
	return reading{from: from, at: noon, value: value}
}

// busyDay is a fleet with some of everything.
func busyDay() []tea.Msg {
	outcomes := []Outcome{
		{Sequence: 1, Kind: provision.KindProvisioning, Key: "order-1000", Name: "web-00", At: noon.Add(-50 * time.Minute), VPSID: "vps_01hxa0", Size: admission.Resources{CPUCores: 4, MemoryGB: 8, StorageGB: 100, Instances: 1}},
		{Sequence: 2, Kind: provision.KindFailed, Key: "order-1002", At: noon.Add(-10 * time.Minute), Reason: provision.ReasonLimitExceeded, Billed: provision.BilledNo, Detail: "the account's limits do not allow it: cpuCores: 1 left, 4 asked"},
		{Sequence: 3, Kind: provision.KindHeld, Key: "order-1001", At: noon.Add(-4 * time.Minute), Detail: "no answer to the request: EOF"},
		{Sequence: 4, Kind: provision.KindFailed, Key: "order-1003", At: noon.Add(-3 * time.Minute), Reason: provision.ReasonOutcomeUnknown, Billed: provision.BilledUnknown, Detail: "held until the deadline"},
		{Sequence: 5, Kind: provision.KindProvisioning, Key: "order-1004", Name: "web-04", At: noon.Add(-5 * time.Second), VPSID: "vps_01hxa4", Adopted: true, Size: admission.Resources{CPUCores: 2, MemoryGB: 4, StorageGB: 80, Instances: 1}},
		{Sequence: 6, Key: "", At: noon.Add(-2 * time.Second), Unreadable: `the ce-type "x" is no event of the worker`},
	}
	return []tea.Msg{
		read(ofQueue, []Lane{{Name: "single", Pending: 12, AckPending: 34, Redelivered: 3}, {Name: "batch", Pending: 8991, AckPending: 100000}}),
		read(ofShared, Shared{
			Gate:  admission.Gate{Phase: admission.Closed, Until: noon.Add(42 * time.Second), Wait: time.Minute, Reason: admission.ReasonThrottled, Source: "host-1/ABCD1234", Closures: 3},
			Brake: admission.Brake{On: true, By: "anna", Reason: "the price list looks wrong", At: noon.Add(-3 * time.Minute)},
		}),
		read(ofRequests, Requests{
			States: map[provision.State]int{"accepted": 99, "creating": 4, "unknown": 2, "held": 2, "created": 1, "done": 12034},
			Waiting: []Waiting{
				{Reason: provision.WaitGate, Count: 60, Next: noon.Add(42 * time.Second)},
				{Reason: provision.WaitLimits, Count: 30, Next: noon.Add(-time.Second)},
				{Reason: provision.WaitName, Count: 7},
				{Count: 2},
			},
			Held: []Held{
				{Key: "order-1001", Name: "web-01", Since: noon.Add(-4 * time.Minute), Why: "no answer to the request: EOF", Candidates: []string{"vps_01hxa1", "vps_01hxa2"}},
				{Key: "order-0999-with-a-key-as-long-as-some-systems-make-them", Name: "db-01", Since: noon.Add(-30 * time.Second), Why: "502 without a problem document"},
			},
			InFlight: admission.Resources{CPUCores: 12, MemoryGB: 24, StorageGB: 480, Instances: 6},
		}),
		read(ofLimits, Limits{Facts: admission.Facts{
			Max: admission.Resources{CPUCores: 256, MemoryGB: 1024, StorageGB: 20000, Instances: 100}, Remaining: admission.Resources{CPUCores: 56, MemoryGB: 624, StorageGB: 12000, Instances: 0},
			Prices: admission.Prices{CPUPerCoreHour: 0.12, MemoryPerGBHour: 0.04, StoragePerGBHour: 0.003, IPPerHour: 0.02, CurrencyCode: "SEK"}, CanDeploy: true,
		}}),
		read(ofOutcomes, outcomes),
	}
}

// quietDay is a fleet with nothing to do.
func quietDay() []tea.Msg {
	return []tea.Msg{
		read(ofQueue, []Lane{{Name: "single"}, {Name: "batch", Missing: true}}),
		read(ofShared, Shared{Gate: admission.Gate{Phase: admission.Metered, Limit: 20, Budget: 20, Used: 7, Until: noon.Add(12 * time.Second), Wait: 40 * time.Second}, Brake: admission.Brake{By: "anna", Reason: "prices checked", At: noon.Add(-2 * time.Hour)}}),
		read(ofRequests, Requests{States: map[provision.State]int{}}),
		read(ofOutcomes, []Outcome(nil)),
	}
}

// away is what a busy day becomes when NATS and the API go away.
func away() []tea.Msg {
	all := busyDay()
	for s := range sources {
		err := errors.New("not connected to NATS at nats://127.0.0.1:4222: dial tcp 127.0.0.1:4222: connect: connection refused")
		if s == ofLimits {
			err = errors.New("GET /vps/payg/limits: 503 Service Unavailable")
		}
		if s != ofOutcomes {
			all = append(all, reading{from: s, at: noon.Add(time.Second), err: err})
		}
	}
	return append(all, tick(noon.Add(13*time.Second)))
}

func TestScreens(t *testing.T) {
	t.Parallel()

	for name, m := range map[string]model{
		"nothing-80x24":  open(80, 24),
		"busy-80x24":     given(open(80, 24), busyDay()...),
		"busy-160x48":    given(open(160, 48), busyDay()...),
		"busy-100x30":    pressed(given(open(100, 30), busyDay()...), "tab", "down"),
		"busy-60x20":     given(open(60, 20), busyDay()...),
		"busy-40x10":     given(open(40, 10), busyDay()...),
		"tiny-20x5":      given(open(20, 5), busyDay()...),
		"quiet-80x24":    given(open(80, 24), quietDay()...),
		"away-80x24":     given(open(80, 24), away()...),
		"away-160x48":    given(open(160, 48), away()...),
		"never-80x24":    given(open(80, 24), reading{from: ofQueue, at: noon, err: errors.New("not connected to NATS")}, reading{from: ofLimits, at: noon, skipped: "not read while the gate cannot be seen"}, tick(noon.Add(9*time.Second))),
		"skipped-80x24":  given(open(80, 24), append(busyDay(), reading{from: ofLimits, at: noon.Add(40 * time.Second), skipped: "not read while the gate is closed"}, tick(noon.Add(41*time.Second)))...),
		"help-80x24":     pressed(given(open(80, 24), busyDay()...), "?"),
		"typing-80x24":   pressed(given(open(80, 24), busyDay()...), "/", "o", "r", "d"),
		"explain-80x24":  pressed(given(open(80, 24), busyDay()...), "enter", "down", "down"),
		"nobody-80x24":   pressed(open(80, 24), "/", "n", "o", "b", "o", "d", "y", "enter"),
		"explain-160x48": pressed(given(open(160, 48), busyDay()...), "tab", "down", "enter", "G"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drawn := m.draw()
			all := strings.Split(drawn, "\n")
			if len(all) > m.height {
				t.Errorf("%d lines on a terminal of %d", len(all), m.height)
			}
			for i, l := range all {
				if w := ansi.StringWidthWc(l); w > m.width {
					t.Errorf("line %d has %d columns of %d: %q", i+1, w, m.width, ansi.Strip(l))
				}
			}
			golden(t, name+".txt", shown(m))
		})
	}
}

// shown is what a person without colours sees.
func shown(m model) string {
	all := strings.Split(ansi.Strip(m.draw()), "\n")
	for i, l := range all {
		all[i] = strings.TrimRight(l, " ")
	}
	return strings.Join(all, "\n") + "\n"
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is another screen (-want +got); if that is meant: go test ./internal/top -update\n%s", name, diff)
	}
}

func TestGateIsToldInWords(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		gate admission.Gate
		want string
	}{
		{admission.Gate{}, "GATE   open"},
		{admission.Gate{Unknowns: 3}, "GATE   open; 3 unknown outcomes in a row"},
		{admission.Gate{Phase: admission.Closed, Until: noon.Add(90 * time.Second), Reason: admission.ReasonUnknowns, Source: "a/B"}, "GATE   closed until 12:01:30 (in 1m30s): too many unknown outcomes in a row, met by a/B"},
		{admission.Gate{Phase: admission.Closed, Until: noon.Add(time.Second), Reason: admission.ReasonBudget}, "GATE   closed until 12:00:01 (in 1s): the window's budget is used up"},
		{admission.Gate{Phase: admission.Closed, Until: noon, Reason: admission.ReasonThrottled, Closures: 2}, "GATE   closed, its time is over: the next create tries whether HostUp answers (HostUp answered 429, 2 times in a row)"},
		{admission.Gate{Phase: admission.Closed, Until: noon}, "GATE   closed, its time is over: the next create tries whether HostUp answers (no reason stored)"},
		{admission.Gate{Phase: admission.Probing, Reason: admission.ReasonThrottled, Source: "a/B"}, "GATE   probing: one create is out to see whether HostUp answers, all others wait (HostUp answered 429, met by a/B)"},
		{admission.Gate{Phase: admission.Metered, Budget: 20, Used: 20}, "GATE   open, the 20 creates of this window are used: single ones try for the next"},
		{admission.Gate{Phase: admission.Metered, Budget: 20, Used: 19}, "GATE   open, metered: 19 of 20 creates of this window used"},
		{admission.Gate{Phase: admission.Metered, Budget: 1 << 16, Used: 5}, "GATE   open, counting: 5 creates since HostUp last answered 429"},
		{admission.Gate{Phase: "welded", Reason: "new"}, `GATE   "welded": a newer version's word`},
	} {
		m := given(open(160, 48), read(ofShared, Shared{Gate: test.gate}))
		if got := ansi.Strip(m.gateLine().String()); got != test.want {
			t.Errorf("%+v\n got %s\nwant %s", test.gate, got, test.want)
		}
	}
}

func TestBar(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		used, flying, most int64
		want               string
	}{
		{0, 0, 10, "░░░░░░░░░░"},
		{5, 0, 10, "█████░░░░░"},
		{5, 2, 10, "█████▒▒░░░"},
		{1, 0, 1000, "█░░░░░░░░░"},
		{500, 1, 1000, "█████▒░░░░"},
		{10, 3, 10, "██████████"},
		{9, 3, 10, "█████████▒"},
		{12, 0, 10, "██████████"}, // support lowered the limit
		{-3, 0, 10, "░░░░░░░░░░"},
		{3, 1, 0, "░░░░░░░░░░"}, // nothing is allowed
	} {
		l := bar(test.used, test.flying, test.most, 10)
		if got := ansi.Strip(l.String()); got != test.want {
			t.Errorf("%d and %d of %d: %s, want %s", test.used, test.flying, test.most, got, test.want)
		}
	}
}

func TestStateIsColoured(t *testing.T) {
	t.Parallel()

	drawn := given(open(160, 48), busyDay()...).draw()
	for _, s := range []span{{"closed until 12:00:42", bad}, {"on", bad}, {"limit-exceeded", bad}} {
		if want := styles[s.tone].Styled(s.text); !strings.Contains(drawn, want) {
			t.Errorf("%q is not on the screen", want)
		}
	}
	if plainly := ansi.Strip(drawn); strings.ContainsRune(plainly, '\x1b') {
		t.Error("escape sequences are left without colours")
	}
}

// The words on the screen come from requests, from HostUp and from people.
func TestForeignWordsCannotDriveTheTerminal(t *testing.T) {
	t.Parallel()

	const evil = "a\x1b[2J\x1b]0;title\x07b\r\nc\u202ed\x9b31m\x00\x7f\xffe\u2028f"
	m := given(open(160, 48),
		read(ofQueue, []Lane{{Name: evil, Pending: 1}}),
		read(ofShared, Shared{Gate: admission.Gate{Phase: admission.Closed, Until: noon.Add(time.Hour), Reason: evil, Source: evil}, Brake: admission.Brake{On: true, By: evil, Reason: evil}}),
		read(ofRequests, Requests{
			States:  map[provision.State]int{provision.StateHeld: 1},
			Waiting: []Waiting{{Reason: evil, Count: 1}}, Held: []Held{{Key: evil, Name: evil, Why: evil, Candidates: []string{evil, evil}}},
		}),
		read(ofLimits, Limits{Facts: admission.Facts{Reason: evil, BlockerReasons: []string{evil}, Prices: admission.Prices{CurrencyCode: evil}}}),
		read(ofOutcomes, []Outcome{
			{Sequence: 1, Kind: provision.KindProvisioning, Key: evil, Name: evil, VPSID: evil, At: noon},
			{Sequence: 2, Kind: provision.KindFailed, Key: evil, Reason: evil, Billed: evil, Detail: evil, At: noon},
			{Sequence: 3, Kind: evil, Key: evil, Unreadable: evil, At: noon},
		}),
		reading{from: ofQueue, at: noon, err: errors.New(evil)},
	)
	m.title, m.noLimits = evil, evil
	told := given(pressed(m, "enter"), told{key: evil, text: "one\x1b[2J\n\ttwo\x07\n" + evil})
	for name, m := range map[string]model{"screen": m, "story": told, "broken story": given(pressed(m, "enter"), toldError(evil)), "typing": given(pressed(m, "/"), tea.PasteMsg{Content: evil})} {
		harmless(t, name, m)
	}
}

func toldError(evil string) tea.Msg { return told{key: evil, err: errors.New(evil)} }

// harmless wants nothing in a drawing but what this package draws with.
func harmless(t *testing.T, name string, m model) {
	t.Helper()
	drawn := m.draw()
	for _, s := range styles {
		if s != nil {
			drawn = strings.ReplaceAll(drawn, s.String(), "")
		}
	}
	drawn = strings.ReplaceAll(drawn, ansi.ResetStyle, "")
	if lines := strings.Count(drawn, "\n"); lines >= m.height {
		t.Errorf("%s: a line break came through", name)
	}
	for _, r := range strings.ReplaceAll(drawn, "\n", "") {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' || r == '\u2028' {
			t.Errorf("%s: %U came through in %q", name, r, drawn)
			return
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "plain", "\x1b[31mred\x1b[0m", "\x1b]0;x", "\xc2", "\u009b2J", "a\x1b\x1b[[2J", "åäö 😀 \u202e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		for _, r := range got {
			if r < ' ' || r >= 0x7f && r < 0xa0 {
				t.Fatalf("%U is left of %q", r, s)
			}
		}
		if again := clean(got); again != got {
			t.Fatalf("%q is cleaned to %q, and that to %q", s, got, again)
		}
		if w := cells(shorten(got, 10)); w > 10 {
			t.Fatalf("%q is shortened to %d columns", got, w)
		}
	})
}

func TestClean(t *testing.T) {
	t.Parallel()

	for in, want := range map[string]string{
		"plain å 😀":            "plain å 😀",
		"\x1b[31mred\x1b[0m":   "red",
		"\x1b]0;title\x07text": "text",
		"two\r\nlines\tand":    "two  lines and",
		"a\u202eb\u200bc\x00d": "abcd",
		"half\xc2":             "half\ufffd",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

// Whatever the size of the terminal and whatever is shown, it fits.
func TestEverythingFits(t *testing.T) {
	t.Parallel()

	days := map[string][]tea.Msg{"busy": busyDay(), "quiet": quietDay(), "away": away(), "unknown": nil}
	for _, width := range []int{1, 29, 30, 45, 71, 72, 80, 119, 120, 160} {
		for _, height := range []int{1, 7, 8, 9, 12, 16, 24, 48} {
			for name, day := range days {
				for _, list := range []string{"", "?", "/,a,b", "enter", "enter,G", "G", "tab,down"} {
					m := pressed(given(open(width, height), day...), keys(list)...)
					all := strings.Split(m.draw(), "\n")
					if len(all) > height {
						t.Errorf("%s %q at %d×%d: %d lines", name, list, width, height, len(all))
					}
					for i, l := range all {
						if w := ansi.StringWidthWc(l); w > width {
							t.Errorf("%s %q at %d×%d: line %d has %d columns", name, list, width, height, i+1, w)
						}
					}
				}
			}
		}
	}
}
