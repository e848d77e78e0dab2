//go:build unix && !linux

package ext4

import "syscall"

// childOfThisThread makes a child that gets no signals of our terminal. Where there is no prlimit it is never started.
func childOfThisThread() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
