//go:build !linux

package lvm

import (
	"errors"
	"os"
)

func zeroOut(*os.File, int64, int64) error { return errors.ErrUnsupported }
