package hostup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTokenCannotBePrinted(t *testing.T) {
	t.Parallel()
	tok, err := parseToken(testKey)
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		Public  Token
		private Token
	}
	h := holder{tok, tok}
	var texts []string
	for _, v := range []any{tok, &tok, h, &h, []Token{tok}, map[string]Token{"k": tok}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			texts = append(texts, fmt.Sprintf(verb, v))
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b), slog.AnyValue(v).Resolve().String())
	}
	for _, text := range texts {
		if leaks(text) {
			t.Errorf("the key is in %q", text)
		}
	}
	if got := fmt.Sprint(tok); got != redacted {
		t.Errorf("printed as %q", got)
	}
}

// leaks reports whether a text holds the test key, or a telling part of it, in
// any of its forms.
func leaks(text string) bool {
	escaped, _ := json.Marshal(testKey)
	for _, form := range []string{
		testKey, string(escaped[1 : len(escaped)-1]), url.QueryEscape(testKey), url.PathEscape(testKey),
		fmt.Sprintf("%x", testKey), strings.ReplaceAll(testKey, "/", `\/`), "hu_live",
	} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

func TestScrub(t *testing.T) {
	t.Parallel()
	tok, _ := parseToken(testKey)
	escaped, _ := json.Marshal(testKey)
	var unicoded strings.Builder
	for _, c := range []byte(testKey) {
		fmt.Fprintf(&unicoded, `\u00%02X`, c)
	}
	for _, form := range []string{
		testKey, string(escaped[1 : len(escaped)-1]), url.QueryEscape(testKey), unicoded.String(),
		strings.ReplaceAll(strings.ReplaceAll(testKey, `"`, `\"`), "/", `\/`),
	} {
		if got := string(tok.scrub([]byte("a " + form + " b " + form))); got != "a [redacted] b [redacted]" {
			t.Errorf("%s became %s", form, got)
		}
	}
	for n := minScrubbed; n < len(testKey); n++ {
		if got := string(tok.scrubCut([]byte("cut " + testKey[:n]))); got != "cut [redacted]" {
			t.Errorf("a cut after %d became %s", n, got)
		}
	}
	short, _ := parseToken("e")
	if got := string(short.scrub([]byte("title"))); got != "title" {
		t.Errorf("a one-letter key made %q of title", got)
	}
}

func TestStaticToken(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", " \n", "a b", "a\x00b", "schlüssel", strings.Repeat("x", maxToken+1)} {
		if _, err := StaticToken(bad); err == nil || (len(bad) > 3 && strings.Contains(err.Error(), bad)) {
			t.Errorf("%.10q: %v", bad, err)
		}
	}
	s, err := StaticToken(" key-1 \n")
	if err != nil {
		t.Fatal(err)
	}
	s.Refresh()
	tok, err := s.Token()
	if err != nil || tok.header() != "Bearer key-1" || s.Generation() != 1 {
		t.Errorf("%v, generation %d", err, s.Generation())
	}
}

// tokenFile is a source under a clock of the test's own.
type tokenFile struct {
	*TokenSource

	t    *testing.T
	path string
	at   time.Time
}

func newTokenFile(t *testing.T) *tokenFile {
	t.Helper()
	f := &tokenFile{t: t, path: filepath.Join(t.TempDir(), "key"), at: time.Unix(1e9, 0)}
	f.TokenSource = TokenFile(f.path)
	f.now = func() time.Time { return f.at }
	return f
}

func (f *tokenFile) write(key string) {
	f.t.Helper()
	if err := os.WriteFile(f.path, []byte(key), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// expect checks the key and its generation after the next look is due.
func (f *tokenFile) expect(key string, generation uint64) {
	f.t.Helper()
	f.at = f.at.Add(tokenCheck)
	f.expectNow(key, generation)
}

func (f *tokenFile) expectNow(key string, generation uint64) {
	f.t.Helper()
	tok, err := f.Token()
	if err != nil {
		f.t.Fatal(err)
	}
	if tok.header() != "Bearer "+key || f.Generation() != generation {
		f.t.Fatalf("key %q of generation %d, want %q of %d", tok.reveal().text, f.Generation(), key, generation)
	}
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	f := newTokenFile(t)
	if _, err := f.Token(); !errors.Is(err, fs.ErrNotExist) || f.Generation() != 0 {
		t.Fatalf("missing file: %v", err)
	}
	f.write("\n")
	f.at = f.at.Add(tokenCheck)
	if _, err := f.Token(); err == nil || !strings.Contains(err.Error(), f.path) {
		t.Fatalf("empty file: %v", err)
	}
	f.write(" key-1\n")
	f.expect("key-1", 1)
	f.write("key-22\n")
	f.expectNow("key-1", 1) // not yet due
	f.expect("key-22", 2)
	f.write("")
	f.expect("key-22", 2) // the last good one
	f.write("two words")
	f.expect("key-22", 2)
	f.write("key-22")
	f.expect("key-22", 2) // written again, and the same
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	f.expect("key-22", 2)
	f.write("key-333")
	f.Refresh()
	f.expectNow("key-333", 3) // due or not
}

// TestTokenFileSymlinkSwap changes a key as Kubernetes does: key is a link to
// ..data/key, and ..data is a link that is swapped.
func TestTokenFileSymlinkSwap(t *testing.T) {
	t.Parallel()
	f := newTokenFile(t)
	dir := filepath.Dir(f.path)
	stamp := time.Unix(1e9, 0)
	swap := func(version, key string) {
		t.Helper()
		at := filepath.Join(dir, version)
		for _, err := range []error{
			os.Mkdir(at, 0o700), os.WriteFile(filepath.Join(at, "key"), []byte(key), 0o600),
			os.Chtimes(filepath.Join(at, "key"), stamp, stamp), // size and time tell nothing
			os.Symlink(version, filepath.Join(dir, "..tmp")), os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	swap("v1", "key-1")
	if err := os.Symlink("..data/key", f.path); err != nil {
		t.Fatal(err)
	}
	f.expect("key-1", 1)
	swap("v2", "key-2")
	f.expect("key-2", 2)
}
