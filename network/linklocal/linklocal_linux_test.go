package linklocal

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// MD-01, MD-02: guests reach 169.254.169.254 through their router, and the bridge tells two of one address apart.
func TestTwoBridgesWithOneRange(t *testing.T) {
	node := newNode(t)
	makeBridge(t, node, "br1")
	makeBridge(t, node, "br2")
	one := guest(t, node, "br1", "52:54:00:00:00:01", "10.0.0.5")
	two := guest(t, node, "br2", "52:54:00:00:00:02", "10.0.0.5")
	s := newServer(t, node)
	require.NoError(t, s.Apply(t.Context(), network.Desired{Bridges: []network.Bridge{bridge("br1"), bridge("br2")}}))
	run(t, s)
	require.Equal(t, "br1 52:54:00:00:00:01 10.0.0.5", told(t, one))
	require.Equal(t, "br2 52:54:00:00:00:02 10.0.0.5", told(t, two))
	require.Equal(t, "br1 52:54:00:00:00:01 10.0.0.5", told(t, one))

	// With the route that DHCP tells where the router is another, and on the link itself.
	runIn(t, one, "route", "del", "default")
	_, err := asks(one)
	require.ErrorIs(t, err, unix.ENETUNREACH)
	runIn(t, one, "route", "add", "169.254.169.254/32", "via", "10.0.0.1")
	require.Equal(t, "br1 52:54:00:00:00:01 10.0.0.5", told(t, one))
	runIn(t, one, "route", "replace", "169.254.169.254/32", "dev", "eth0")
	require.Equal(t, "br1 52:54:00:00:00:01 10.0.0.5", told(t, one))
}

// What a guest claims to be is told as it is on the wire: an address of another does not come with the other's card.
func TestTheHardwareAddressIsThatOfTheFrame(t *testing.T) {
	node := newNode(t)
	makeBridge(t, node, "br1")
	honest := guest(t, node, "br1", "52:54:00:00:00:01", "10.0.0.5")
	thief := guest(t, node, "br1", "52:54:00:00:00:02", "10.0.0.6")
	s := newServer(t, node)
	require.NoError(t, s.Plug(t.Context(), bridge("br1"), network.Tap{Name: "t", Bridge: "br1"}))
	run(t, s)
	require.Equal(t, "br1 52:54:00:00:00:01 10.0.0.5", told(t, honest))
	runIn(t, honest, "link", "set", "eth0", "down")
	runIn(t, thief, "addr", "flush", "dev", "eth0")
	runIn(t, thief, "addr", "add", "10.0.0.5/24", "dev", "eth0")
	runIn(t, thief, "route", "add", "default", "via", "10.0.0.1")
	runIn(t, node, "neigh", "flush", "all")
	require.Equal(t, "br1 52:54:00:00:00:02 10.0.0.5", told(t, thief))
}

// The kernel's table of neighbours says the same, for when it did not keep the frame.
func TestNeighbour(t *testing.T) {
	node := newNode(t)
	makeBridge(t, node, "br1")
	runIn(t, node, "neigh", "add", "10.0.0.7", "lladdr", "52:54:00:00:00:07", "dev", "br1")
	s := newServer(t, node)
	index, err := s.index("br1")
	require.NoError(t, err)
	mac, err := s.neighbour(index, netip.MustParseAddr("10.0.0.7"))
	require.NoError(t, err)
	require.Equal(t, "52:54:00:00:00:07", mac.String())
	_, err = s.neighbour(index, netip.MustParseAddr("10.0.0.8"))
	require.ErrorIs(t, err, unix.ENOENT)
}

