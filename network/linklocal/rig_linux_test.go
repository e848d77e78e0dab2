package linklocal

import (
	"bufio"
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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func runIn(t testing.TB, ns *netnstest.NS, args ...string) string {
	t.Helper()
	var out []byte
	err := ns.Do(func() (err error) {
		out, err = exec.Command("ip", args...).CombinedOutput()
		return err
	})
	require.NoError(t, err, "ip %s: %s", strings.Join(args, " "), out)
	return string(out)
}

func newNode(t testing.TB) *netnstest.NS {
	t.Helper()
	testneed.Root(t)
	testneed.Tools(t, "ip")
	return netnstest.New(t)
}

func bridge(name string) network.Bridge {
	return network.Bridge{Name: name, Gateway: netip.MustParsePrefix("10.0.0.1/24")}
}

func makeBridge(t testing.TB, node *netnstest.NS, name string) {
	t.Helper()
	runIn(t, node, "link", "add", name, "type", "bridge", "forward_delay", "0", "stp_state", "0")
	runIn(t, node, "addr", "add", "10.0.0.1/24", "dev", name)
	runIn(t, node, "link", "set", name, "up")
}

// guest joins a namespace to a bridge by a card eth0 with an address and the default route through the node.
func guest(t testing.TB, node *netnstest.NS, bridge, mac, addr string) *netnstest.NS {
	t.Helper()
	ns := netnstest.New(t)
	end := "t" + mac[len(mac)-2:] + bridge
	runIn(t, node, "link", "add", end, "type", "veth", "peer", "name", "x"+end)
	runIn(t, node, "link", "set", "x"+end, "netns", ns.Path())
	runIn(t, node, "link", "set", end, "master", bridge, "up")
	runIn(t, ns, "link", "set", "x"+end, "name", "eth0", "address", mac)
	runIn(t, ns, "addr", "add", addr+"/24", "dev", "eth0")
	runIn(t, ns, "link", "set", "eth0", "up")
	runIn(t, ns, "route", "add", "default", "via", "10.0.0.1")
	return ns
}

// newServer is a server that tells each guest, in a line, where it comes from.
func newServer(t testing.TB, node *netnstest.NS) *Server {
	t.Helper()
	s, err := New(Config{NetNS: node.Path(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Serve: tell})
	require.NoError(t, err)
	return s
}

func tell(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		from := c.(network.PeerConn).Peer()
		_, _ = fmt.Fprintf(c, "%s %v %v\n", from.Bridge, from.MAC, from.Addr)
		_ = c.Close()
	}
}

// run runs a server until the test ends, or the function that it returns is called.
func run(t testing.TB, s *Server) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}

// asks returns what the guest is told, or why it is told nothing.
func asks(ns *netnstest.NS) (said string, err error) {
	err = ns.Do(func() error {
		c, err := (&net.Dialer{Timeout: 2 * time.Second}).Dial("tcp4", "169.254.169.254:80")
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		said, err = bufio.NewReader(c).ReadString('\n')
		return err
	})
	return strings.TrimSpace(said), err
}

// told waits until the guest is told something, and returns it.
func told(t testing.TB, ns *netnstest.NS) (said string) {
	t.Helper()
	var err error
	require.Eventually(t, func() bool { said, err = asks(ns); return err == nil }, time.Minute, 20*time.Millisecond)
	return said
}
