package libvirt

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// Config is what a [Hypervisor] is made of. The zero Config is the system's libvirtd.
type Config struct {
	Socket string // libvirtd's socket; empty: /run/libvirt/libvirt-sock
	URI    string // libvirt's driver; empty: qemu:///system

	// Type is how machines run: "kvm" by the processor's virtualization, "qemu" by emulation, which is about ten times
	// slower. Empty: "kvm" if [KVM], "qemu" otherwise.
	Type string

	// Cache is how QEMU caches disks: "writeback" keeps what was read and not yet flushed in the host's memory, "none"
	// does not. A flush of the guest reaches the disk with both. Empty: "writeback", as "none" needs a file system with
	// O_DIRECT, and instances of one image share what is cached of it.
	Cache string

	SparePorts  int           // devices that can be plugged in later; 0: 4, at most 16
	Connections int           // calls at once; 0: 16
	Timeout     time.Duration // of a call whose context has no deadline; 0: 5 min

	// Peer is the URI at which the libvirtd of every other host reaches this one's, such as "qemu+tls://192.0.2.7/system": who has it can do
	// anything on this host, so it has to be one that asks for certificates. Machines come from there, their memory and disks by TCP to
	// HostAddress, encrypted with TLS; with "+tcp" and "+ssh" these are not. "+unix" is for hosts that are one machine. Empty: no machine
	// moves to this host while it runs.
	Peer string

	HostAddress string       // told by Describe; empty: not known
	Logger      *slog.Logger // nil: silent
}

// Hypervisor drives the QEMU of one host. All methods are safe for concurrent use.
type Hypervisor struct {
	cfg  Config
	arch string
	pool *pool
	late late
}

var _ compute.Hypervisor = (*Hypervisor)(nil)

// New returns a driver. It connects to nothing yet: a libvirtd that is not there makes calls Unavailable, and Events wait.
// A bad Config is InvalidArgument.
func New(cfg Config) (*Hypervisor, error) {
	bad := func(format string, args ...any) (*Hypervisor, error) {
		return nil, fmt.Errorf("libvirt: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	if cfg.Socket == "" {
		cfg.Socket = "/run/libvirt/libvirt-sock"
	}
	if cfg.URI == "" {
		cfg.URI = "qemu:///system"
	}
	if cfg.Type == "" {
		cfg.Type = "qemu"
		if KVM() {
			cfg.Type = "kvm"
		}
	}
	if cfg.Cache == "" {
		cfg.Cache = "writeback"
	}
	if cfg.SparePorts == 0 {
		cfg.SparePorts = 4
	}
	if cfg.Connections == 0 {
		cfg.Connections = 16
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case !filepath.IsAbs(cfg.Socket):
		return bad("Config.Socket %q is not an absolute path", cfg.Socket)
	case cfg.Type != "kvm" && cfg.Type != "qemu":
		return bad("Config.Type is %q, must be \"kvm\" or \"qemu\"", cfg.Type)
	case cfg.Cache != "writeback" && cfg.Cache != "none":
		return bad("Config.Cache is %q, must be \"writeback\" or \"none\"", cfg.Cache)
	case !validPeer(cfg.Peer):
		return bad("Config.Peer %q is not a URI of libvirt with a transport, such as qemu+tls://host/system", cfg.Peer)
	case cfg.SparePorts < 0 || cfg.SparePorts > 16:
		return bad("Config.SparePorts is %d, must be 1 to 16, or 0 for 4", cfg.SparePorts)
	case cfg.Connections < 0:
		return bad("Config.Connections is %d, must be at least 1, or 0 for 16", cfg.Connections)
	case cfg.Timeout < 0:
		return bad("Config.Timeout is %v, must be above 0, or 0 for 5 min", cfg.Timeout)
	}
	h := &Hypervisor{cfg: cfg, arch: archOf(runtime.GOARCH)}
	h.pool = newPool(cfg.Connections, h.dial)
	return h, nil
}

// validPeer tells whether a URI says how another host's libvirtd reaches this one's.
func validPeer(peer string) bool {
	if peer == "" {
		return true
	}
	u, err := url.Parse(peer)
	return err == nil && strings.Contains(u.Scheme, "+") && (u.Host != "" || strings.HasSuffix(u.Scheme, "+unix"))
}

// Close closes all connections. Calls that are under way are Unavailable, and so is every later one; Events end. It may be
// called more than once.
func (h *Hypervisor) Close() error {
	h.pool.close()
	return nil
}

func (h *Hypervisor) dial(ctx context.Context) (*conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "unix", h.cfg.Socket)
	if err != nil {
		return nil, err
	}
	return open(ctx, raw, h.cfg.URI)
}

// do runs f on a connection of its own, and returns errors of the classes of the contract. It is for calls that change
// nothing: when ctx ends, what libvirtd makes of them does not matter.
func (h *Hypervisor) do(ctx context.Context, f func(wire) error) error {
	limited, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	c, err := h.pool.acquire(limited)
	if err == nil {
		err = h.pool.use(limited, c, f)
	}
	if err != nil {
		return h.verdict(ctx, limited, err)
	}
	return nil
}

// Describe implements [compute.Hypervisor].
func (h *Hypervisor) Describe(ctx context.Context) (compute.HostInfo, error) {
	info := compute.HostInfo{Hypervisor: "QEMU/TCG", Arch: h.arch, HostAddress: h.cfg.HostAddress}
	if h.cfg.Type == "kvm" {
		info.Hypervisor = "QEMU/KVM"
	}
	err := h.do(ctx, func(w wire) error {
		_, kib, cpus, _, _, _, _, _, err := w.NodeGetInfo()
		if err != nil {
			return err
		}
		version, err := w.ConnectGetVersion()
		if err != nil {
			return err
		}
		info.VCPUs, info.MemoryMiB = int(cpus), int(kib>>10)
		info.Version = fmt.Sprintf("%d.%d.%d", version/1_000_000, version/1000%1000, version%1000)
		return nil
	})
	if err != nil {
		return compute.HostInfo{}, err
	}
	return info, nil
}

func archOf(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return goarch
}
