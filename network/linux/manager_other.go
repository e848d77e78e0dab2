//go:build !linux

package linux

import (
	"fmt"
	"log/slog"
	"runtime"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// Config is what a [Manager] is made of.
type Config struct {
	NetNS  string
	Logger *slog.Logger
}

// Manager exists on Linux alone.
type Manager struct {
	network.Manager
}

// New is NotImplemented on this system.
func New(Config) (*Manager, error) {
	return nil, fmt.Errorf("network: a data path of Linux on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}
