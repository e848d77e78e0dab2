package linux

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/networktest"
)

func TestContract(t *testing.T) {
	networktest.TestManager(t, func(t *testing.T) networktest.Env {
		ns, _ := withCard(t)
		sh(t, ns, "ip link add adminbr address 02:00:00:00:00:99 type bridge stp_state 1; ip link set adminbr up mtu 1400")
		sh(t, ns, "nft add table bridge theirs; nft add chain bridge theirs c '{ type filter hook forward priority 0; }'; nft add rule bridge theirs c accept")
		return networktest.Env{
			Open:   func() (network.Manager, error) { return New(Config{NetNS: ns.Path()}) },
			Uplink: "card", VLAN: vlans(ns), External: "adminbr",
			Foreign: func(name string) error {
				_, err := run(ns, "ip link add "+name+" type bridge")
				return err
			},
			Others: func() (string, error) { return others(ns) },
			Hold: func(name string) (func(), error) {
				k, err := dial(ns.Path())
				if err != nil {
					return nil, err
				}
				file, err := k.openTap(name)
				if err != nil {
					_ = k.close()
					return nil, err
				}
				return func() { _, _ = file.close(), k.close() }, nil
			},
			Identity: func(link string) (string, error) { return run(ns, "ip -o link show dev "+link+" | cut -d: -f1") },
			Drift: map[string]func(bridge, tap string) error{
				"table deleted":        by(ns, "nft delete table bridge dewpoint"),
				"element removed":      by(ns, `nft flush set bridge dewpoint ip4s`),
				"tap deleted":          by(ns, "ip link del $TAP"),
				"tap taken off":        by(ns, "ip link set $TAP nomaster"),
				"tap down":             by(ns, "ip link set $TAP down"),
				"tap in another group": by(ns, "ip link set $TAP group default"),
				"mark of the tap":      by(ns, "ip link set $TAP alias ''"),
				"MTU of the tap":       by(ns, "ip link set $TAP mtu 1000"),
				"bridge deleted":       by(ns, "ip link del $BRIDGE"),
				"bridge down":          by(ns, "ip link set $BRIDGE down"),
				"bridge flushed":       by(ns, "ip addr flush dev $BRIDGE"),
				"STP":                  by(ns, "ip link set $BRIDGE type bridge stp_state 1 forward_delay 1500"),
				"learning":             by(ns, "ip link set $BRIDGE type bridge no_linklocal_learn 0"),
				"mark of the bridge":   by(ns, "ip link set $BRIDGE alias hello"),
				"bridge hears routers": by(ns, "echo 1 > /proc/sys/net/ipv6/conf/$BRIDGE/accept_ra"),
				// What Plug does not look at, as it would cost more than one port.
				"other: rule deleted":                       by(ns, "nft flush chain bridge dewpoint arp_from_guest"),
				"other: rule inserted":                      by(ns, "nft insert rule bridge dewpoint from_guest accept"),
				"other: rule added":                         by(ns, "nft add chain bridge dewpoint more; nft add rule bridge dewpoint to_guest accept"),
				"other: element added":                      by(ns, `nft add element bridge dewpoint ip4s '{ "'$TAP'" . 52:54:00:99:01:01 . 10.1.1.1 }'`),
				"other: stray element":                      by(ns, `nft add element bridge dewpoint macs '{ "nosuchtap" . 52:54:00:99:01:01 }'`),
				"other: stray bridge":                       by(ns, `ip link add stray type bridge; ip link set stray alias 'dewpoint bridge'`),
				"other: stray tap":                          by(ns, `ip tuntap add stray mode tap; ip link set stray alias 'dewpoint tap'`),
				"other: table of forwarded packets deleted": by(ns, "nft delete table inet dewpoint_forward"),
				"other: router's address":                   by(ns, "ip addr del fd99:3100::1/64 dev $BRIDGE"),
				"other: IPv6 not forwarded":                 by(ns, "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding"),
				"other: card does not hear":                 by(ns, "echo 1 > /proc/sys/net/ipv6/conf/card/accept_ra"),
				"other: bridge not routed":                  by(ns, "nft flush set inet dewpoint_forward routed"),
				"other: bridges no longer apart":            by(ns, "nft flush chain inet dewpoint_forward forward"),
				"other: address added":                      by(ns, "ip addr add 10.9.9.9/24 dev $BRIDGE"),
				"other: chain replaced":                     by(ns, "nft flush chain bridge dewpoint prerouting; nft delete chain bridge dewpoint prerouting"),
				"other: group's rule deleted":               by(ns, "nft flush chain bridge dewpoint in-nt-db"),
				"other: group's rule added":                 by(ns, "nft add rule bridge dewpoint in-nt-db accept"),
				"other: member removed":                     by(ns, "nft flush set bridge dewpoint m4-nt-app"),
				"other: member added":                       by(ns, "nft add element bridge dewpoint m4-nt-app '{ 10.99.1.99 }'"),
				"other: stray group":                        by(ns, "nft add chain bridge dewpoint in-stray; nft add chain bridge dewpoint out-stray; nft add set bridge dewpoint m4-stray '{ type ipv4_addr; }'"),
				"other: tap opened":                         by(ns, `nft add element bridge dewpoint open '{ "'$TAP'" }'`),
				"other: tap in no group":                    by(ns, `nft flush map bridge dewpoint groups_of`),
				"other: jump to a group deleted":            by(ns, "for c in $(nft list chains bridge | grep -o 'ci-[0-9a-f]*'); do nft flush chain bridge dewpoint $c; done"),
				"other: limits forgotten":                   by(ns, "nft flush chain bridge dewpoint limit_in"),
				"other: stray limit":                        by(ns, "nft add chain bridge dewpoint li-$TAP; nft add element bridge dewpoint limits_in '{ \"$TAP\" : goto li-$TAP }'"),
				"other: flows forgotten":                    by(ns, "nft flush chain bridge dewpoint pass_in4; nft flush chain bridge dewpoint pass_out4"),
			},
			Unguarded: func() ([]string, error) { return unguarded(ns) },
			Passes:    passes(t, ns),
			Forwards6: func() (bool, error) {
				text, err := run(ns, "cat /proc/sys/net/ipv6/conf/all/forwarding")
				return text == "1\n", err
			},
			SetForwards6: func(on bool) error {
				_, err := run(ns, "echo "+map[bool]string{true: "1", false: "0"}[on]+" > /proc/sys/net/ipv6/conf/all/forwarding")
				return err
			},
		}
	})
}