// outerCloud puts the node into a cloud that has a 169.254.169.254 of its own, and routes what its guests send.
func outerCloud(t *testing.T, node *netnstest.NS) {
	t.Helper()
	outer := netnstest.New(t)
	runIn(t, node, "link", "add", "uplink", "type", "veth", "peer", "name", "outside")
	runIn(t, node, "link", "set", "outside", "netns", outer.Path())
	runIn(t, outer, "link", "set", "outside", "up")
	runIn(t, outer, "addr", "add", "192.0.2.1/24", "dev", "outside")
	runIn(t, outer, "addr", "add", "169.254.169.254/32", "dev", "lo")
	runIn(t, outer, "route", "add", "10.0.0.0/24", "via", "192.0.2.2")
	runIn(t, node, "addr", "add", "192.0.2.2/24", "dev", "uplink")
	runIn(t, node, "link", "set", "uplink", "up")
	runIn(t, node, "route", "add", "default", "via", "192.0.2.1")
	require.NoError(t, node.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }))
	var l net.Listener
	require.NoError(t, outer.Do(func() (err error) {
		l, err = net.Listen("tcp4", "169.254.169.254:80")
		return err
	}))
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("the outer cloud's\n"))
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = l.Close(); ended.Wait() })
}

// A node that is in a cloud itself goes on asking that cloud, and its guests never do.
func TestANodeInACloud(t *testing.T) {
	node := newNode(t)
	makeBridge(t, node, "br1")
	one := guest(t, node, "br1", "52:54:00:00:00:01", "10.0.0.5")
	outerCloud(t, node)
	require.Equal(t, "the outer cloud's", told(t, one), "which is the danger")
	addresses, routes := runIn(t, node, "-4", "-o", "addr"), runIn(t, node, "route", "show", "table", "main")
	s := newServer(t, node)
	require.NoError(t, s.Plug(t.Context(), bridge("br1"), network.Tap{Name: "t", Bridge: "br1"}))
	goesNowhere(t, one)
	stop := run(t, s)
	require.Equal(t, "br1 52:54:00:00:00:01 10.0.0.5", told(t, one))
	require.Equal(t, "the outer cloud's", told(t, node))
	require.Equal(t, addresses, runIn(t, node, "-4", "-o", "addr"))
	require.Equal(t, routes, runIn(t, node, "route", "show", "table", "main"))
	stop()
	goesNowhere(t, one)
	require.Equal(t, "the outer cloud's", told(t, node))
}

// goesNowhere checks that nobody tells a guest anything.
func goesNowhere(t *testing.T, ns *netnstest.NS) {
	t.Helper()
	said, err := asks(ns)
	require.Error(t, err, said)
}

func TestABridgeWithoutAnAddressIsNotServed(t *testing.T) {
	node := newNode(t)
	makeBridge(t, node, "br1")
	makeBridge(t, node, "br9")
	one := guest(t, node, "br1", "52:54:00:00:00:01", "10.0.0.5")
	other := guest(t, node, "br9", "52:54:00:00:00:09", "10.0.0.9")
	s := newServer(t, node)
	require.NoError(t, s.Apply(t.Context(), network.Desired{Bridges: []network.Bridge{bridge("br1"), {Name: "br9"}}}))
	run(t, s)
	told(t, one)
	goesNowhere(t, other)
}

// What was flushed comes again; what is there twice goes; what a killed process left, the next takes over.
func TestRulesAreRepaired(t *testing.T) {
	node := newNode(t)
	makeBridge(t, node, "br1")
	one := guest(t, node, "br1", "52:54:00:00:00:01", "10.0.0.5")
	s := newServer(t, node)
	want := network.Desired{Bridges: []network.Bridge{bridge("br1"), bridge("br2")}}
	require.NoError(t, s.Apply(t.Context(), want))
	rules := runIn(t, node, "rule")
	require.NoError(t, s.Apply(t.Context(), want))
	require.Equal(t, rules, runIn(t, node, "rule"))
	runIn(t, node, "rule", "del", "iif", "br1")
	runIn(t, node, "route", "flush", "table", "1685061633")
	next := newServer(t, node)
	run(t, next)
	require.NoError(t, next.Apply(t.Context(), want))
	require.Equal(t, "br1 52:54:00:00:00:01 10.0.0.5", told(t, one))
	require.ElementsMatch(t, strings.Split(rules, "\n"), strings.Split(runIn(t, node, "rule"), "\n"))
	require.NoError(t, next.Apply(t.Context(), network.Desired{}))
	require.NotContains(t, runIn(t, node, "rule"), "1685061633")
	require.Contains(t, runIn(t, node, "rule"), "lookup main")
}

