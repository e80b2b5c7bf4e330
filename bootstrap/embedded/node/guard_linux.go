package node

import (
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// guardPriority comes after kube-proxy's translation of Service addresses, and after
// the filters that it puts at priority 0.
const guardPriority = 10

// icmpPortUnreachable is the code (RFC 792) that ends a connection attempt at once; other
// codes of "unreachable" let TCP go on trying.
const icmpPortUnreachable = 3

// guardServices refuses packets to Service addresses that nothing has translated. Until
// kube-proxy has its rules they would leave the lab by the default route, and their
// connections would hang until they time out. In nft's words, for output and forward:
//
//	ip daddr SERVICES reject
func guardServices(cidr string) error {
	_, services, err := net.ParseCIDR(cidr)
	if err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "ropes-guard"})
	for name, hook := range map[string]*nftables.ChainHook{
		"output": nftables.ChainHookOutput, "forward": nftables.ChainHookForward,
	} {
		chain := c.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: hook, Priority: nftables.ChainPriorityRef(guardPriority),
		})
		const daddrOffset, addrLen = 16, 4 // in the IPv4 header
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: daddrOffset, Len: addrLen},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: addrLen, Mask: services.Mask, Xor: make([]byte, addrLen)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: services.IP.To4()},
			&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable},
		}})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("guard Service addresses: %w", err)
	}
	return nil
}
