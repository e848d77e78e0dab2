//go:build linux

package dhcp

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// TestUdhcpcGetsItsAddress is DHCP-01 of Nova's behaviours: domain, router, name servers and a fixed lease by hardware address.
func TestUdhcpcGetsItsAddress(t *testing.T) {
	testneed.Tools(t, "udhcpc", "busybox")
	n := newNode(t)
	s := n.start(t.TempDir())
	require.NoError(t, s.Apply(t.Context(), testDesired(3)))
	runIn(t, n.guest, "ip", "link", "set", "g0", "address", testMAC(1).String())
	for _, client := range [][]string{{"udhcpc"}, {"busybox", "udhcpc"}, {"udhcpc", "-B"}, {"udhcpc", "-x", "hostname:guest", "-O", "staticroutes"}} {
		script := filepath.Join(t.TempDir(), "script")
		require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\necho \"$1 ip=$ip mask=$subnet router=$router dns=$dns host=$hostname domain=$domain lease=$lease\"\n"), 0o700))
		args := append(client[1:], "-i", "g0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", script, "-O", "hostname")
		start := time.Now()
		out := runIn(t, n.guest, client[0], args...)
		require.Contains(t, out, "bound ip=10.0.0.17 mask=255.255.0.0 router=10.0.0.1 dns=10.0.0.2 8.8.8.8 host=vm-1 domain=novalocal lease=3600", out)
		t.Log(client, time.Since(start))
	}
	leases := s.Leases()
	require.Len(t, leases, 1)
	require.Equal(t, "10.0.0.17", leases[0].Addr.String())
}

// realClient is a DHCP client as distributions ship it, with the script that its distribution configures the card by.
type realClient struct {
	name    string
	program string   // an absolute path, or a name in PATH
	args    []string // so that it stays in the foreground, and speaks for g0
	renew   []string // nil: it renews by itself, at half of the lease
	renewBy syscall.Signal
	release []string
	relBy   syscall.Signal
	keeps   bool // it ends without a word, and its lease stays
	bus     bool // it wants a message bus
	stays   bool // the card keeps its address when the client ends
	noDNS   bool // the name servers go to another daemon, not to /etc/resolv.conf
}

// TestRealClients: each gets its port's address, its router and its name servers, renews its lease with what it has, and gives
// it back, if it does so at all. Each runs with a directory tree of its own over /etc, /run, /sys and /var/lib, and under a name of
// its own, so that it changes nothing of the machine.
func TestRealClients(t *testing.T) {
	testneed.Slow(t)
	for _, c := range []realClient{
		{name: "udhcpc", program: "udhcpc", args: []string{"-f", "-i", "g0"}, renewBy: syscall.SIGUSR1, relBy: syscall.SIGUSR2},
		{name: "dhclient", program: "dhclient", args: []string{"-4", "-d", "-v", "-pf", "/run/dhclient.pid", "-lf", "/var/lib/dhclient.leases", "g0"},
			release: []string{"dhclient", "-4", "-r", "-v", "-pf", "/run/dhclient.pid", "-lf", "/var/lib/dhclient.leases", "g0"}},
		{name: "dhcpcd", program: "dhcpcd", args: []string{"-4", "-B", "-d", "g0"},
			renew: []string{"dhcpcd", "-4", "-N", "g0"}, release: []string{"dhcpcd", "-4", "-k", "g0"}},
		{name: "NetworkManager", program: "NetworkManager", args: []string{"--no-daemon", "--debug"}, bus: true, keeps: true,
			release: []string{"nmcli", "device", "disconnect", "g0"}},
		{name: "systemd-networkd", program: "/lib/systemd/systemd-networkd", relBy: syscall.SIGTERM, stays: true, noDNS: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testneed.Tools(t, c.program, "unshare", "nsenter", "mount")
			if c.bus {
				testneed.Tools(t, "dbus-daemon", "nmcli")
			}
			n := newNode(t)
			s := n.start(t.TempDir())
			d := testDesired(3)
			d.Bridges[0].Lease = 20 * time.Second
			require.NoError(t, s.Apply(t.Context(), d))
			runIn(t, n.guest, "ip", "link", "set", "g0", "address", testMAC(1).String())
			m := startClient(t, n.guest, c)

			m.eventually("its address", func() bool { return strings.Contains(m.ip("-4", "addr", "show", "dev", "g0"), "inet 10.0.0.17/16 ") })
			m.eventually("its router", func() bool { return strings.Contains(m.ip("-4", "route", "show", "default"), "via 10.0.0.1 dev g0") })
			if !c.noDNS {
				m.eventually("its name servers", func() bool {
					text, _ := os.ReadFile(filepath.Join(m.etc, "resolv.conf"))
					return bytes.Contains(text, []byte("nameserver 10.0.0.2\n")) && bytes.Contains(text, []byte("nameserver 8.8.8.8\n"))
				})
			}
			leases := s.Leases()
			require.Len(t, leases, 1)
			require.Equal(t, "port-1", leases[0].Port)

			before := s.Counters()
			m.tell("a renewal", c.renewBy, c.renew, func() bool { return s.Counters().Acks > before.Acks })
			require.Equal(t, before.Discovers, s.Counters().Discovers, "it had a lease to renew")
			again := s.Leases()
			require.Len(t, again, 1)
			require.Equal(t, leases[0].Since, again[0].Since, "it is the same lease")
			require.True(t, again[0].Expires.After(leases[0].Expires))

			m.tell("a release", c.relBy, c.release, func() bool {
				if c.keeps {
					return !strings.Contains(m.ip("-4", "addr", "show", "dev", "g0"), "inet ")
				}
				return s.Counters().Releases > 0 && len(s.Leases()) == 0
			})
			if !c.stays {
				m.eventually("a card without an address", func() bool { return !strings.Contains(m.ip("-4", "addr", "show", "dev", "g0"), "inet ") })
			}
			after := s.Counters()
			require.Zero(t, after.Naks+after.Declines+after.Malformed+after.Spoofed+after.Failed+after.Panicked)
		})
	}
}

