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

// apply replaces our tables as a whole, in one transaction. A family that is not
// among the tables is cleaned.
func apply(tables []table) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	if err := clean(c); err != nil {
		return err
	}
	for _, t := range tables {
		nt := c.AddTable(&nftables.Table{Family: t.family.nft(), Name: tableName})
		for _, ch := range t.chains {
			addChain(c, nt, ch)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("apply redirection (needs nf_tables and CAP_NET_ADMIN): %w", err)
	}
	return nil
}

// clean deletes our tables, where they are. It names no family that has none: a kernel
// without IPv6 would refuse the transaction.
func clean(c *nftables.Conn) error {
	tables, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("list tables (needs nf_tables and CAP_NET_ADMIN): %w", err)
	}
	for _, t := range tables {
		if t.Name == tableName && (t.Family == ipv4.nft() || t.Family == ipv6.nft()) {
			c.DelTable(t)
		}
	}
	return nil
}

var (
	hooks = map[hook]*nftables.ChainHook{
		prerouting: nftables.ChainHookPrerouting,
		output:     nftables.ChainHookOutput,
	}
	kinds = map[kind]struct {
		is       nftables.ChainType
		priority *nftables.ChainPriority
	}{
		nat:      {nftables.ChainTypeNAT, nftables.ChainPriorityNATDest},
		zones:    {nftables.ChainTypeFilter, nftables.ChainPriorityRaw},
		dropping: {nftables.ChainTypeFilter, nftables.ChainPriorityMangle},
	}
)

func addChain(c *nftables.Conn, t *nftables.Table, ch chain) {
	policy := nftables.ChainPolicyAccept
	nc := c.AddChain(&nftables.Chain{
		Name: ch.name, Table: t, Type: kinds[ch.kind].is, Hooknum: hooks[ch.hook], Priority: kinds[ch.kind].priority, Policy: &policy,
	})
	for _, r := range ch.rules {
		var exprs []expr.Any
		for _, cl := range r.clauses {
			exprs = append(exprs, cl.exprs...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: nc, Exprs: append(exprs, r.verdict.exprs...)})
	}
}

// remove takes our tables away, where they are.
func remove() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	if err := clean(c); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove redirection (needs nf_tables and CAP_NET_ADMIN): %w", err)
	}
	return nil
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
