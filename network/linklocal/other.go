//go:build !linux

package linklocal

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Run is for Linux only: elsewhere it is NotImplemented.
func (s *Server) Run(context.Context) error {
	return fmt.Errorf("linklocal: a server needs Linux: %w", errdefs.ErrNotImplemented)
}

func (s *Server) setRules(map[string]bool) error { return nil }
