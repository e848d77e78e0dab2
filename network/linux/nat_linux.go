package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// The table for addresses of the outside. It is there only where there is something in it, so that nodes without do no connection
// tracking. Each floating IP is an element of two maps, each bridge with NAT one of a set; rules are always the same.
//
//	table ip dewpoint_nat {
//		map to_fixed    { type ipv4_addr : ipv4_addr; }
//		map to_floating { type ipv4_addr : ipv4_addr; }
//		set masked      { type ifname; }
//		chain prerouting  { type nat hook prerouting priority dstnat;  dnat to ip daddr map @to_fixed }
//		chain output      { type nat hook output priority dstnat;      dnat to ip daddr map @to_fixed }
//		chain postrouting { type nat hook postrouting priority srcnat;
//			iifgroup ours oifgroup ours ct status dnat snat to ip saddr map @to_floating
//			iifgroup ours oifgroup ours ct status dnat masquerade
//			oifgroup != ours snat to ip saddr map @to_floating
//			oifgroup != ours iifname @masked masquerade
//		}
//	}
const (
	natTable   = "dewpoint_nat"
	toFixed    = "to_fixed"
	toFloating = "to_floating"
	maskedSet  = "masked"

	// floatingProto is who gave a link an address (IFA_PROTO, since Linux 5.18): us, for a floating IP.
	floatingProto = 0x64
	ifaProto      = 11
)

// nat is what the node has of all this.
type nat struct {
	problem string // what is wrong with chains and rules; "": nothing
	fixed   map[netip.Addr]netip.Addr
	back    map[netip.Addr]netip.Addr // from fixed to floating
	masked  map[string]bool
}

func natParts() (t *nftables.Table, sets []*nftables.Set, chains []*nftables.Chain) {
	t = &nftables.Table{Family: nftables.TableFamilyIPv4, Name: natTable}
	for _, name := range []string{toFixed, toFloating} {
		sets = append(sets, &nftables.Set{Table: t, Name: name, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeIPAddr, IsMap: true})
	}
	sets = append(sets, &nftables.Set{Table: t, Name: maskedSet, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian})
	policy := nftables.ChainPolicyAccept
	for _, c := range []struct {
		name     string
		hook     *nftables.ChainHook
		priority nftables.ChainPriority
	}{{"prerouting", nftables.ChainHookPrerouting, -100}, {"output", nftables.ChainHookOutput, -100}, {"postrouting", nftables.ChainHookPostrouting, 100}} {
		chains = append(chains, &nftables.Chain{Table: t, Name: c.name, Type: nftables.ChainTypeNAT, Hooknum: c.hook,
			Priority: nftables.ChainPriorityRef(c.priority), Policy: &policy})
	}
	return t, sets, chains
}

// natRule is a rule and the comment that tells it. Whoever changes a rule changes its comment.
type natRule struct {
	comment string
	exprs   []expr.Any
}

// translated is the condition that a packet is of a connection whose destination was translated, in either direction.
func translated(register uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(1 << 5), Xor: make([]byte, 4)}, // IPS_DST_NAT
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

// natRules are the rules of each chain, in the order of natParts.
func natRules() [3][]natRule {
	const first = unix.NFT_REG32_00
	ours := binaryutil.NativeEndian.PutUint32(bridgeGroup)
	group := func(key expr.MetaKey, op expr.CmpOp) []expr.Any {
		return []expr.Any{&expr.Meta{Key: key, Register: first}, &expr.Cmp{Op: op, Register: first, Data: ours}}
	}
	through := func(offset uint32, set string) []expr.Any {
		return []expr.Any{&expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
			&expr.Lookup{SourceRegister: first, DestRegister: first, IsDestRegSet: true, SetName: set}}
	}
	dnat := append(through(16, toFixed), &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: first})
	snat := append(through(12, toFloating), &expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: first})
	// A guest that speaks to a floating IP whose guest is behind a bridge too: the answer must come back here.
	back := slices.Concat(group(expr.MetaKeyIIFGROUP, expr.CmpOpEq), group(expr.MetaKeyOIFGROUP, expr.CmpOpEq), translated(first))
	outside := group(expr.MetaKeyOIFGROUP, expr.CmpOpNeq)
	maskedBridge := []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: first}, &expr.Lookup{SourceRegister: first, SetName: maskedSet}}
	return [3][]natRule{
		{{"to guests [1]", dnat}},
		{{"to guests, from the node itself [1]", dnat}},
		{
			{"from guest to guest, with a floating IP [1]", slices.Concat(back, snat)},
			{"from guest to guest [1]", append(slices.Clip(back), &expr.Masq{})},
			{"to the outside, with a floating IP [1]", slices.Concat(outside, snat)},
			{"to the outside [1]", slices.Concat(outside, maskedBridge, []expr.Any{&expr.Masq{}})},
		},
	}
}

