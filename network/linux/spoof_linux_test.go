package linux

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// guest is the machine's side of a tap.
type guest struct {
	network.Tap
	file *os.File
}

// vnetHdr is what stands before each frame on a tap with IFF_VNET_HDR: no offloads.
const vnetHdr = 10

func openGuest(t testing.TB, ns *netnstest.NS, tap network.Tap) guest {
	t.Helper()
	var fd int
	require.NoError(t, ns.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		req, err := unix.NewIfreq(tap.Name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}))
	g := guest{tap, os.NewFile(uintptr(fd), tap.Name)}
	t.Cleanup(func() { _ = g.file.Close() })
	return g
}

func (g guest) send(t testing.TB, frame []byte) {
	t.Helper()
	_, err := g.file.Write(append(make([]byte, vnetHdr), frame...))
	require.NoError(t, err)
}

// until reads frames until one ends in the mark; it returns the forgeries that came before it, and whether the mark came.
func (g guest) until(t testing.TB, mark, forger []byte, patience time.Duration) (forgeries [][]byte, came bool) {
	t.Helper()
	require.NoError(t, g.file.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 4096)
	for {
		n, err := g.file.Read(buf)
		if err != nil {
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			return forgeries, false
		}
		frame := buf[vnetHdr:n]
		switch {
		case bytes.HasSuffix(frame, mark):
			return forgeries, true
		case isForgery(frame, forger):
			forgeries = append(forgeries, bytes.Clone(frame))
		}
	}
}

// forged is the end of the frames that must reach no one.
var forged = []byte("FORGERY!")

// isForgery tells a frame that is marked, or comes from a guest that sends nothing but forgeries: what follows a packet, as the
// mark does in some, may be cut off on the way.
func isForgery(frame, forger []byte) bool {
	return bytes.HasSuffix(frame, forged) || len(frame) >= 12 && bytes.Equal(frame[6:12], forger)
}

var broadcast = []byte{255, 255, 255, 255, 255, 255}

func ethernet(dst, src []byte, proto uint16, body []byte) []byte {
	return append(binary.BigEndian.AppendUint16(append(append([]byte{}, dst...), src...), proto), body...)
}

func arp(op uint16, senderMAC []byte, sender netip.Addr, target netip.Addr, end []byte) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, byte(op)}
	b = append(append(b, senderMAC...), sender.AsSlice()...)
	b = append(append(b, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
	return append(b, end...)
}

func sum(data []byte, start uint32) uint16 {
	for i := 0; i+1 < len(data); i += 2 {
		start += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	if len(data)%2 == 1 {
		start += uint32(data[len(data)-1]) << 8
	}
	for start>>16 != 0 {
		start = start&0xffff + start>>16
	}
	return ^uint16(start)
}

func udp(sport, dport uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...) // no checksum (RFC 768)
}

func ipv4(src, dst netip.Addr, proto byte, body []byte) []byte {
	h := make([]byte, 20, 20+len(body))
	h[0], h[8], h[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], sum(h, 0))
	return append(h, body...)
}

func ipv6(src, dst netip.Addr, next byte, body []byte) []byte {
	h := make([]byte, 40, 40+len(body))
	h[0], h[6], h[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(h, body...)
}

func icmpv6(src, dst netip.Addr, kind byte, body []byte) []byte {
	b := append([]byte{kind, 0, 0, 0}, body...)
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, 0, byte(len(b)>>8), byte(len(b)), 0, 0, 0, 58)
	binary.BigEndian.PutUint16(b[2:], sum(append(pseudo, b...), 0))
	return b
}

