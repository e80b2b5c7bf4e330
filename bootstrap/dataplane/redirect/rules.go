package redirect

import (
	"fmt"
	"net/netip"
	"strings"
)

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

// passthrough is the source address of the proxy's inbound passthrough cluster.
func (f family) passthrough() netip.Prefix {
	if f == ipv6 {
		return netip.MustParsePrefix("::6/128")
	}
	return netip.MustParsePrefix("127.0.0.6/32")
}

func (f family) holds(a netip.Addr) bool { return a.Is4() == (f == ipv4) }

// table is the ruleset of one address family, as data.
type table struct {
	family family
	chains []chain
}

// chain is a base chain.
type chain struct {
	name  string
	hook  hook
	kind  kind
	rules []rule
}

type hook string

const (
	prerouting hook = "prerouting"
	output     hook = "output"
)

// kind is a chain's type and priority.
type kind string

const (
	nat      kind = "type nat hook %s priority -100; policy accept;"
	zones    kind = "type filter hook %s priority -300; policy accept;"
	dropping kind = "type filter hook %s priority -150; policy accept;"
)

// rule is a conjunction of clauses and what then happens.
type rule struct {
	clauses []clause
	verdict verdict
}

// String gives the table in nft's syntax.
func (t table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", t.family, tableName)
	for i, c := range t.chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "\tchain %s {\n\t\t"+string(c.kind)+"\n", c.name, c.hook)
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
		words = append(words, c.text)
	}
	return strings.Join(append(words, r.verdict.text), " ")
}

// ruleset builds the table of one family. Where istio-iptables returns from its
// chain, a rule here accepts: nothing follows in either.
func ruleset(c *config, f family) table {
	t := table{family: f, chains: []chain{
		{"prerouting", prerouting, nat, inbound(c, f)},
		{"output", output, nat, outbound(c, f)},
	}}
	if c.dropInvalid {
		t.chains = append(t.chains, chain{"drop-invalid", prerouting, dropping, []rule{{[]clause{invalid}, drop}}})
	}
	if len(c.dns.of(f)) > 0 {
		t.chains = append(t.chains, dnsZones(c, f)...)
	}
	return t
}

func inbound(c *config, f family) []rule {
	var out []rule
	for _, name := range c.virtualInterfaces {
		if c.includes.all {
			out = append(out, rule{[]clause{iif(name), tcp}, redirectTo(c.outboundPort)})
		}
		for _, p := range c.includes.of(f) {
			out = append(out, rule{[]clause{iif(name), daddr(p), tcp}, redirectTo(c.outboundPort)})
		}
		out = append(out, rule{[]clause{iif(name)}, accept})
	}
	for _, name := range c.excludeInterfaces {
		out = append(out, rule{[]clause{iif(name)}, accept})
	}
	if c.inboundPorts.none() {
		return out
	}
	out = append(out, rule{[]clause{tcp, dport(c.tunnelPort)}, accept})
	if !c.inboundPorts.all {
		for _, p := range c.inboundPorts.ports {
			out = append(out, rule{[]clause{tcp, dport(p)}, redirectTo(c.inboundPort)})
		}
		return out
	}
	for _, p := range c.excludeInbound {
		out = append(out, rule{[]clause{tcp, dport(p)}, accept})
	}
	return append(out, rule{[]clause{tcp}, redirectTo(c.inboundPort)})
}

func outbound(c *config, f family) []rule {
	var out []rule
	add := func(v verdict, clauses ...clause) { out = append(out, rule{clauses, v}) }
	for _, name := range c.excludeInterfaces {
		add(accept, oif(name))
	}
	for _, p := range c.excludeOutbound {
		add(accept, tcp, dport(p))
		add(accept, udp, dport(p))
	}
	add(accept, oif("lo"), saddr(f.passthrough()))
	out = append(out, ofProxy(c, f)...)
	for _, g := range c.groups.groups {
		if !c.groups.only {
			add(accept, owner{id: g, group: true}.is())
		}
	}
	if c.groups.only {
		var others []clause
		for _, g := range c.groups.groups {
			others = append(others, owner{id: g, group: true}.isNot())
		}
		add(accept, others...)
	}
	for _, protocol := range []clause{tcp, udp} {
		for _, to := range c.dns.of(f) {
			add(redirectTo(agentDNSPort), append(destination(to), protocol, dport(dnsPort))...)
		}
	}
	add(accept, daddr(c.loopback(f)))
	for _, p := range c.excludes.of(f) {
		add(accept, daddr(p))
	}
	for _, p := range c.includePorts {
		add(redirectTo(c.outboundPort), tcp, dport(p))
	}
	if c.includes.all {
		add(redirectTo(c.outboundPort), tcp)
	}
	for _, p := range c.includes.of(f) {
		add(redirectTo(c.outboundPort), daddr(p), tcp)
	}
	return out
}

// ofProxy are the rules on who sends: what comes from the proxy must not come back
// to it.
func ofProxy(c *config, f family) []rule {
	var out []rule
	for _, id := range c.owners() {
		// The proxy calling its own pod by a Service's address: in through the front door.
		self := []clause{oif("lo"), notDaddr(c.loopback(f)), tcp, notDport(c.tunnelPort)}
		if c.dns.on && !id.group {
			self = append(self, notDport(dnsPort))
		}
		out = append(out, rule{append(self, id.is()), redirectTo(c.inboundPort)})
		// The application calling its own pod stays local, but for DNS.
		if !c.loopbackIncluded() {
			local := []clause{oif("lo")}
			if c.dns.on {
				local = append(local, tcp, notDport(dnsPort))
			}
			out = append(out, rule{append(local, id.isNot()), accept})
		}
		out = append(out, rule{[]clause{id.is()}, accept})
	}
	return out
}

// dnsZones keeps apart the UDP flows of the application to the agent (zone 2) and of
// the agent to the real resolvers (zone 1), which may have the same addresses and
// ports.
func dnsZones(c *config, f family) []chain {
	const upstream, local = 1, 2
	var out, in []rule
	for _, id := range c.owners() {
		out = append(out,
			rule{[]clause{udp, dport(dnsPort), id.is()}, zone(upstream)},
			rule{[]clause{udp, sport(agentDNSPort), id.is()}, zone(local)})
	}
	for _, to := range c.dns.of(f) {
		out = append(out, rule{append(destination(to), udp, dport(dnsPort)), zone(local)})
		in = append(in, rule{append(origin(to), udp, sport(dnsPort)), zone(upstream)})
	}
	return []chain{{"dns-output", output, zones, out}, {"dns-prerouting", prerouting, zones, in}}
}

func destination(p netip.Prefix) []clause {
	if !p.IsValid() {
		return nil
	}
	return []clause{daddr(p)}
}

func origin(p netip.Prefix) []clause {
	if !p.IsValid() {
		return nil
	}
	return []clause{saddr(p)}
}