// nat reads the table.
func (k *kernel) nat() (n nat, err error) {
	n = nat{fixed: map[netip.Addr]netip.Addr{}, back: map[netip.Addr]netip.Addr{}, masked: map[string]bool{}}
	_, sets, chains := natParts()
	list, err := k.nft.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return n, fmt.Errorf("chains: %w", err)
	}
	list = slices.DeleteFunc(list, func(c *nftables.Chain) bool { return c.Table.Name != natTable })
	if n.problem = missing; len(list) == 0 {
		return n, nil
	}
	if n.problem = "its chains are others"; len(list) != len(chains) {
		return n, nil
	}
	for i, want := range chains {
		at := slices.IndexFunc(list, func(c *nftables.Chain) bool { return c.Name == want.Name })
		if at < 0 || !sameHook(list[at], want) {
			return n, nil
		}
		rules, err := k.nft.GetRules(want.Table, want)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return n, fmt.Errorf("chain %s: %w", want.Name, err)
		}
		if !slices.EqualFunc(rules, natRules()[i], func(r *nftables.Rule, want natRule) bool {
			have, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			return have == want.comment
		}) {
			return n, nil
		}
	}
	for i, s := range sets {
		elements, err := k.nft.GetSetElements(s)
		if errors.Is(err, unix.ENOENT) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("set %s: %w", s.Name, err)
		}
		for _, e := range elements {
			if i == 2 {
				name, _, _ := strings.Cut(string(e.Key), "\x00")
				n.masked[name] = true
				continue
			}
			from, _ := netip.AddrFromSlice(e.Key)
			to, _ := netip.AddrFromSlice(e.Val)
			[]map[netip.Addr]netip.Addr{n.fixed, n.back}[i][from] = to
		}
	}
	n.problem = ""
	return n, nil
}

// setNAT makes the table hold what want says, in one transaction: anew if have has a problem, not at all if there is nothing to hold.
func (k *kernel) setNAT(have, want nat) error {
	t, sets, chains := natParts()
	anew := have.problem != ""
	nothing := len(want.fixed)+len(want.masked) == 0
	if anew || nothing {
		k.nft.AddTable(t) // so that there is one to delete
		k.nft.DelTable(t)
		have = nat{}
	}
	if nothing {
		return k.nft.Flush()
	}
	if anew {
		k.nft.AddTable(t)
		for _, s := range sets {
			if err := k.nft.AddSet(s, nil); err != nil {
				return k.giveUp(err)
			}
		}
		for i, c := range chains {
			k.nft.AddChain(c)
			for _, r := range natRules()[i] {
				k.nft.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment)})
			}
		}
	}
	for i, pairs := range [][2]map[netip.Addr]netip.Addr{{have.fixed, want.fixed}, {have.back, want.back}} {
		var add, remove []nftables.SetElement
		for from, to := range pairs[0] {
			if pairs[1][from] != to {
				remove = append(remove, nftables.SetElement{Key: from.AsSlice()})
			}
		}
		for from, to := range pairs[1] {
			if pairs[0][from] != to {
				add = append(add, nftables.SetElement{Key: from.AsSlice(), Val: to.AsSlice()})
			}
		}
		if err := errors.Join(k.nft.SetDeleteElements(sets[i], remove), k.nft.SetAddElements(sets[i], add)); err != nil {
			return k.giveUp(err)
		}
	}
	var add, remove []nftables.SetElement
	for name := range have.masked {
		if !want.masked[name] {
			remove = append(remove, nftables.SetElement{Key: padded([]byte(name), 16)})
		}
	}
	for name := range want.masked {
		if !have.masked[name] {
			add = append(add, nftables.SetElement{Key: padded([]byte(name), 16)})
		}
	}
	if err := errors.Join(k.nft.SetDeleteElements(sets[2], remove), k.nft.SetAddElements(sets[2], add)); err != nil {
		return k.giveUp(err)
	}
	return k.nft.Flush()
}

