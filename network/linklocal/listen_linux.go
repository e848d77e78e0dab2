package linklocal

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netns"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// port is that of HTTP.
const port = 80

// withFrame is the value of TCP_SAVE_SYN for which the link layer's header is kept too.
const withFrame = 2

// listener is one bridge's.
type listener struct {
	net.Listener
	s      *Server
	bridge string
	index  int
}

// listen makes a listener for what comes in by a bridge. IP_TRANSPARENT is there because the address is no address of the node.
func (s *Server) listen(ctx context.Context, bridge string, index int) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		set := func(what string, e error) { err = errors.Join(err, os.NewSyscallError(what, e)) }
		if e := raw.Control(func(fd uintptr) {
			set("SO_BINDTODEVICE", unix.BindToDevice(int(fd), bridge))
			set("IP_TRANSPARENT", unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1))
			set("TCP_SAVE_SYN", unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_SAVE_SYN, withFrame))
		}); e != nil {
			return e
		}
		return err
	}}
	var l net.Listener
	err := netns.Do(s.cfg.NetNS, func() (err error) {
		l, err = config.Listen(ctx, "tcp4", netip.AddrPortFrom(network.MetadataAddr, port).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &listener{l, s, bridge, index}, nil
}

// Accept returns a [network.PeerConn]. A connection that can't be told is closed.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp := c.(*net.TCPConn)
		from, err := l.peer(tcp)
		if err == nil {
			return &conn{tcp, from}, nil
		}
		l.s.cfg.Logger.Debug("linklocal: where a connection comes from is not known", "bridge", l.bridge, "remote", c.RemoteAddr(), "error", err)
		_ = c.Close()
	}
}

// peer asks the kernel where a connection comes from.
func (l *listener) peer(c *net.TCPConn) (network.Peer, error) {
	from := network.Peer{Bridge: l.bridge, Addr: c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()}
	raw, err := c.SyscallConn()
	if err != nil {
		return from, err
	}
	var frame [256]byte
	var n int
	if e := raw.Control(func(fd uintptr) { n, err = savedSYN(int(fd), frame[:]) }); e != nil {
		return from, e
	}
	if err == nil && n >= 14 && frame[12] == unix.ETH_P_IP>>8 && frame[13] == unix.ETH_P_IP&0xff {
		from.MAC = append(net.HardwareAddr(nil), frame[6:12]...)
		return from, nil
	}
	from.MAC, err = l.s.neighbour(l.index, from.Addr)
	return from, err
}

// savedSYN reads the packet that opened a connection, with its headers.
func savedSYN(fd int, b []byte) (int, error) {
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_TCP, unix.TCP_SAVED_SYN,
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("TCP_SAVED_SYN", errno)
	}
	return int(n), nil
}

// conn is a connection of a guest.
type conn struct {
	*net.TCPConn
	from network.Peer
}

var _ network.PeerConn = (*conn)(nil)

// Peer implements [network.PeerConn].
func (c *conn) Peer() network.Peer { return c.from }

// SetHopLimit sets the time-to-live of what is sent from now on.
func (c *conn) SetHopLimit(n int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("IP_TTL", unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TTL, n))
	}); e != nil {
		return e
	}
	return err
}

// index returns the index of an interface, or ENODEV.
func (s *Server) index(name string) (index int, err error) {
	err = netns.Do(s.cfg.NetNS, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
			return os.NewSyscallError("SIOCGIFINDEX", err)
		}
		index = int(req.Uint32())
		return nil
	})
	return index, err
}
