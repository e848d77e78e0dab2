//go:build linux

package dhcp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
)

func TestMain(m *testing.M) {
	childMain()
	goleak.VerifyTestMain(m)
}

// node is a namespace with a bridge, and guest one whose card is joined to it.
type node struct {
	t     testing.TB
	ns    *netnstest.NS
	guest *netnstest.NS
}

// newNode makes a bridge br0 with the address 10.0.0.1/16, joined by a guest's card g0.
func newNode(t testing.TB) *node {
	t.Helper()
	testneed.Root(t)
	testneed.Tools(t, "ip")
	n := &node{t, netnstest.New(t), netnstest.New(t)}
	n.bridge("br0", "10.0.0.1/16")
	n.card("br0", "g0")
	return n
}

// ip runs the tool of this name in the node's namespace.
func (n *node) ip(args ...string) { n.t.Helper(); runIn(n.t, n.ns, "ip", args...) }

func (n *node) bridge(name, addr string) {
	n.t.Helper()
	n.ip("link", "add", name, "type", "bridge", "forward_delay", "0", "stp_state", "0")
	n.ip("addr", "add", addr, "dev", name)
	n.ip("link", "set", name, "up")
}

// card joins a card of the guest's to a bridge, and returns when the bridge forwards to it, which takes until the kernel has noticed its carrier.
func (n *node) card(bridge, name string) {
	n.t.Helper()
	n.ip("link", "add", "t"+name, "type", "veth", "peer", "name", name)
	n.ip("link", "set", name, "netns", n.guest.Path())
	n.ip("link", "set", "t"+name, "master", bridge, "up")
	runIn(n.t, n.guest, "ip", "link", "set", name, "up")
	require.Eventually(n.t, func() bool {
		return strings.Contains(runIn(n.t, n.ns, "ip", "-details", "link", "show", "dev", "t"+name), "bridge_slave state forwarding")
	}, time.Minute, time.Millisecond, "the bridge forwards to %s", name)
}

func runIn(t testing.TB, ns *netnstest.NS, name string, args ...string) string {
	t.Helper()
	var out []byte
	err := ns.Do(func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	require.NoError(t, err, "%s %s: %s", name, strings.Join(args, " "), out)
	return string(out)
}

// start runs a server on the node until the test ends.
func (n *node) start(dir string) *Server {
	n.t.Helper()
	s, err := New(Config{Dir: dir, NetNS: n.ns.Path(), Logger: slog.New(slog.NewTextHandler(n.t.Output(), nil))})
	require.NoError(n.t, err)
	n.run(s)
	return s
}

// run runs a server until the test ends, or the function that it returns is called.
func (n *node) run(s *Server) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(n.t, err)
		case <-time.After(time.Minute):
			n.t.Error("Run has not returned")
		}
	})
	n.t.Cleanup(stop)
	return stop
}

func testBridge() network.Bridge {
	return network.Bridge{Name: "br0", Gateway: netip.MustParsePrefix("10.0.0.1/16"), Router: netip.MustParseAddr("10.0.0.1"),
		DNS: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("8.8.8.8")}, Domain: "novalocal", Lease: time.Hour}
}

// testTap is the i-th port of testBridge.
func testTap(i int) network.Tap {
	return network.Tap{Name: fmt.Sprintf("dp%012x", i), Bridge: "br0", Port: fmt.Sprintf("port-%d", i), MAC: testMAC(i),
		IPs: []netip.Addr{netip.AddrFrom4(testAddr(i))}, Hostname: fmt.Sprintf("vm-%d", i)}
}

func testMAC(i int) net.HardwareAddr {
	return net.HardwareAddr{0x52, 0x54, 0, byte(i >> 16), byte(i >> 8), byte(i)}
}

func testAddr(i int) [4]byte { i += 16; return [4]byte{10, 0, byte(i >> 8), byte(i)} }

func testDesired(ports int) network.Desired {
	d := network.Desired{Bridges: []network.Bridge{testBridge()}}
	for i := range ports {
		d.Taps = append(d.Taps, testTap(i))
	}
	return d
}