// announce tells who is on a link that an IPv4 address is at its MAC address (an announcement of RFC 5227 §3, to all).
func (k *kernel) announce(link uint32, mac net.HardwareAddr, a netip.Addr) error {
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	frame = append(frame, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(append(frame, mac...), a.AsSlice()...)
	frame = append(append(frame, 0, 0, 0, 0, 0, 0), a.AsSlice()...)
	frame = append(frame, make([]byte, 60-len(frame))...)
	return k.inside(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Protocol: 0x0608, Ifindex: int(link), Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
		return unix.Sendto(fd, frame, 0, to)
	})
}

// floatingAddress is a floating IP that a link has.
type floatingAddress struct {
	link uint32
	addr netip.Addr
}

// floatingAddresses lists the addresses of all links that are ours.
func (c *call) floatingAddresses(ctx context.Context) (map[floatingAddress]bool, error) {
	header := make([]byte, unix.SizeofIfAddrmsg)
	header[0] = unix.AF_INET
	replies, err := c.route(ctx, unix.RTM_GETADDR, netlink.Request|netlink.Dump, header, nil)
	if err != nil {
		return nil, failed("floating IPs", err)
	}
	all := map[floatingAddress]bool{}
	for _, reply := range replies {
		a, err := decodeAddress(reply.Data)
		if err != nil {
			return nil, failed("floating IPs", err)
		}
		for _, attribute := range a.raw {
			if attribute.Type == ifaProto && len(attribute.Data) == 1 && attribute.Data[0] == floatingProto && reply.Header.Type == unix.RTM_NEWADDR {
				all[floatingAddress{binary.NativeEndian.Uint32(a.header[4:]), a.prefix.Addr()}] = true
			}
		}
	}
	return all, nil
}

// applyNAT makes the table and the addresses as wanted. An address is on its link while the table knows where it leads, and no longer.
func (c *call) applyNAT(ctx context.Context, fs []network.Floating, maskedBridges map[string]bool, links map[string]*nic) error {
	want := nat{fixed: map[netip.Addr]netip.Addr{}, back: map[netip.Addr]netip.Addr{}, masked: maskedBridges}
	there := map[floatingAddress]*nic{}
	for _, f := range fs {
		l := links[f.Link]
		if l == nil || l.ours() {
			_ = c.ok(fmt.Errorf("floating IP %v: link %s: %w", f.Addr, f.Link, errdefs.ErrNotFound))
			continue
		}
		want.fixed[f.Addr], want.back[f.Fixed] = f.Fixed, f.Addr
		there[floatingAddress{l.index, f.Addr}] = l
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	have, err := c.wire.nat()
	if err != nil {
		return failed("read the table of floating IPs", err)
	}
	on, err := c.floatingAddresses(ctx)
	if err != nil {
		return err
	}
	for a := range on {
		if there[a] != nil {
			continue
		}
		if err := c.floatingAddress(ctx, unix.RTM_DELADDR, 0, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return failed("floating IP "+a.addr.String(), err)
		}
		c.changed("floating IP %v removed", a.addr)
	}
	if wantsNAT(have, want) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.wire.setNAT(have, want); err != nil {
			return failed("change the table of floating IPs", err)
		}
		c.changed("table of floating IPs mended")
	}
	for a, l := range there {
		if on[a] {
			continue
		}
		if err := c.floatingAddress(ctx, unix.RTM_NEWADDR, netlink.Create|netlink.Replace, a); err != nil {
			c.ok(failed("floating IP "+a.addr.String()+" on "+l.name, err))
			continue
		}
		c.changed("floating IP %v on %s", a.addr, l.name)
		if err := c.wire.announce(a.link, l.mac, a.addr); err != nil && !errors.Is(err, unix.ENETDOWN) { // who is down has nobody to tell
			c.ok(failed("floating IP "+a.addr.String()+": announce", err))
		}
	}
	return nil
}

