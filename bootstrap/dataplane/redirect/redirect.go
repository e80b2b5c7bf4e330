// Package redirect sets up a pod's traffic redirection as istio-init does, by nf_tables
// through netlink: inbound TCP goes to the proxy's inbound listener, outbound TCP to its
// outbound one, and what the proxy itself sends is let through. It knows Istio's
// istio-iptables flags and the kernel; it knows nothing of the proxy.
//
// The rules follow tools/istio-iptables/pkg/capture/run.go of istio.io/istio. What is
// not supported is refused by its flag's name: TPROXY, the CNI plugin's modes, virtual
// interfaces of KubeVirt, and the validation run that belongs to the CNI plugin.
package redirect

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Main runs istio-iptables with its own flags (without the program's name), applies the
// rules to the network namespace it runs in and prints them in nft's syntax.
func Main(_ context.Context, args []string, stdout, stderr io.Writer) error {
	cfg, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if cfg.cleanupOnly {
		return remove()
	}
	families := []family{ipv4}
	if hasIPv6() {
		families = append(families, ipv6)
	}
	var tables []table
	for _, f := range families {
		tables = append(tables, rules(cfg, f))
	}
	for _, t := range tables {
		if _, err := fmt.Fprint(stdout, t); err != nil {
			return err
		}
	}
	if cfg.dryRun || cfg.skipApply {
		return nil
	}
	return apply(tables)
}

// tableName is the table that holds all our rules, one for each address family.
const tableName = "istio_redirect"

type family int

const (
	ipv4 family = 4
	ipv6 family = 6
)

func (f family) String() string {
	if f == ipv6 {
		return "ip6"
	}
	return "ip"
}

// loopback is the address that applications use to reach their own pod directly.
func (f family) loopback() netip.Prefix {
	if f == ipv6 {
		return netip.MustParsePrefix("::1/128")
	}
	return netip.MustParsePrefix("127.0.0.1/32")
}

// passthrough is the source address of the proxy's inbound passthrough cluster.
func (f family) passthrough() netip.Prefix {
	if f == ipv6 {
		return netip.MustParsePrefix("::6/128")
	}
	return netip.MustParsePrefix("127.0.0.6/32")
}

func (f family) holds(p netip.Prefix) bool { return p.Addr().Is4() == (f == ipv4) }

// table is the ruleset of one address family, as data.
type table struct {
	family     family
	prerouting []rule
	output     []rule
}

// rule is a conjunction of clauses and what then happens.
type rule struct {
	clauses []clause
	verdict verdict
}

// String gives the table in nft's syntax.
func (t table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", t.family, tableName)
	for _, c := range []struct {
		name, hook string
		rules      []rule
	}{{"prerouting", "prerouting", t.prerouting}, {"output", "output", t.output}} {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype nat hook %s priority dstnat; policy accept;\n", c.name, c.hook)
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// String gives the rule in nft's syntax.
func (r rule) String() string {
	var words []string
	for _, c := range r.clauses {
		words = append(words, c.String())
	}
	return strings.Join(append(words, r.verdict.String()), " ")
}

// rules builds the ruleset of one family.
func rules(cfg *config, f family) table {
	t := table{family: f}
	t.prerouting = append(t.prerouting, inbound(cfg)...)
	t.output = outbound(cfg, f)
	return t
}

func inbound(cfg *config) []rule {
	var out []rule
	for _, name := range cfg.excludeInterfaces {
		out = append(out, rule{[]clause{iif(name)}, accept})
	}
	if cfg.inboundPorts.none() {
		return out
	}
	out = append(out, rule{[]clause{tcp, dport(cfg.tunnelPort)}, accept})
	if !cfg.inboundPorts.all {
		for _, p := range cfg.inboundPorts.ports {
			out = append(out, rule{[]clause{tcp, dport(p)}, redirectTo(cfg.inboundPort)})
		}
		return out
	}
	for _, p := range cfg.excludeInbound {
		out = append(out, rule{[]clause{tcp, dport(p)}, accept})
	}
	return append(out, rule{[]clause{tcp}, redirectTo(cfg.inboundPort)})
}

func outbound(cfg *config, f family) []rule {
	var out []rule
	add := func(v verdict, clauses ...clause) { out = append(out, rule{clauses, v}) }
	for _, name := range cfg.excludeInterfaces {
		add(accept, oif(name))
	}
	for _, p := range cfg.excludeOutbound {
		add(accept, tcp, dport(p))
		add(accept, udp, dport(p))
	}
	lo := oif("lo")
	add(accept, lo, saddr(f.passthrough()))
	for _, id := range cfg.owners() {
		// The proxy calling its own pod by a Service's address: in through the front door.
		self := []clause{lo, notDaddr(f.loopback()), tcp, notDport(cfg.tunnelPort)}
		if cfg.dns && !id.group {
			self = append(self, notDport(dnsPort))
		}
		add(redirectTo(cfg.inboundPort), append(self, id.is())...)
		// The application calling its own pod stays local.
		if !cfg.includes.loopback(f) {
			local := []clause{lo}
			if cfg.dns {
				local = append(local, tcp, notDport(dnsPort))
			}
			add(accept, append(local, id.isNot())...)
		}
		add(accept, id.is())
	}
	for _, g := range cfg.excludeGroups {
		add(accept, owner{id: g, group: true}.is())
	}
	if len(cfg.includeGroups) > 0 {
		var others []clause
		for _, g := range cfg.includeGroups {
			others = append(others, owner{id: g, group: true}.isNot())
		}
		add(accept, others...)
	}
	if cfg.dns {
		add(redirectTo(agentDNSPort), tcp, dport(dnsPort))
		add(redirectTo(agentDNSPort), udp, dport(dnsPort))
	}
	add(accept, daddr(f.loopback()))
	for _, p := range cfg.excludes.of(f) {
		add(accept, daddr(p))
	}
	for _, p := range cfg.includePorts {
		add(redirectTo(cfg.outboundPort), tcp, dport(p))
	}
	if cfg.includes.all {
		add(redirectTo(cfg.outboundPort), tcp)
	}
	for _, p := range cfg.includes.of(f) {
		add(redirectTo(cfg.outboundPort), tcp, daddr(p))
	}
	return out
}
