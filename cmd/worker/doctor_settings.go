package main

import (
	"fmt"
	"os"
	"time"
)

// leastTail is how much longer than a create call a drain should be: what was
// bought has still to be stored and announced.
const leastTail = 10 * time.Second

// local examines what can be seen without asking anybody.
func (d *doctor) local() {
	s := d.settings
	tail := s.DrainTimeout - s.CreateTimeout
	detail := fmt.Sprintf("a stop waits for %s, a create call takes %s at most", s.DrainTimeout, s.CreateTimeout)
	if tail < leastTail {
		d.say("drain", checkWarn, fmt.Sprintf("%s: that leaves %s to store and announce what the last one bought; if it is too short, the next worker looks it up", detail, tail),
			fmt.Sprintf("WORKER_DRAIN_TIMEOUT=%s or more, and let whoever stops the worker wait longer than that", s.CreateTimeout+leastTail))
	} else {
		d.okf("drain", "%s", detail)
	}
	for _, f := range []struct{ variable, path string }{
		{"HOSTUP_API_TOKEN_FILE", s.APITokenFile},
		{"NATS_CREDS", s.NATSCreds},
		{"NATS_NKEY", s.NATSNKey},
		{"NATS_KEY", s.NATSKey},
	} {
		d.secretFile(f.variable, f.path)
	}
}

// secretFile examines who may read a secret. That it cannot be read at all shows
// where it is used.
func (d *doctor) secretFile(variable, path string) {
	if path == "" {
		return
	}
	info, err := os.Stat(path)
	check := "file " + variable
	switch {
	case err != nil:
		d.say(check, checkFail, err.Error(), "let "+variable+" name a file that the worker may read")
	case info.Mode().Perm()&0o007 != 0:
		d.say(check, checkWarn, fmt.Sprintf("%s has mode %04o: every user of this machine may read the secret", path, info.Mode().Perm()), "chmod o= "+path+" (Kubernetes: defaultMode 0440)")
	default:
		d.okf(check, "%s has mode %04o", path, info.Mode().Perm())
	}
}
