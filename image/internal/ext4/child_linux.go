package ext4

import "syscall"

// childOfThisThread makes a child that gets no signals of our terminal, and is killed when the thread that starts it
// ends, be it by SIGKILL.
func childOfThisThread() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