func madeOf(mac []byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// A guest that may send what it likes reaches no one with what is not its own: 10,000 random frames of each kind, watched for on
// another guest's tap and on the host's side of the bridge.
func TestForgeriesReachNoOne(t *testing.T) {
	testneed.Tools(t, "nft")
	ns, m := live(t)
	_, err := m.Apply(t.Context(), desired(1, 2))
	require.NoError(t, err)
	a, b := openGuest(t, ns, tap(1)), openGuest(t, ns, tap(2))
	host := listenOnBridge(t, ns, a.MAC)
	own, other, gateway := a.IPs[0], b.IPs[0], bridge().Gateway.Addr()
	ll, otherLL := madeOf(a.MAC), madeOf(b.MAC)
	allNodes, allNodesMAC := netip.MustParseAddr("ff02::1"), []byte{0x33, 0x33, 0, 0, 0, 1}
	random := rand.New(rand.NewPCG(1, 2))

	bytesOf := func(n int) []byte {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		return p
	}
	mac := func() []byte { // of anybody but a
		for {
			p := bytesOf(6)
			p[0] &^= 1
			if random.IntN(4) == 0 {
				copy(p, b.MAC)
			}
			if !bytes.Equal(p, a.MAC) {
				return p
			}
		}
	}
	ip := func() netip.Addr {
		for {
			addr := netip.AddrFrom4([4]byte(bytesOf(4)))
			switch random.IntN(4) {
			case 0:
				addr = other
			case 1:
				addr = gateway
			}
			if addr != own && addr != netip.IPv4Unspecified() {
				return addr
			}
		}
	}
	ip6 := func() netip.Addr {
		addr := netip.AddrFrom16([16]byte(append([]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0}, bytesOf(8)...)))
		if random.IntN(2) == 0 {
			addr = otherLL
		}
		return addr
	}
	dst := func() []byte { return [][]byte{b.MAC, broadcast}[random.IntN(2)] }
	end := func(p []byte) []byte { return append(p, forged...) }
	na := func(target netip.Addr, mac []byte) []byte {
		return append(append([]byte{0xa0, 0, 0, 0}, target.AsSlice()...), append([]byte{2, 1}, mac...)...)
	}

	classes := []struct {
		name  string
		frame func() []byte
	}{
		{"another's MAC", func() []byte {
			return ethernet(dst(), mac(), 0x0800, ipv4(own, other, 17, udp(1000, 2000, end(bytesOf(random.IntN(64))))))
		}},
		{"another's IPv4 address", func() []byte {
			return ethernet(dst(), a.MAC, 0x0800, ipv4(ip(), other, 17, udp(uint16(random.Uint32()), 2000, end(nil))))
		}},
		{"ARP with another's MAC", func() []byte {
			return ethernet(dst(), a.MAC, 0x0806, arp(uint16(1+random.IntN(2)), mac(), own, other, forged))
		}},
		{"ARP with another's address", func() []byte {
			addr := ip()
			return ethernet(dst(), a.MAC, 0x0806, arp(uint16(1+random.IntN(2)), a.MAC, addr, []netip.Addr{addr, other}[random.IntN(2)], forged))
		}},
		{"another's IPv6 address", func() []byte {
			return ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ip6(), otherLL, 17, udp(1, 2, end(nil))))
		}},
		{"neighbour advertisement for another", func() []byte {
			// The mark comes after the packet, as padding would: what is wrong with it is the advertisement alone.
			return end(ethernet(allNodesMAC, a.MAC, 0x86dd, ipv6(ll, allNodes, 58, icmpv6(ll, allNodes, 136, na(ip6(), a.MAC)))))
		}},
		{"neighbour advertisement with another's MAC", func() []byte {
			return end(ethernet(allNodesMAC, a.MAC, 0x86dd, ipv6(ll, allNodes, 58, icmpv6(ll, allNodes, 136, na(ll, mac())))))
		}},
		{"router advertisement", func() []byte {
			return ethernet(allNodesMAC, a.MAC, 0x86dd, ipv6(ll, allNodes, 58, icmpv6(ll, allNodes, 134, end(bytesOf(12)))))
		}},
		{"redirect", func() []byte {
			return ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 137, end(bytesOf(36)))))
		}},
		{"DHCP offer", func() []byte {
			return ethernet(dst(), a.MAC, 0x0800, ipv4(own, []netip.Addr{other, netip.MustParseAddr("255.255.255.255")}[random.IntN(2)], 17,
				udp(67, 68, end(bytesOf(240)))))
		}},
		{"DHCPv6 advertise", func() []byte {
			return ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 17, udp(547, 546, end(bytesOf(40)))))
		}},
		{"VLAN tag", func() []byte {
			inner := binary.BigEndian.AppendUint16(bytesOf(2), 0x0800)
			if random.IntN(2) == 0 {
				inner = append(binary.BigEndian.AppendUint16(bytesOf(2), 0x8100), inner...)
			}
			return ethernet(dst(), a.MAC, []uint16{0x8100, 0x88a8}[random.IntN(2)], append(inner, ipv4(own, other, 17, udp(1, 2, end(nil)))...))
		}},
		{"another protocol", func() []byte {
			proto := uint16(0x0600 + random.IntN(0xf9ff))
			if proto == 0x0800 || proto == 0x0806 || proto == 0x86dd {
				proto = 0x88cc
			}
			return ethernet(dst(), a.MAC, proto, end(bytesOf(46)))
		}},
		{"extension header before an advertisement", func() []byte {
			kind := []byte{0, 43, 44, 60}[random.IntN(4)]
			hidden := icmpv6(ll, allNodes, []byte{134, 136}[random.IntN(2)], na(ip6(), a.MAC))
			return end(ethernet(allNodesMAC, a.MAC, 0x86dd, ipv6(ll, allNodes, kind, append([]byte{58, 0, 0, 0, 0, 0, 0, 0}, hidden...))))
		}},
	}
	for _, class := range classes {
		t.Run(class.name, func(t *testing.T) {
			for range 10_000 {
				a.send(t, class.frame())
			}
			mark := append([]byte("own traffic "), bytesOf(8)...)
			a.send(t, ethernet(b.MAC, a.MAC, 0x0800, ipv4(own, other, 17, udp(1000, 2000, mark))))
			seen, came := b.until(t, mark, a.MAC, time.Minute)
			require.True(t, came, "the guest's own traffic did not come through")
			require.Empty(t, seen, "reached another guest")
			require.Empty(t, host(), "reached the host")
		})
	}

	// The test would see them: without the filter, some of each kind arrive.
	require.NoError(t, ns.Do(func() error { return exec.Command("nft", "delete", "table", "bridge", tableName).Run() }))
	for _, class := range classes {
		b.send(t, ethernet(broadcast, b.MAC, 0x0806, arp(1, b.MAC, other, gateway, nil))) // the bridge may have believed a forgery
		for range 50 {
			a.send(t, class.frame())
		}
		seen, _ := b.until(t, []byte("never sent"), a.MAC, 200*time.Millisecond)
		require.NotZero(t, len(seen)+len(host()), "%s: not seen without the filter either", class.name)
	}
}

