package hostup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
)

const (
	// maxToken bounds a key; HostUp's have a few dozen characters.
	maxToken = 4096
	// minScrubbed is the shortest key, or piece of one, that is cut out of
	// texts. Cutting out anything shorter would destroy innocent words.
	minScrubbed = 4
	redacted    = "[redacted]"
)

// Token is an API key that cannot be printed: every way of formatting it
// gives "[redacted]". The zero Token is no key at all.
type Token struct {
	// A function, because fmt does not call the methods of a value in
	// somebody's unexported field: it would print a string found there, and
	// with the wrong verb even what a pointer points to.
	reveal func() secret
}

type secret struct {
	text string
	// echo matches the key in a text, also where it was escaped for JSON or
	// for an address.
	echo *regexp.Regexp
}

// parseToken trims white space and refuses what cannot stand in a header.
func parseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return Token{}, errors.New("the API key is empty")
	case len(s) > maxToken:
		return Token{}, fmt.Errorf("the API key has more than %d characters", maxToken)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return Token{}, fmt.Errorf("the API key has a character at position %d that cannot stand in a header", i+1)
		}
	}
	hidden := secret{text: s, echo: echoPattern(s)}
	return Token{func() secret { return hidden }}, nil
}

func echoPattern(s string) *regexp.Regexp {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		fmt.Fprintf(&b, `(?:\\?%s|\\u00(?i:%02x)|%%(?i:%02x))`, regexp.QuoteMeta(string(c)), c, c)
	}
	return regexp.MustCompile(b.String())
}

func (t Token) empty() bool { return t.reveal == nil }

func (t Token) header() string { return "Bearer " + t.reveal().text }

// scrub returns b without the key. b itself is returned when it does not hold
// the key.
func (t Token) scrub(b []byte) []byte {
	if t.empty() {
		return b
	}
	key := t.reveal()
	// Every way to escape a character begins with one of these two.
	plain := !bytes.ContainsAny(b, `\%`)
	if len(key.text) < minScrubbed || plain && !bytes.Contains(b, []byte(key.text)) || !plain && !key.echo.Match(b) {
		return b
	}
	return key.echo.ReplaceAllLiteral(b, []byte(redacted))
}

// scrubCut is scrub for a text that was cut off, perhaps within the key.
func (t Token) scrubCut(b []byte) []byte {
	b = t.scrub(b)
	if t.empty() {
		return b
	}
	key := t.reveal().text
	for n := min(len(key)-1, len(b)); n >= minScrubbed; n-- {
		if bytes.HasSuffix(b, []byte(key[:n])) {
			return append(bytes.Clone(b[:len(b)-n]), redacted...)
		}
	}
	return b
}

// scrubError returns err, or an error with its text less the key and without
// its chain: net/http quotes what a server sent, and the chain would too.
func (t Token) scrubError(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if clean := string(t.scrub([]byte(text))); clean != text {
		return errors.New(clean)
	}
	return err
}

// String implements fmt.Stringer; it never tells the key.
func (t Token) String() string { return redacted }

// GoString implements fmt.GoStringer; it never tells the key.
func (t Token) GoString() string { return redacted }

// Format implements fmt.Formatter; no verb tells the key.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements encoding.TextMarshaler; it never tells the key.
func (t Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements json.Marshaler; it never tells the key.
func (t Token) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue implements slog.LogValuer; it never tells the key.
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }
