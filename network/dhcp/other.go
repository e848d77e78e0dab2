//go:build !linux

package dhcp

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// Run is for Linux only: elsewhere it is NotImplemented.
func (s *Server) Run(context.Context) error {
	return fmt.Errorf("dhcp: a server needs Linux: %w", errdefs.ErrNotImplemented)
}

type socket struct{}

func (*socket) send([]*answer) int { return 0 }

func flush(f *os.File) error { return f.Sync() }

func takeLock(path string) (*os.File, error) { return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) }
