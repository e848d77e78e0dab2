//go:build !linux

package iscsi

import (
	"errors"
	"syscall"
)

const canWriteSome = false

func writeSome(syscall.RawConn, [][]byte) (int, error) { return 0, errors.ErrUnsupported }
