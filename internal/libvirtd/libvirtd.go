package libvirtd

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Config says where a private libvirtd lives.
type Config struct {
	Dir string // required: absolute; made if missing; short, as sockets lie in it (see maxDir)

	// NetNS is the network namespace that the daemon and its guests run in: its name as in `ip netns`, or an absolute
	// path. Empty: the caller's.
	NetNS string

	// CacheDir keeps what libvirt learns of QEMU when it runs it for the first time, which takes seconds. Several
	// daemons may share it. Empty: Dir/cache.
	CacheDir string

	// Reaper is a command that the daemon runs under, before the daemon's own command line. It calls [Reap]. Where
	// process 1 reaps orphans late, QEMU stays a zombie for as long, and libvirt takes the guest for alive: ending a
	// guest then takes a second and more. Empty: none.
	Reaper []string

	Logger *slog.Logger // nil: silent
}

// maxDir is the longest Dir, in bytes: the longest socket below it must fit into sun_path, 107 bytes (unix(7)).
const maxDir = 107 - len("/run/virtlogd-admin-sock")

func (c *Config) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("libvirtd: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	switch {
	case !filepath.IsAbs(c.Dir):
		return bad("Dir %q is not an absolute path", c.Dir)
	case len(c.Dir) > maxDir:
		return bad("Dir %q is %d bytes long, at most %d are allowed", c.Dir, len(c.Dir), maxDir)
	case c.CacheDir != "" && !filepath.IsAbs(c.CacheDir):
		return bad("CacheDir %q is not an absolute path", c.CacheDir)
	}
	c.Dir = filepath.Clean(c.Dir)
	if c.CacheDir == "" {
		c.CacheDir = filepath.Join(c.Dir, "cache")
	}
	if c.NetNS != "" && !filepath.IsAbs(c.NetNS) {
		c.NetNS = filepath.Join("/run/netns", c.NetNS)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Socket returns the path of the socket of the libvirtd in dir, whether it runs or not.
func Socket(dir string) string { return filepath.Join(dir, "run", "libvirt-sock") }
