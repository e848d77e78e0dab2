package kinetest

import "syscall"

// attributes end a process with the thread that started it: a test that is killed leaves none. It runs as another user if one is named.
func attributes(uid, gid uint32) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		attr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	}
	return attr
}
