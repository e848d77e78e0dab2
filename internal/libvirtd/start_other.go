//go:build !linux

package libvirtd

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Daemon is a private libvirtd with its virtlogd. There is none but on Linux.
type Daemon struct{}

var errLinux = fmt.Errorf("libvirtd: needs Linux: %w", errdefs.ErrNotImplemented)

// Start is NotImplemented but on Linux.
func Start(context.Context, Config) (*Daemon, error) { return nil, errLinux }

// Reap is NotImplemented but on Linux.
func Reap([]string) error { return errLinux }

// Socket returns "".
func (*Daemon) Socket() string { return "" }

// URI returns "".
func (*Daemon) URI() string { return "" }

// Adopted returns false.
func (*Daemon) Adopted() bool { return false }

// PID returns 0.
func (*Daemon) PID() int { return 0 }

// Stop does nothing.
func (*Daemon) Stop(context.Context) error { return nil }

// Kill does nothing.
func (*Daemon) Kill(context.Context) error { return nil }

// KillGuests does nothing.
func (*Daemon) KillGuests(context.Context) error { return nil }
