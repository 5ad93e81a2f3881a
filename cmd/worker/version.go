package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version and commit are set by the linker (Makefile).
var (
	version = "dev"
	commit  = ""
)

// unknown stands for a name that cannot be found out.
const unknown = "unknown"

type versionCmd struct{}

// Help is printed below the flags' summary.
func (*versionCmd) Help() string {
	return `Example:
  worker version`
}

// Run prints what this binary is.
func (*versionCmd) Run(t *terminal) error {
	_, err := fmt.Fprintf(t.out, "worker %s (commit %s, %s, %s/%s)\n", version, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// revision is the commit that this binary was built from, as far as known.
func revision() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return unknown
}
