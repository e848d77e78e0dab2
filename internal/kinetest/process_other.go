//go:build !linux

package kinetest

import "syscall"

func attributes(uint32, uint32) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
