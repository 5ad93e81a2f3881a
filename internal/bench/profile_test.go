package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// profileVariable tells a worker that was built for it where to write profiles.
const profileVariable = "BENCH_PROFILE"

// overlay describes a build of the worker with one file more, which writes
// profiles. The worker that ships can not.
func (s *suite) overlay() (string, error) {
	if err := os.MkdirAll(s.profiles, 0o755); err != nil {
		return "", err
	}
	var err error
	if s.profiles, err = filepath.Abs(s.profiles); err != nil {
		return "", err
	}
	source, err := filepath.Abs(filepath.Join("testdata", "profile.go"))
	if err != nil {
		return "", err
	}
	place, err := filepath.Abs(filepath.Join("..", "..", "cmd", "worker", "profile.go"))
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{place: source}})
	if err != nil {
		return "", err
	}
	file := filepath.Join(s.dir, "overlay.json")
	return file, os.WriteFile(file, text, 0o600)
}