func TestABridgeMayComeLateAndAgain(t *testing.T) {
	node := newNode(t)
	s := newServer(t, node)
	want := network.Desired{Bridges: []network.Bridge{bridge("br1")}}
	require.NoError(t, s.Apply(t.Context(), want))
	run(t, s)
	for range 2 {
		makeBridge(t, node, "br1")
		one := guest(t, node, "br1", "52:54:00:00:00:01", "10.0.0.5")
		require.NoError(t, s.Plug(t.Context(), bridge("br1"), network.Tap{Name: "t", Bridge: "br1"})) // as the agent does
		require.Equal(t, "br1 52:54:00:00:00:01 10.0.0.5", told(t, one))
		runIn(t, node, "link", "del", "br1")
		runIn(t, node, "link", "del", "t01br1")
	}
}

func TestAServerThatFailsIsStartedAgain(t *testing.T) {
	node := newNode(t)
	makeBridge(t, node, "br1")
	one := guest(t, node, "br1", "52:54:00:00:00:01", "10.0.0.5")
	calls := make(chan struct{}, 10)
	s := newServer(t, node)
	s.cfg.Serve = func(ctx context.Context, l net.Listener) error {
		calls <- struct{}{}
		if len(calls) == 1 {
			return os.ErrInvalid
		}
		return tell(ctx, l)
	}
	require.NoError(t, s.Apply(t.Context(), network.Desired{Bridges: []network.Bridge{bridge("br1")}}))
	run(t, s)
	told(t, one)
	require.Len(t, calls, 2)
	require.ErrorIs(t, s.Run(t.Context()), errdefs.ErrFailedPrecondition)
}

func TestHopLimit(t *testing.T) {
	node := newNode(t)
	makeBridge(t, node, "br1")
	one := guest(t, node, "br1", "52:54:00:00:00:01", "10.0.0.5")
	limits := make(chan int, 1)
	s := newServer(t, node)
	s.cfg.Serve = func(ctx context.Context, l net.Listener) error {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		defer stop()
		c, err := l.Accept()
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.(interface{ SetHopLimit(int) error }).SetHopLimit(3); err != nil {
			return err
		}
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			return err
		}
		_ = raw.Control(func(fd uintptr) {
			n, _ := unix.GetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TTL)
			limits <- n
		})
		<-ctx.Done()
		return nil
	}
	require.NoError(t, s.Apply(t.Context(), network.Desired{Bridges: []network.Bridge{bridge("br1")}}))
	run(t, s)
	require.Eventually(t, func() bool {
		return one.Do(func() error {
			c, err := net.DialTimeout("tcp4", "169.254.169.254:80", time.Second)
			if err == nil {
				err = c.Close()
			}
			return err
		}) == nil
	}, time.Minute, 20*time.Millisecond)
	require.Equal(t, 3, <-limits)
}

func TestBadInput(t *testing.T) {
	_, err := New(Config{})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	node := newNode(t)
	s := newServer(t, node)
	require.ErrorIs(t, s.Apply(t.Context(), network.Desired{Bridges: []network.Bridge{{}}}), errdefs.ErrInvalidArgument)
	require.ErrorIs(t, s.Plug(t.Context(), bridge("br1"), network.Tap{Name: "t", Bridge: "br2"}), errdefs.ErrInvalidArgument)
	require.NoError(t, s.Unplug(t.Context(), "unknown"))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Apply(ended, network.Desired{}), context.Canceled)
	require.ErrorIs(t, s.Plug(ended, bridge("br1"), network.Tap{Bridge: "br1"}), context.Canceled)
	require.NotContains(t, runIn(t, node, "rule"), "1685061633", "nothing was changed")
	s.cfg.NetNS = filepath.Join(t.TempDir(), "none")
	require.ErrorIs(t, s.Apply(t.Context(), network.Desired{}), os.ErrNotExist)
}