// machine is a guest in which a client runs.
type machine struct {
	t   *testing.T
	ns  *netnstest.NS
	cmd *exec.Cmd
	etc string
	log string
}

// What a client reads of the machine's /etc, where it is there; and what it finds besides.
const (
	clientsEtc  = "passwd group nsswitch.conf alternatives udhcpc dhcp dhcpcd.conf iproute2 ld.so.cache"
	managerFile = "[main]\ndhcp=internal\nplugins=keyfile\nno-auto-default=*\nrc-manager=file\n"
	managedFile = "[connection]\nid=g0\ntype=ethernet\ninterface-name=g0\n[ipv4]\nmethod=auto\n[ipv6]\nmethod=disabled\n"
	busFile     = "<busconfig><type>session</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth><policy context=\"default\">" +
		"<allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>\n"
	networkdFile = "[Match]\nName=g0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n[DHCPv4]\nClientIdentifier=mac\n"
)

// startClient runs a client until the test ends.
func startClient(t *testing.T, ns *netnstest.NS, c realClient) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, ns: ns, etc: filepath.Join(dir, "etc"), log: filepath.Join(dir, "log")}
	for _, d := range []string{"systemd/network", "NetworkManager/system-connections"} {
		require.NoError(t, os.MkdirAll(filepath.Join(m.etc, d), 0o755))
	}
	require.NoError(t, os.Chmod(dir, 0o755)) // clients give up their rights, and read it all the same
	for name := range strings.FieldsSeq(clientsEtc) {
		if _, err := os.Stat("/etc/" + name); err == nil {
			out, err := exec.Command("cp", "-a", "/etc/"+name, m.etc).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
	}
	for name, text := range map[string]string{"machine-id": "0123456789abcdef0123456789abcdef\n", "resolv.conf": "", "fstab": "", "systemd/network/g0.network": networkdFile,
		"NetworkManager/NetworkManager.conf": managerFile, "NetworkManager/system-connections/g0.nmconnection": managedFile, "bus.conf": busFile} {
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".nmconnection") {
			mode = 0o600 // others are not read
		}
		require.NoError(t, os.WriteFile(filepath.Join(m.etc, name), []byte(text), mode))
	}
	mounts := "mount --bind " + m.etc + " /etc && mount -t tmpfs -o mode=755 tmpfs /run && mount -t tmpfs -o mode=755 tmpfs /var/lib && " +
		"mkdir -p /var/lib/dhcp /var/lib/dhcpcd /run/systemd/netif /run/dbus && mount -t sysfs -o ro sysfs /sys && "
	if c.bus {
		mounts += "{ dbus-daemon --config-file=/etc/bus.conf --nofork --nopidfile & } && until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done && "
	}
	mounts += "exec \"$@\""
	m.cmd = exec.Command("unshare", append([]string{"--mount", "--uts", "--propagation", "private", "--", "sh", "-c", mounts, "sh", c.program}, c.args...)...)
	log, err := os.Create(m.log)
	require.NoError(t, err)
	defer log.Close()
	m.cmd.Stdout, m.cmd.Stderr = log, log
	// What it starts is of its group, and ends with it.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, ns.Do(m.cmd.Start))
	t.Cleanup(func() {
		_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
		_ = m.cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(m.log)
			t.Logf("%s said:\n%s", c.name, text)
		}
	})
	return m
}

