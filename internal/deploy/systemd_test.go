package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const unitFile = "systemd/deploy-worker.service"

// settings are the lines of a unit; of those that stand there more than once,
// all.
func settings(text string) map[string][]string {
	found := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?m)^([A-Za-z]+)=(.*)$`).FindAllStringSubmatch(text, -1) {
		found[m[1]] = append(found[m[1]], m[2])
	}
	return found
}

// The unit waits longer for the end than a drain takes, and speaks the protocol
// that the worker speaks.
func TestUnit(t *testing.T) {
	t.Parallel()

	unit := settings(shipped(t, unitFile))
	one := func(name string) string {
		if len(unit[name]) != 1 {
			t.Fatalf("%s stands there %d times", name, len(unit[name]))
		}
		return unit[name][0]
	}
	stop, err := time.ParseDuration(one("TimeoutStopSec"))
	if err != nil {
		t.Fatal(err)
	}
	defaults := must(t, root(t), `grep -o 'env:"WORKER_DRAIN_TIMEOUT" default:"[0-9a-z]*"' cmd/worker/settings.go | cut -d'"' -f4`)
	drain, err := time.ParseDuration(strings.TrimSpace(defaults))
	if err != nil || stop <= drain {
		t.Errorf("a stop waits for %s, a drain takes %s, %v", stop, drain, err)
	}
	if one("Type") != "notify" || one("DynamicUser") != "yes" || one("RestartPreventExitStatus") != "2" {
		t.Error("the unit has changed")
	}
	if !strings.HasPrefix(one("LoadCredential"), "hostup-token:") || !strings.Contains(strings.Join(unit["Environment"], " "), "HOSTUP_API_TOKEN_FILE=%d/hostup-token") {
		t.Error("the credential is not what the worker reads")
	}
}

// systemd itself finds nothing wrong with the unit, and rates what the service
// could do to the machine below 2.0 of 10.
func TestUnitBySystemd(t *testing.T) {
	t.Parallel()
	if !*all {
		t.Log("only with -deploy")
		return
	}
	unit := filepath.Join(t.TempDir(), filepath.Base(unitFile))
	// It wants the program to be where the unit says.
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	verify := func(text string) error {
		t.Helper()
		if err := os.WriteFile(unit, []byte(strings.ReplaceAll(text, "/usr/local/bin/worker", program)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := sh(t.Context(), t, root(t), "systemd-analyze verify --man=no "+unit+` 2>&1 | tee /dev/stderr | (! grep -q .)`)
		return err
	}
	rate := func(threshold string) (string, error) {
		return sh(t.Context(), t, root(t), "systemd-analyze security --no-pager --offline=yes --threshold="+threshold+" "+unit)
	}
	text := shipped(t, unitFile)
	if err := verify(text); err != nil {
		t.Errorf("systemd-analyze verify: %v", err)
	}
	if out, err := rate("20"); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	} else {
		t.Log(strings.TrimSpace(out[strings.LastIndex(strings.TrimSpace(out), "\n"):]))
	}
	// Both would tell.
	if verify(strings.Replace(text, "TimeoutStopSec", "TimeoutStopSecs", 1)) == nil {
		t.Error("systemd-analyze verify does not see a setting that does not exist")
	}
	if _, err := rate("5"); err == nil {
		t.Error("systemd-analyze security rates everything below 0.5")
	}
}
