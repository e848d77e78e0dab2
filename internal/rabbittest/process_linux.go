package rabbittest

import "syscall"

// attributes put a process into a group of its own, and end it with the thread that started it: a test that is killed leaves
// no broker.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }
