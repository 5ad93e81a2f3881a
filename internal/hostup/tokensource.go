package hostup

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// tokenCheck is how long a key file is believed to be unchanged.
const tokenCheck = time.Second

// TokenSource gives the API key to whoever is about to send a request. Make
// one with StaticToken or TokenFile. It may be used concurrently.
type TokenSource struct {
	path string // empty for a static key
	now  func() time.Time

	mu         sync.Mutex
	token      Token
	generation uint64
	// seen is the file as it was when the key was read from it; nil to read
	// it again at the next check.
	seen    os.FileInfo
	checked time.Time
	err     error // why there is no key; only told while there never was one
}

// StaticToken returns a source of one unchanging key. White space around the
// key is dropped. It fails on a key that is empty, longer than 4096
// characters, or cannot stand in a header.
func StaticToken(key string) (*TokenSource, error) {
	t, err := parseToken(key)
	if err != nil {
		return nil, err
	}
	return &TokenSource{token: t, generation: 1, now: time.Now}, nil
}

// TokenFile returns a source that reads the key from a file, and reads it
// again when the file has changed: in place, by renaming another over it, or
// by swapping a symbolic link on the way to it, as Kubernetes does. The file
// is looked at once a second at most. While it is missing, empty or
// unreadable, the last good key stays in use.
func TokenFile(path string) *TokenSource {
	return &TokenSource{path: path, now: time.Now}
}

// Token returns the newest key. It fails only while no key was ever read.
func (s *TokenSource) Token() (Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	if s.token.empty() {
		return Token{}, s.err
	}
	return s.token, nil
}

// Generation grows by one whenever the key becomes a different one; it is 0
// before the first. Comparing it is the cheap way to learn that a key that was
// refused has been replaced.
func (s *TokenSource) Generation() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	return s.generation
}

// Refresh reads the file at once, changed or not. The client calls it after a
// 401: a network file system may tell of a change late.
func (s *TokenSource) Refresh() {
	if s.path == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read()
}

// check reads the file if a look at it is due and it has changed. The lock is
// held over that, which is one stat a second.
func (s *TokenSource) check() {
	now := s.now()
	if s.path == "" || (!s.checked.IsZero() && now.Sub(s.checked) < tokenCheck) {
		return
	}
	s.checked = now
	if info, err := os.Stat(s.path); err == nil && s.seen != nil && sameFile(info, s.seen) {
		return
	}
	s.read()
}

func sameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

func (s *TokenSource) read() {
	s.seen = nil
	token, info, err := readTokenFile(s.path)
	if err != nil {
		s.err = err
		return
	}
	s.seen = info
	if s.token.empty() || s.token.reveal().text != token.reveal().text {
		s.token = token
		s.generation++
	}
}

// readTokenFile returns the key with the file's state from before it was read:
// a write in between makes the two differ at the next check.
func readTokenFile(path string) (Token, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return Token{}, nil, fmt.Errorf("read the API key: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return Token{}, nil, fmt.Errorf("read the API key: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(f, 2*maxToken))
	if err != nil {
		return Token{}, nil, fmt.Errorf("read the API key: %w", err)
	}
	t, err := parseToken(string(b))
	if err != nil {
		return Token{}, nil, fmt.Errorf("read the API key from %s: %w", path, err)
	}
	return t, info, nil
}
