package listener

import (
	"fmt"
	"net/netip"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// criteria is one compiled filter chain match. Empty lists and zero values match anything.
type criteria struct {
	port       uint32
	prefixes   []netip.Prefix
	names      []string
	transport  string
	protocols  []string
	direct     []netip.Prefix
	sourceType listenerv3.FilterChainMatch_ConnectionSourceType
	sources    []netip.Prefix
	ports      []uint32
}

const matchFields = "destination_port prefix_ranges server_names transport_protocol application_protocols " +
	"direct_source_prefix_ranges source_type source_prefix_ranges source_ports"

func compileMatch(m *listenerv3.FilterChainMatch) (criteria, error) {
	if err := fields.Check(m, matchFields); err != nil {
		return criteria{}, err
	}
	c := criteria{
		port: m.GetDestinationPort().GetValue(), names: m.GetServerNames(), transport: m.GetTransportProtocol(),
		protocols: m.GetApplicationProtocols(), sourceType: m.GetSourceType(), ports: m.GetSourcePorts(),
	}
	for i, n := range c.names {
		if strings.Contains(n, "*") && (!strings.HasPrefix(n, "*.") || strings.Contains(n[1:], "*")) && n != "*" {
			return c, fmt.Errorf("server_names: partial wildcard %q", n)
		}
		c.names[i] = strings.ToLower(n)
	}
	for _, r := range m.GetPrefixRanges() {
		p, err := match.Prefix(r)
		if err != nil {
			return c, err
		}
		c.prefixes = append(c.prefixes, p)
	}
	for _, r := range m.GetDirectSourcePrefixRanges() {
		p, err := match.Prefix(r)
		if err != nil {
			return c, err
		}
		c.direct = append(c.direct, p)
	}
	for _, r := range m.GetSourcePrefixRanges() {
		p, err := match.Prefix(r)
		if err != nil {
			return c, err
		}
		c.sources = append(c.sources, p)
	}
	return c, nil
}

// facts are what chains are matched against.
type facts struct {
	local, remote, direct netip.AddrPort
	name                  string
	transport             string // "tls" or "raw_buffer"
	protocols             []string
}

func factsOf(c *network.Conn, transport string) facts {
	return facts{
		local: c.Local, remote: c.Remote, direct: c.Direct, name: strings.ToLower(c.ServerSNI), transport: transport,
		protocols: c.Requested,
	}
}

// find chooses a chain as Envoy does: criterion after criterion in a fixed order, at each keeping only the chains with
// the most specific value that fits. There is no way back: when a later criterion fits none, nothing matches.
func find(chains []*chain, f facts) *chain {
	set := make([]*chain, len(chains))
	copy(set, chains)
	for _, narrow := range []func([]*chain, facts) []*chain{
		byPort, byDestination, byName, byTransport, byProtocol, byDirect, bySourceType, bySource, bySourcePort,
	} {
		if set = narrow(set, f); len(set) == 0 {
			return nil
		}
	}
	return set[0]
}

func keep(set []*chain, ok func(*chain) bool) []*chain {
	var out []*chain
	for _, c := range set {
		if ok(c) {
			out = append(out, c)
		}
	}
	return out
}

// exactOr keeps the chains that name the value; where none does, those that name nothing.
func exactOr(set []*chain, exact, unset func(*chain) bool) []*chain {
	if out := keep(set, exact); len(out) > 0 {
		return out
	}
	return keep(set, unset)
}

func byPort(set []*chain, f facts) []*chain {
	return exactOr(set,
		func(c *chain) bool { return c.match.port != 0 && c.match.port == uint32(f.local.Port()) },
		func(c *chain) bool { return c.match.port == 0 })
}

// longest keeps the chains whose best prefix for ip is the longest of all; chains without prefixes count as length -1.
func longest(set []*chain, ip netip.Addr, of func(*chain) []netip.Prefix) []*chain {
	best, length := []*chain(nil), -2
	for _, c := range set {
		n := -2
		if len(of(c)) == 0 {
			n = -1
		}
		for _, p := range of(c) {
			if p.Contains(ip) {
				n = max(n, p.Bits())
			}
		}
		switch {
		case n == -2 || n < length:
		case n > length:
			best, length = []*chain{c}, n
		default:
			best = append(best, c)
		}
	}
	return best
}

func byDestination(set []*chain, f facts) []*chain {
	return longest(set, f.local.Addr(), func(c *chain) []netip.Prefix { return c.match.prefixes })
}

func byDirect(set []*chain, f facts) []*chain {
	return longest(set, f.direct.Addr(), func(c *chain) []netip.Prefix { return c.match.direct })
}

func bySource(set []*chain, f facts) []*chain {
	return longest(set, f.remote.Addr(), func(c *chain) []netip.Prefix { return c.match.sources })
}

// byName prefers the exact server name, then the longest wildcard, then chains that name none.
func byName(set []*chain, f facts) []*chain {
	if f.name != "" {
		if out := keep(set, func(c *chain) bool { return has(c.match.names, f.name) }); len(out) > 0 {
			return out
		}
		for rest := f.name; ; {
			_, parent, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			if out := keep(set, func(c *chain) bool { return has(c.match.names, "*."+parent) }); len(out) > 0 {
				return out
			}
			rest = parent
		}
	}
	return keep(set, func(c *chain) bool { return len(c.match.names) == 0 || has(c.match.names, "*") })
}

func byTransport(set []*chain, f facts) []*chain {
	return exactOr(set,
		func(c *chain) bool { return c.match.transport != "" && c.match.transport == f.transport },
		func(c *chain) bool { return c.match.transport == "" })
}

// byProtocol takes the first of the client's protocols that any chain names.
func byProtocol(set []*chain, f facts) []*chain {
	for _, p := range f.protocols {
		if out := keep(set, func(c *chain) bool { return has(c.match.protocols, p) }); len(out) > 0 {
			return out
		}
	}
	return keep(set, func(c *chain) bool { return len(c.match.protocols) == 0 })
}

func bySourceType(set []*chain, f facts) []*chain {
	here := f.remote.Addr().IsLoopback() || f.remote.Addr() == f.local.Addr()
	want := listenerv3.FilterChainMatch_EXTERNAL
	if here {
		want = listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK
	}
	return exactOr(set,
		func(c *chain) bool { return c.match.sourceType == want },
		func(c *chain) bool { return c.match.sourceType == listenerv3.FilterChainMatch_ANY })
}

func bySourcePort(set []*chain, f facts) []*chain {
	return exactOr(set,
		func(c *chain) bool {
			for _, p := range c.match.ports {
				if p == uint32(f.remote.Port()) {
					return true
				}
			}
			return false
		},
		func(c *chain) bool { return len(c.match.ports) == 0 })
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
