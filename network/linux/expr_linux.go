package linux

import (
	"bytes"
	"strings"

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
	}
	var joined []nftables.SetDatatype
	for _, name := range s.types {
		joined = append(joined, types[name])
	}
	// The byte order is what nft goes by to show names of interfaces.
	return &nftables.Set{Table: table(), Name: s.name, KeyType: nftables.MustConcatSetType(joined...), Concatenation: true,
		KeyByteOrder: binaryutil.NativeEndian}
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
func (r rule) exprs(sets map[string]*nftables.Set) []expr.Any {
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
			all = append(all, &expr.Lookup{SourceRegister: first, SetName: m.set, SetID: sets[m.set].ID, Invert: m.op == notIn})
		default:
			ops := map[op]expr.CmpOp{equal: expr.CmpOpEq, unequal: expr.CmpOpNeq, atLeast: expr.CmpOpGte, atMost: expr.CmpOpLte}
			all = append(all, &expr.Cmp{Op: ops[m.op], Register: first, Data: m.value})
		}
	}
	switch target, jumps := strings.CutPrefix(r.verdict, "goto "); {
	case jumps:
		return append(all, &expr.Verdict{Kind: expr.VerdictGoto, Chain: target})
	case r.verdict == "accept":
		return append(all, &expr.Verdict{Kind: expr.VerdictAccept})
	}
	return append(all, &expr.Verdict{Kind: expr.VerdictDrop})
}

func (f field) load(register uint32) expr.Any {
	switch f.place {
	case ofMeta:
		keys := map[meta]expr.MetaKey{
			inGroup: expr.MetaKeyIIFGROUP, outGroup: expr.MetaKeyOIFGROUP, inName: expr.MetaKeyIIFNAME, outName: expr.MetaKeyOIFNAME,
			l4proto: expr.MetaKeyL4PROTO,
		}
		return &expr.Meta{Key: keys[f.meta], Register: register}
	case ofLink:
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseLLHeader, Offset: f.offset, Len: f.len}
	case ofTransport:
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: f.offset, Len: f.len}
	}
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.len}
}
