//go:build !linux

package proctest

import "syscall"

// dieWithUs is only to be had on Linux; elsewhere a suite that is killed by
// SIGKILL leaves its children behind.
func dieWithUs() *syscall.SysProcAttr { return nil }