// vlans tells whether the kernel knows VLANs, as the hosts of some tests don't: there is a virtual machine for them.
func vlans(ns *netnstest.NS) bool {
	_, err := run(ns, "ip link add probe type veth peer name probed; ip link add link probe name vlan4093 type vlan id 4093")
	_, _ = run(ns, "ip link del probe")
	return err == nil
}

// passes sends first packets of flows from one guest to another.
func passes(t *testing.T, ns *netnstest.NS) func(from, to network.Tap, p network.Packet) (bool, error) {
	port := uint16(1024)
	return func(from, to network.Tap, p network.Packet) (bool, error) {
		a, b := openGuest(t, ns, from), openGuest(t, ns, to)
		defer func() { _, _ = a.file.Close(), b.file.Close() }()
		ready(t, a, b)
		port++
		if p.Protocol == network.ICMP {
			return reaches(t, a, b, packet(a, b, false, 1, echo(byte(p.Type), port))), nil
		}
		return reaches(t, a, b, packet(a, b, false, 6, tcp(port, uint16(p.Port), 2))), nil
	}
}

// run runs commands of a shell in the namespace, and returns what they say.
func run(ns *netnstest.NS, commands string) (string, error) {
	var said []byte
	err := ns.Do(func() (err error) {
		said, err = exec.Command("sh", "-e", "-c", commands).CombinedOutput()
		return err
	})
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", commands, err, said)
	}
	return string(said), err
}

func sh(t testing.TB, ns *netnstest.NS, commands string) string {
	t.Helper()
	testneed.Tools(t, "ip", "nft")
	said, err := run(ns, commands)
	require.NoError(t, err)
	return said
}

func by(ns *netnstest.NS, commands string) func(bridge, tap string) error {
	return func(bridge, tap string) error {
		_, err := run(ns, strings.NewReplacer("$BRIDGE", bridge, "$TAP", tap).Replace(commands))
		return err
	}
}

// others describes what is not ours in the namespace: links, addresses, routes, tables of the packet filter.
func others(ns *netnstest.NS) (string, error) {
	text, err := run(ns, `ip -o -d link; ip -o addr; ip route show table all; ip -6 route show table all; nft list ruleset
		ip -o link show dev adminbr | grep -o 'mtu [0-9]*\|link/ether [^ ]*\|group [^ ]*\|alias .*' | sed 's/^/its /'`)
	ours := regexp.MustCompile(`(?m)^.*(group 168506163[345]|adminbr|nt-|dev (lo|far)|fe80:|ff00:).*\n`)
	text = regexp.MustCompile(`(?s)table (bridge|inet) dewpoint\w* \{.*?\n\}\n`).ReplaceAllString(text, "")
	// How many of the links above it want all that a card hears is what the kernel counts.
	text = regexp.MustCompile(`promiscuity \d+ ( allmulti \d+)?`).ReplaceAllString(text, "")
	return ours.ReplaceAllString(text, ""), err
}

// unguarded names the taps of ours that the packet filter lets through.
func unguarded(ns *netnstest.NS) (taps []string, err error) {
	k, err := dial(ns.Path())
	if err != nil {
		return nil, err
	}
	defer func() { _ = k.close() }()
	c := &call{wire: k}
	links, err := c.links(context.Background())
	if err != nil {
		return nil, err
	}
	f, err := k.filter()
	if err != nil {
		return nil, err
	}
	for name, l := range links {
		if l.isTap() && l.master != 0 && (l.group != tapGroup || f.problem != "") {
			taps = append(taps, name)
		}
	}
	return taps, nil
}
