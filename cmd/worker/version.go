package main

import (
	"fmt"
	"os"
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

type versionCmd struct {
	SBOM bool   `name:"sbom" env:"WORKER_VERSION_SBOM" help:"Print instead what the program is made of: a bill of materials, CycloneDX 1.6."`
	Of   string `name:"of" env:"WORKER_VERSION_OF" placeholder:"FILE" help:"With --sbom: of this file, the same version built for another platform."`
}

// Help is printed below the flags' summary.
func (*versionCmd) Help() string {
	return `Examples:
  worker version
  worker version --sbom > worker.cdx.json`
}

// Run prints what this binary is.
func (c *versionCmd) Run(t *terminal) error {
	if c.SBOM {
		return c.bill(t)
	}
	_, err := fmt.Fprintf(t.out, "worker %s (commit %s, %s, %s/%s)\n", version, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

func (c *versionCmd) bill(t *terminal) (err error) {
	of := c.Of
	if of == "" {
		if of, err = os.Executable(); err != nil {
			return fmt.Errorf("find the program that runs: %w", err)
		}
	}
	b, err := billOf(of)
	if err != nil {
		return err
	}
	return printJSON(t.out, b, true)
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
