package provision

import (
	"sync"
	"time"
)

// maxSightings bounds the memory of a process that meets many lost attempts;
// beyond it all are dropped, which only makes somebody wait again.
const maxSightings = 100_000

// sightings remembers when this process first saw each attempt in flight, on
// its own monotonic clock. The zero value is ready.
type sightings struct {
	mu    sync.Mutex
	byKey map[string]sighting
}

type sighting struct {
	token string
	at    time.Time
}

// first returns when the attempt was first seen here: now, if never before.
func (s *sightings) first(key, token string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seen, ok := s.byKey[key]; ok && seen.token == token {
		return seen.at
	}
	if s.byKey == nil || len(s.byKey) >= maxSightings {
		s.byKey = make(map[string]sighting)
	}
	now := time.Now()
	s.byKey[key] = sighting{token: token, at: now}
	return now
}

// forget drops what is known of a key.
func (s *sightings) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byKey, key)
}
