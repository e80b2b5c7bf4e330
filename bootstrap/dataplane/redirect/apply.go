package redirect

import (
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

func (f family) nft() nftables.TableFamily {
	if f == ipv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// apply replaces our tables as a whole, in one transaction.
func apply(tables []table) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	for _, t := range tables {
		nt := &nftables.Table{Family: t.family.nft(), Name: tableName}
		// Adding first makes deletion succeed whether or not the table was there.
		c.AddTable(nt)
		c.DelTable(nt)
		c.AddTable(nt)
		addChain(c, nt, "prerouting", nftables.ChainHookPrerouting, t.prerouting)
		addChain(c, nt, "output", nftables.ChainHookOutput, t.output)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("apply redirection (nf_tables, NET_ADMIN): %w", err)
	}
	return nil
}

func addChain(c *nftables.Conn, t *nftables.Table, name string, hook *nftables.ChainHook, rules []rule) {
	chain := c.AddChain(&nftables.Chain{
		Name: name, Table: t, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest,
	})
	for _, r := range rules {
		var exprs []expr.Any
		for _, cl := range r.clauses {
			exprs = append(exprs, cl.exprs...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(exprs, r.verdict.exprs...)})
	}
}

// remove takes our tables away, where they are.
func remove() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	for _, f := range []family{ipv4, ipv6} {
		t := &nftables.Table{Family: f.nft(), Name: tableName}
		c.AddTable(t)
		c.DelTable(t)
	}
	return c.Flush()
}

// hasIPv6 tells whether the pod has an IPv6 address that others could call.
func hasIPv6() bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsGlobalUnicast() {
			return true
		}
	}
	return false
}