func (m *machine) ip(args ...string) string { return runIn(m.t, m.ns, "ip", args...) }

func (m *machine) eventually(what string, is func() bool) {
	m.t.Helper()
	require.Eventually(m.t, is, time.Minute, 50*time.Millisecond, what)
}

// tell sends the client a signal, or runs a command where it runs, or neither, until something is so. dhcpcd, for one, loses a signal that
// comes while it is at something else.
func (m *machine) tell(what string, signal syscall.Signal, command []string, is func() bool) {
	m.t.Helper()
	var said []byte
	begun, next := time.Now(), time.Now()
	for ; !is(); time.Sleep(50 * time.Millisecond) {
		require.Less(m.t, time.Since(begun), 2*time.Minute, "%s: %v: %s", what, command, said)
		if time.Now().Before(next) {
			continue
		}
		if signal != 0 {
			_ = m.cmd.Process.Signal(signal) // it may have ended
		}
		if len(command) > 0 {
			said, _ = exec.Command("nsenter", append([]string{"--target", strconv.Itoa(m.cmd.Process.Pid), "--mount", "--uts", "--net", "--"}, command...)...).CombinedOutput()
		}
		next = time.Now().Add(5 * time.Second)
	}
}

// TestAROMGetsItsAddress: what starts a virtual machine from the network, before it has any operating system: the PXE ROM (iPXE)
// that QEMU gives the card. There is nothing
// for it to load: the server speaks of no boot file.
func TestAROMGetsItsAddress(t *testing.T) {
	testneed.Slow(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the ROMs of ipxe-qemu are for the BIOS of x86")
	}
	testneed.Tools(t, "qemu-system-x86_64")
	for _, card := range []string{"virtio-net-pci", "e1000"} {
		t.Run(card, func(t *testing.T) {
			n := newNode(t)
			s := n.start(t.TempDir())
			require.NoError(t, s.Apply(t.Context(), testDesired(3)))
			n.ip("tuntap", "add", "tap0", "mode", "tap")
			n.ip("link", "set", "tap0", "master", "br0", "up")
			console := filepath.Join(t.TempDir(), "console")
			qemu := exec.Command("qemu-system-x86_64", "-machine", "pc,accel=tcg,graphics=off", "-m", "64", "-nodefaults", "-display", "none",
				"-serial", "file:"+console, "-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no",
				"-device", card+",netdev=n,bootindex=1,mac="+testMAC(1).String())
			var out bytes.Buffer
			qemu.Stdout, qemu.Stderr = &out, &out
			require.NoError(t, n.ns.Do(qemu.Start))
			t.Cleanup(func() {
				_ = qemu.Process.Kill()
				_ = qemu.Wait()
				if t.Failed() {
					text, _ := os.ReadFile(console)
					t.Logf("QEMU: %s\nconsole: %s", out.String(), text)
				}
			})
			require.Eventually(t, func() bool {
				text, _ := os.ReadFile(console)
				return bytes.Contains(text, []byte("10.0.0.17/255.255.0.0 gw 10.0.0.1"))
			}, 2*time.Minute, 100*time.Millisecond)
			leases := s.Leases()
			require.Len(t, leases, 1)
			require.Equal(t, "port-1", leases[0].Port)
			require.Zero(t, s.Counters().Naks)
		})
	}
}