// What is the guest's own passes.
func TestAGuestsOwnTrafficPasses(t *testing.T) {
	ns, m := live(t)
	_, err := m.Apply(t.Context(), desired(1, 2))
	require.NoError(t, err)
	a, b := openGuest(t, ns, tap(1)), openGuest(t, ns, tap(2))
	own, other := a.IPs[0], b.IPs[0]
	ll, otherLL := madeOf(a.MAC), madeOf(b.MAC)
	for name, frame := range map[string]func(mark []byte) []byte{
		"UDP": func(mark []byte) []byte { return ethernet(b.MAC, a.MAC, 0x0800, ipv4(own, other, 17, udp(1, 2, mark))) },
		"TCP": func(mark []byte) []byte {
			return ethernet(b.MAC, a.MAC, 0x0800, ipv4(own, other, 6, append(make([]byte, 20), mark...)))
		},
		"ARP request": func(mark []byte) []byte { return ethernet(broadcast, a.MAC, 0x0806, arp(1, a.MAC, own, other, mark)) },
		"ARP reply":   func(mark []byte) []byte { return ethernet(b.MAC, a.MAC, 0x0806, arp(2, a.MAC, own, other, mark)) },
		"IPv6": func(mark []byte) []byte {
			return ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 17, udp(1, 2, mark)))
		},
		"neighbour advertisement": func([]byte) []byte {
			body := append(append([]byte{0x60, 0, 0, 0}, ll.AsSlice()...), append([]byte{2, 1}, a.MAC...)...)
			return ethernet(b.MAC, a.MAC, 0x86dd, ipv6(ll, otherLL, 58, icmpv6(ll, otherLL, 136, body)))
		},
	} {
		sent := frame([]byte("mark of " + name))
		a.send(t, sent)
		_, came := b.until(t, sent, nil, time.Minute)
		require.True(t, came, name)
	}
}

// listenOnBridge returns a function that returns the forgeries that the host's side of the bridge has seen since.
func listenOnBridge(t *testing.T, ns *netnstest.NS, forger []byte) func() [][]byte {
	t.Helper()
	var fd int
	require.NoError(t, ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		req, err := unix.NewIfreq("br100")
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(req.Uint32())})
	}))
	t.Cleanup(func() { _ = unix.Close(fd) })
	return func() (forgeries [][]byte) {
		buf := make([]byte, 4096)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				require.ErrorIs(t, err, unix.EAGAIN)
				return forgeries
			}
			if isForgery(buf[:n], forger) {
				forgeries = append(forgeries, bytes.Clone(buf[:n]))
			}
		}
	}
}
