package ra

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netns"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// sockets are those of one bridge.
type sockets struct {
	nd       *ndp.Conn
	dhcp     *net.UDPConn
	forwards *os.File // the sysctl that tells whether the node forwards IPv6, in its namespace
}

// routes tells whether the node forwards IPv6. One that can't tell does not.
func (c sockets) routes() bool {
	value := make([]byte, 1)
	_, err := c.forwards.ReadAt(value, 0)
	return err == nil && value[0] != '0'
}

func (c sockets) close() {
	_ = c.nd.Close()
	_ = c.dhcp.Close()
	_ = c.forwards.Close()
}

var (
	allNodes   = netip.MustParseAddr("ff02::1")   // RFC 4291 §2.7.1
	allRouters = netip.MustParseAddr("ff02::2")   // the same
	allAgents  = netip.MustParseAddr("ff02::1:2") // RFC 8415 §7.1
)

const (
	serverPort = 547 // RFC 8415 §7.2
	clientPort = 546
)

// open makes the sockets on a bridge, which must have its link-local address.
func (s *Server) open(link *net.Interface) (c sockets, err error) {
	err = netns.Do(s.cfg.NetNS, func() error {
		numbered := *link
		numbered.Name = zone(link)
		nd, _, err := ndp.Listen(&numbered, ndp.LinkLocal)
		if err != nil {
			return err
		}
		var filter ipv6.ICMPFilter
		filter.SetAll(true)
		filter.Accept(ipv6.ICMPTypeRouterSolicitation)
		err = errors.Join(nd.SetICMPFilter(&filter), nd.JoinGroup(allRouters), nd.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagInterface, true))
		if err != nil {
			_ = nd.Close()
			return err
		}
		dhcp, err := listenDHCP(link)
		if err != nil {
			_ = nd.Close()
			return err
		}
		forwards, err := os.Open("/proc/sys/net/ipv6/conf/all/forwarding")
		if err != nil {
			_, _ = nd.Close(), dhcp.Close()
			return err
		}
		c = sockets{nd, dhcp, forwards}
		return nil
	})
	return c, err
}

// zone names an interface by its number in addresses: names are remembered by package net, for all namespaces together and also when
// the interface is another by now.
func zone(link *net.Interface) string { return strconv.Itoa(link.Index) }

func listenDHCP(link *net.Interface) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) { err = os.NewSyscallError("SO_BINDTODEVICE", unix.BindToDevice(int(fd), link.Name)) }); e != nil {
			return e
		}
		return err
	}}
	c, err := config.ListenPacket(context.Background(), "udp6", netip.AddrPortFrom(netip.IPv6Unspecified(), serverPort).String())
	if err != nil {
		return nil, err
	}
	if err := ipv6.NewPacketConn(c).JoinGroup(link, &net.UDPAddr{IP: allAgents.AsSlice()}); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// perSecond is how many questions of all guests of a bridge are answered in a second. Who is not, asks again, or waits for the next
// advertisement.
const perSecond = 100

// budget counts questions. It is one goroutine's.
type budget struct {
	second int64
	used   int
}

func (b *budget) spent(now time.Time) bool {
	if second := now.Unix(); b.second != second {
		b.second, b.used = second, 0
	}
	b.used++
	return b.used > perSecond
}

// serve advertises on one bridge, and answers, until ctx ends or a socket fails; then it closes the sockets.
func (s *Server) serve(ctx context.Context, b network.Bridge, link *net.Interface, c sockets) error {
	ctx, stop := context.WithCancelCause(ctx)
	say := func() *ndp.RouterAdvertisement { return advertisement(b, link.HardwareAddr, c.routes()) }
	closing := context.AfterFunc(ctx, func() {
		if b.Gateway6.IsValid() && !errors.Is(context.Cause(ctx), errReplaced) {
			_ = c.nd.WriteTo(advertisement(b, link.HardwareAddr, false), nil, allNodes) // the last one: guests look for another router
		}
		c.close()
	})
	defer func() {
		if closing() {
			c.close()
		}
	}()
	var parts sync.WaitGroup
	run := func(f func() error) {
		parts.Go(func() { stop(f()) })
	}
	run(func() error { return s.unasked(ctx, c.nd, say) })
	run(func() error { return solicited(c.nd, say) })
	run(func() error { return informed(c.dhcp, b, link) })
	parts.Wait()
	return context.Cause(ctx)
}

// The first advertisements come sooner than the others (RFC 4861 §10).
const (
	firstOnes  = 3
	firstPause = 16 * time.Second
)

// unasked advertises to all, at times that drift (RFC 4861 §6.2.4).
func (s *Server) unasked(ctx context.Context, nd *ndp.Conn, say func() *ndp.RouterAdvertisement) error {
	for n := 0; ; n++ {
		if err := nd.WriteTo(say(), nil, allNodes); err != nil && !transient(err) {
			return err
		}
		pause := s.cfg.Interval/3 + rand.N(s.cfg.Interval*2/3)
		if n < firstOnes {
			pause = min(pause, firstPause)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// solicited answers router solicitations: to who asks, or to all if who asks has no address yet (RFC 4861 §6.2.6).
func solicited(nd *ndp.Conn, say func() *ndp.RouterAdvertisement) error {
	var spend budget
	for {
		m, cm, from, err := nd.ReadFrom()
		if err != nil {
			return err
		}
		if _, ok := m.(*ndp.RouterSolicitation); !ok || cm == nil || cm.HopLimit != ndp.HopLimit || spend.spent(time.Now()) {
			continue
		}
		to := allNodes
		if from.IsLinkLocalUnicast() {
			to = from.WithZone("")
		}
		if err := nd.WriteTo(say(), nil, to); err != nil && !transient(err) {
			return err
		}
	}
}

// informed answers Information-requests.
func informed(c *net.UDPConn, b network.Bridge, link *net.Interface) error {
	var spend budget
	packet := make([]byte, maxRequest+1)
	for {
		n, from, err := c.ReadFromUDPAddrPort(packet)
		if err != nil {
			return err
		}
		if !from.Addr().IsLinkLocalUnicast() || from.Port() != clientPort || spend.spent(time.Now()) {
			continue
		}
		if answer := reply(b, link.HardwareAddr, packet[:n]); answer != nil {
			to := netip.AddrPortFrom(from.Addr().WithZone(zone(link)), clientPort)
			if _, err := c.WriteToUDPAddrPort(answer, to); err != nil && !transient(err) {
				return err
			}
		}
	}
}

// transient tells whether a later packet may go through, on the same socket.
func transient(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENETUNREACH) ||
		errors.Is(err, unix.EHOSTUNREACH)
}
