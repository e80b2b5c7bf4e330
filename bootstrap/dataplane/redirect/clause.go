package redirect

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// clause is one condition of a rule: its words for nft, and its expressions for the
// kernel.
type clause struct {
	text  string
	exprs []expr.Any
}

// verdict ends a rule.
type verdict struct {
	text  string
	exprs []expr.Any
}

// register is the one that every clause loads and compares.
const register = 1

var (
	tcp = protocol("tcp", unix.IPPROTO_TCP)
	udp = protocol("udp", unix.IPPROTO_UDP)

	accept = verdict{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
	drop   = verdict{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}}

	// invalid matches packets that belong to no connection that is known.
	invalid = compare("ct state invalid", expr.CmpOpNeq, binaryutil.NativeEndian.PutUint32(0),
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitINVALID), Xor: binaryutil.NativeEndian.PutUint32(0),
		})
)

func protocol(name string, number byte) clause {
	return compare("meta l4proto "+name, expr.CmpOpEq, []byte{number}, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register})
}

func compare(text string, op expr.CmpOp, data []byte, load ...expr.Any) clause {
	return clause{text, append(load, &expr.Cmp{Op: op, Register: register, Data: data})}
}

// The ports of TCP and UDP stand at one place in both headers.
func sport(p uint16) clause    { return port("sport", "", expr.CmpOpEq, 0, p) }
func dport(p uint16) clause    { return port("dport", "", expr.CmpOpEq, 2, p) }
func notDport(p uint16) clause { return port("dport", "!= ", expr.CmpOpNeq, 2, p) }

func port(word, sign string, op expr.CmpOp, offset uint32, p uint16) clause {
	load := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
	return compare(fmt.Sprintf("th %s %s%d", word, sign, p), op, binary.BigEndian.AppendUint16(nil, p), load)
}

func iif(name string) clause { return link("iifname", expr.MetaKeyIIFNAME, name) }
func oif(name string) clause { return link("oifname", expr.MetaKeyOIFNAME, name) }

func link(word string, key expr.MetaKey, name string) clause {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return compare(fmt.Sprintf("%s %q", word, name), expr.CmpOpEq, data, &expr.Meta{Key: key, Register: register})
}

func saddr(p netip.Prefix) clause    { return address("saddr", "", expr.CmpOpEq, 12, 8, p) }
func daddr(p netip.Prefix) clause    { return address("daddr", "", expr.CmpOpEq, 16, 24, p) }
func notDaddr(p netip.Prefix) clause { return address("daddr", "!= ", expr.CmpOpNeq, 16, 24, p) }

// address compares the network part of an address at its offset in the IPv4 or IPv6
// header.
func address(word, sign string, op expr.CmpOp, offset4, offset6 uint32, p netip.Prefix) clause {
	p = p.Masked()
	fam, offset := ipv4, offset4
	if p.Addr().Is6() {
		fam, offset = ipv6, offset6
	}
	data := p.Addr().AsSlice()
	size := uint32(len(data))
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return compare(fmt.Sprintf("%s %s %s%s", fam, word, sign, p), op, data,
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: size, Mask: mask, Xor: make([]byte, size)})
}

// owner is the user or group whose processes own a socket.
type owner struct {
	id    uint32
	group bool
}

func (o owner) is() clause    { return o.compare("", expr.CmpOpEq) }
func (o owner) isNot() clause { return o.compare("!= ", expr.CmpOpNeq) }

func (o owner) compare(sign string, op expr.CmpOp) clause {
	word, key := "skuid", expr.MetaKeySKUID
	if o.group {
		word, key = "skgid", expr.MetaKeySKGID
	}
	return compare(fmt.Sprintf("meta %s %s%d", word, sign, o.id), op, binaryutil.NativeEndian.PutUint32(o.id), &expr.Meta{Key: key, Register: register})
}

// redirectTo sends the connection to a port of the pod itself; SO_ORIGINAL_DST then
// tells where it was going.
func redirectTo(p uint16) verdict {
	return verdict{fmt.Sprintf("redirect to :%d", p), []expr.Any{
		&expr.Immediate{Register: register, Data: binary.BigEndian.AppendUint16(nil, p)},
		&expr.Redir{RegisterProtoMin: register},
	}}
}

// zone puts a flow that is not tracked yet into a conntrack zone of its own.
func zone(n uint16) verdict {
	return verdict{fmt.Sprintf("ct zone set %d accept", n), []expr.Any{
		&expr.Immediate{Register: register, Data: binaryutil.NativeEndian.PutUint16(n)},
		&expr.Ct{Key: expr.CtKeyZONE, Register: register, SourceRegister: true},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}}
}
