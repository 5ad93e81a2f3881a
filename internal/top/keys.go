package top

import (
	"strings"

	tea "charm.land/bubbletea/v2"
)

// longestKey is the longest idempotency key there is.
const longestKey = 255

// press obeys a key. No key changes anything but the screen.
func (m model) press(k tea.KeyPressMsg) (tea.Model, tea.Cmd) {
	switch k.String() {
	case "ctrl+c":
		return m, tea.Quit
	case "ctrl+z":
		return m, tea.Suspend
	}
	switch m.mode {
	case helping:
		m.mode = watching // any key
		return m, nil
	case typing:
		return m.typeKey(k)
	case explaining:
		return m.pressStory(k.String())
	default:
		return m.pressScreen(k.String())
	}
}

func (m model) pressScreen(key string) (tea.Model, tea.Cmd) {
	switch key {
	case "q":
		return m, tea.Quit
	case "?", "h":
		m.mode = helping
	case "/":
		m.mode, m.typed = typing, ""
	case "up", "k":
		return m.move(-1), nil
	case "down", "j":
		return m.move(1), nil
	case "pgup":
		return m.move(-10), nil
	case "pgdown":
		return m.move(10), nil
	case "home", "g":
		return m.move(-len(m.rows())), nil
	case "end", "G":
		return m.move(len(m.rows())), nil
	case "tab":
		return m.other(), nil
	case "enter", "e":
		if key := m.key(); key != "" {
			return m.read(key)
		}
	}
	return m, nil
}

// other selects the first row of the other list.
func (m model) other() model {
	rows := m.rows()
	held := len(m.requests.Held)
	switch {
	case len(rows) == 0:
	case m.at(rows) < held && held < len(rows):
		m.chosen = rows[held]
	default:
		m.chosen = rows[0]
	}
	return m
}

func (m model) pressStory(key string) (tea.Model, tea.Cmd) {
	page := m.storyHeight() - 1
	switch key {
	case "q", "esc", "backspace":
		m.mode, m.story = watching, story{}
	case "r":
		return m.read(m.story.key)
	case "/":
		m.mode, m.typed = typing, ""
	case "up", "k":
		return m.scroll(-1), nil
	case "down", "j", "enter":
		return m.scroll(1), nil
	case "pgup", "b":
		return m.scroll(-page), nil
	case "pgdown", "space", "f":
		return m.scroll(page), nil
	case "home", "g":
		return m.scroll(-len(m.story.lines)), nil
	case "end", "G":
		return m.scroll(len(m.story.lines)), nil
	}
	return m, nil
}

// typeKey edits the idempotency key to look up.
func (m model) typeKey(k tea.KeyPressMsg) (tea.Model, tea.Cmd) {
	switch k.String() {
	case "esc":
		m.mode, m.typed = watching, ""
	case "ctrl+u":
		m.typed = ""
	case "backspace":
		if m.typed == "" {
			m.mode = watching
		} else {
			m.typed = m.typed[:len(m.typed)-1]
		}
	case "enter":
		key := strings.TrimSpace(m.typed)
		if key == "" {
			m.mode = watching
			return m, nil
		}
		return m.read(key)
	default:
		m.typed = keyable(m.typed + k.Text)
	}
	return m, nil
}

// keyable keeps of a text what an idempotency key may be made of.
func keyable(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
	return text[:min(len(text), longestKey)]
}
