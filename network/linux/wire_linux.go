package linux

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netns"
)

// wire is all that this package asks of the kernel. Tests put one between that breaks.
type wire interface {
	// route makes one request to rtnetlink.
	route(req netlink.Message) ([]netlink.Message, error)

	// openTap makes a tap that is gone when it is closed, unless it was kept.
	openTap(name string) (tapFile, error)

	// filter reads our table; rules that are not as they should be are named in a filter's problem.
	filter() (filter, error)

	// group reads a security group, and nothing else, of our table.
	group(id string) (filter, error)

	// class returns the class of the taps that go to this chain, and whether the table has it; if not, one that is free.
	class(chain string) (n uint32, there bool, err error)

	// nat reads the table of floating IPs, setNAT changes it in one transaction, announce tells a link who has an address.
	nat() (nat, error)
	setNAT(have, want nat) error
	announce(link uint32, mac net.HardwareAddr, a netip.Addr) error

	// commit changes our table in one transaction: all of it, or none.
	commit(c filterChange) error

	// setConf6 sets a sysctl of IPv6 of a link, or of all.
	setConf6(link, name string, value int) error

	// forwarding and forward are about the table of forwarded packets.
	forwarding() (forwards, error)
	forward(f forwards) error

	close() error
}

type tapFile interface {
	keep() error
	close() error
}

// kernel is the wire to the kernel of the machine, in one network namespace.
type kernel struct {
	netns *os.File // nil: that of the process
	rt    *netlink.Conn
	nft   *nftables.Conn
	rules *netlink.Conn // of the packet filter too
	room  int           // bytes that rules can send at once; 0: what the kernel gives

	removals chan *netlink.Conn // those that no removal of a link uses; nil: not made yet
}

// dial opens the sockets, once and early: the nftables library can't read from file descriptors above 1023.
func dial(path string) (_ *kernel, err error) {
	k := &kernel{removals: make(chan *netlink.Conn, maxRemovals)}
	for range maxRemovals {
		k.removals <- nil
	}
	defer func() {
		if err != nil {
			_ = k.close()
		}
	}()
	fd := 0
	if path != "" {
		if k.netns, err = os.Open(path); err != nil {
			return nil, fmt.Errorf("network namespace: %w", err)
		}
		fd = int(k.netns.Fd())
	}
	if k.rt, err = netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: fd}); err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	for _, option := range []netlink.ConnOption{netlink.ExtendedAcknowledge, netlink.GetStrictCheck} {
		if err := k.rt.SetOption(option, true); err != nil {
			return nil, fmt.Errorf("rtnetlink: %w", err)
		}
	}
	if err := k.rt.SetReadBuffer(1 << 20); err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	if k.rules, err = netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: fd}); err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	if err := k.rules.SetReadBuffer(1 << 20); err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	if k.nft, err = nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(fd)); err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return k, nil
}

func (k *kernel) close() error {
	var err error
	for range maxRemovals { // when those that are under way have ended
		if conn := <-k.removals; conn != nil {
			err = errors.Join(err, conn.Close())
		}
	}
	if k.rt != nil {
		err = k.rt.Close()
	}
	if k.rules != nil {
		err = errors.Join(err, k.rules.Close())
	}
	if k.nft != nil {
		err = errors.Join(err, k.nft.CloseLasting())
	}
	if k.netns != nil {
		err = errors.Join(err, k.netns.Close())
	}
	return err
}

// dumpTries is how often a list is read that changes while it is read.
const dumpTries = 5

func (k *kernel) route(req netlink.Message) ([]netlink.Message, error) {
	if req.Header.Type == unix.RTM_DELLINK {
		return nil, k.removeLink(req)
	}
	for try := 1; ; try++ {
		replies, err := k.rt.Execute(req)
		whole := true
		for _, reply := range replies {
			whole = whole && reply.Header.Flags&netlink.DumpInterrupted == 0
		}
		if whole || err != nil || try == dumpTries {
			return replies, err
		}
	}
}

// maxRemovals is how many links may be on their way out of the kernel at once.
const maxRemovals = 16

// removeLink removes a link, and returns when it is not there any more. The kernel keeps whoever asked for some 15 ms longer, while it gives
// memory back, which somebody else waits for.
func (k *kernel) removeLink(req netlink.Message) error {
	conn := <-k.removals
	if conn == nil {
		config := &netlink.Config{}
		if k.netns != nil {
			config.NetNS = int(k.netns.Fd())
		}
		var err error
		if conn, err = netlink.Dial(unix.NETLINK_ROUTE, config); err != nil {
			k.removals <- nil
			return fmt.Errorf("rtnetlink: %w", err)
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := conn.Execute(req)
		done <- err
		k.removals <- conn
	}()
	look := netlink.Message{Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request}, Data: req.Data}
	for {
		select {
		case err := <-done:
			return err
		default:
		}
		if _, err := k.rt.Execute(look); err != nil { // waits for a removal that has begun
			if errors.Is(err, unix.ENODEV) {
				return nil
			}
			return <-done
		}
	}
}

func (k *kernel) setConf6(link, name string, value int) error {
	return k.inside(func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", link, name), strconv.AppendInt(nil, int64(value), 10), 0)
	})
}

// inside runs f in the namespace, on a thread of its own where that is not the process's.
func (k *kernel) inside(f func() error) error {
	if k.netns == nil {
		return f()
	}
	return netns.OnThread(func() error {
		if err := unix.Setns(int(k.netns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("network namespace: %w", err)
		}
		return f()
	})
}

// tunFile is an open tap.
type tunFile int

// openTap makes the tap in the namespace of the thread that opens the device.
func (k *kernel) openTap(name string) (tapFile, error) {
	var file tapFile
	err := k.inside(func() (err error) {
		file, err = openTun(name)
		return err
	})
	return file, err
}

func openTun(name string) (tapFile, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		// What QEMU asks for when it opens a tap with one queue.
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return tunFile(fd), nil
}

func (f tunFile) keep() error  { return unix.IoctlSetInt(int(f), unix.TUNSETPERSIST, 1) }
func (f tunFile) close() error { return unix.Close(int(f)) }

// giveUp drops the transaction of the library that was begun.
func (k *kernel) giveUp(err error) error {
	return errors.Join(err, k.nft.Flush()) // one with an error is refused before it is sent
}
