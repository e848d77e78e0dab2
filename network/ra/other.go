//go:build !linux

package ra

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Run is for Linux only: elsewhere it is NotImplemented.
func (s *Server) Run(context.Context) error {
	return fmt.Errorf("ra: a server needs Linux: %w", errdefs.ErrNotImplemented)
}
