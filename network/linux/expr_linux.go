package linux

import (
	"bytes"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyBridge, Name: tableName}
}

func (s set) kernel() *nftables.Set {
	types := map[string]nftables.SetDatatype{
		"ifname": nftables.TypeIFName, "ether_addr": nftables.TypeEtherAddr, "ipv4_addr": nftables.TypeIPAddr, "ipv6_addr": nftables.TypeIP6Addr,
		"mark": nftables.TypeMark, "iface_index": nftables.TypeIFIndex, "inet_proto": nftables.TypeInetProto, "inet_service": nftables.TypeInetService,
	}
	var joined []nftables.SetDatatype
	for _, name := range s.types {
		joined = append(joined, types[name])
	}
	// The byte order is what nft goes by to show names of interfaces.
	k := &nftables.Set{Table: table(), Name: s.name, KeyType: joined[0], KeyByteOrder: binaryutil.NativeEndian, Size: s.size,
		Dynamic: s.learns, HasTimeout: s.learns, IsMap: s.to != ""}
	if len(joined) > 1 {
		k.KeyType, k.Concatenation = nftables.MustConcatSetType(joined...), true
	}
	switch s.to {
	case "verdict":
		k.DataType = nftables.TypeVerdict
	case "mark":
		k.DataType = nftables.TypeMark
	}
	return k
}

func (c chain) kernel() *nftables.Chain {
	hooks := map[string]*nftables.ChainHook{
		"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "postrouting": nftables.ChainHookPostrouting,
	}
	k := &nftables.Chain{Table: table(), Name: c.name}
	if c.hook != "" {
		policy := nftables.ChainPolicyAccept
		k.Type, k.Hooknum, k.Priority, k.Policy = nftables.ChainTypeFilter, hooks[c.hook], nftables.ChainPriorityRef(nftables.ChainPriority(c.priority)), &policy
	}
	return k
}

// exprs is the rule in the kernel's terms. Fields go to registers of 4 bytes, side by side where they are joined.
func (r rule) exprs() []expr.Any {
	var all []expr.Any
	for _, m := range r.matches {
		at := uint32(unix.NFT_REG32_00)
		for _, f := range m.fields {
			all = append(all, f.load(at))
			at += (f.len + 3) / 4
		}
		first := uint32(unix.NFT_REG32_00)
		if m.mask != nil {
			all = append(all, &expr.Bitwise{SourceRegister: first, DestRegister: first, Len: uint32(len(m.mask)), Mask: m.mask,
				Xor: bytes.Repeat([]byte{0}, len(m.mask))})
		}
		switch m.op {
		case in, notIn:
			all = append(all, &expr.Lookup{SourceRegister: first, SetName: m.set, Invert: m.op == notIn})
		case through:
			all = append(all, &expr.Lookup{SourceRegister: first, SetName: m.set, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true})
		case marked:
			all = append(all, &expr.Lookup{SourceRegister: first, SetName: m.set, DestRegister: first, IsDestRegSet: true},
				&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: first})
		case unmarked:
			all = append(all, &expr.Immediate{Register: first, Data: make([]byte, 4)}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: first})
		case overRate:
			all = append(all, &expr.Limit{Type: expr.LimitTypePktBytes, Rate: m.rate, Burst: m.burst, Unit: expr.LimitTimeSecond, Over: true})
		case learnt, exceed:
			learn := &expr.Dynset{SrcRegKey: first, SetName: m.set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: time.Duration(m.seconds) * time.Second}
			if m.op == exceed {
				learn.Exprs = []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: newFlowsPerSecond, Burst: newFlowsAtOnce, Unit: expr.LimitTimeSecond, Over: true}}
			}
			all = append(all, learn)
		default:
			ops := map[op]expr.CmpOp{equal: expr.CmpOpEq, unequal: expr.CmpOpNeq, atLeast: expr.CmpOpGte, atMost: expr.CmpOpLte}
			all = append(all, &expr.Cmp{Op: ops[m.op], Register: first, Data: m.value})
		}
	}
	kind, target, _ := strings.Cut(r.verdict, " ")
	switch kind {
	case "":
		return all
	case "goto":
		return append(all, &expr.Verdict{Kind: expr.VerdictGoto, Chain: target})
	case "jump":
		return append(all, &expr.Verdict{Kind: expr.VerdictJump, Chain: target})
	case "accept":
		return append(all, &expr.Verdict{Kind: expr.VerdictAccept})
	}
	return append(all, &expr.Verdict{Kind: expr.VerdictDrop})
}

func (f field) load(register uint32) expr.Any {
	switch f.place {
	case ofMeta:
		keys := map[meta]expr.MetaKey{
			inGroup: expr.MetaKeyIIFGROUP, outGroup: expr.MetaKeyOIFGROUP, inName: expr.MetaKeyIIFNAME, outName: expr.MetaKeyOIFNAME,
			l4proto: expr.MetaKeyL4PROTO, inIndex: expr.MetaKeyIIF, outIndex: expr.MetaKeyOIF, packetMark: expr.MetaKeyMARK,
		}
		return &expr.Meta{Key: keys[f.meta], Register: register}
	case ofLink:
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseLLHeader, Offset: f.offset, Len: f.len}
	case ofTransport:
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: f.offset, Len: f.len}
	}
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.len}
}
