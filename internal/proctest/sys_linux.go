package proctest

import "syscall"

// dieWithUs makes the kernel end a child when the suite itself is killed and
// can no longer do so.
func dieWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