func wantsNAT(have, want nat) bool {
	if have.problem == missing {
		return len(want.fixed)+len(want.masked) > 0
	}
	same := func(a, b map[netip.Addr]netip.Addr) bool {
		for from, to := range a {
			if b[from] != to {
				return false
			}
		}
		return len(a) == len(b)
	}
	for name := range want.masked {
		if !have.masked[name] {
			return true
		}
	}
	return have.problem != "" || len(want.fixed)+len(want.masked) == 0 || len(have.masked) != len(want.masked) ||
		!same(have.fixed, want.fixed) || !same(have.back, want.back)
}

func (c *call) floatingAddress(ctx context.Context, kind netlink.HeaderType, flags netlink.HeaderFlags, a floatingAddress) error {
	header := make([]byte, unix.SizeofIfAddrmsg)
	header[0], header[1] = unix.AF_INET, 32
	binary.NativeEndian.PutUint32(header[4:], a.link)
	_, err := c.route(ctx, kind, netlink.Request|netlink.Acknowledge|flags, header, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.IFA_LOCAL, a.addr.AsSlice())
		ae.Bytes(unix.IFA_ADDRESS, a.addr.AsSlice())
		if kind == unix.RTM_NEWADDR {
			ae.Uint8(ifaProto, floatingProto)
		}
	})
	return err
}

// plugNAT makes the table know of a bridge that is about to be made.
func (c *call) plugNAT(ctx context.Context, b network.Bridge) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	have, err := c.wire.nat()
	if err != nil {
		return failed("read the table of floating IPs", err)
	}
	if have.masked[b.Name] == b.NAT {
		return nil
	}
	want := have
	want.masked = maps.Clone(have.masked)
	if delete(want.masked, b.Name); b.NAT {
		want.masked[b.Name] = true
	}
	return failed("change the table of floating IPs", c.wire.setNAT(have, want))
}

// setFloating does what apply does for floating IPs.
func (c *call) setFloating(ctx context.Context, fs []network.Floating) error {
	links, err := c.links(ctx)
	if err != nil {
		return err
	}
	have, err := c.wire.nat()
	if err != nil {
		return failed("read the table of floating IPs", err)
	}
	if err := c.floatForward(ctx, len(fs) > 0); err != nil {
		return err
	}
	return c.applyNAT(ctx, fs, have.masked, links)
}

// inspectNAT fills in what the node answers for, and which bridges are masked.
func (c *call) inspectNAT(ctx context.Context, d *network.Desired, links map[string]*nic) error {
	have, err := c.wire.nat()
	if err != nil {
		return failed("read the table of floating IPs", err)
	}
	on, err := c.floatingAddresses(ctx)
	if err != nil {
		return err
	}
	for _, l := range links {
		for a, fixed := range have.fixed {
			if on[floatingAddress{l.index, a}] && have.back[fixed] == a {
				d.Floating = append(d.Floating, network.Floating{Addr: a, Fixed: fixed, Link: l.name})
			}
		}
	}
	slices.SortFunc(d.Floating, func(a, b network.Floating) int { return a.Addr.Compare(b.Addr) })
	for i := range d.Bridges {
		d.Bridges[i].NAT = have.masked[d.Bridges[i].Name]
	}
	return nil
}
