package redirect

import (
	"net/netip"
)

const (
	dnsPort      = 53
	agentDNSPort = 15053 // where pilot-agent's DNS proxy listens
)

// config is what the flags and the environment ask for.
type config struct {
	outboundPort, inboundPort, tunnelPort, probePort uint16

	uids, gids                    []uint32
	inboundPorts                  portSet
	excludeInbound                []uint16
	includePorts, excludeOutbound []uint16
	includes, excludes            prefixSet
	excludeInterfaces             []string
	virtualInterfaces             []string
	groups                        groupSet
	loopback4                     netip.Prefix
	dns                           dnsCapture
	dropInvalid                   bool
}

// owners are the identities of the proxy.
func (c *config) owners() []owner {
	var out []owner
	for _, id := range c.uids {
		out = append(out, owner{id: id})
	}
	for _, id := range c.gids {
		out = append(out, owner{id: id, group: true})
	}
	return out
}

// loopback is the range that applications use to reach their own pod directly.
func (c *config) loopback(f family) netip.Prefix {
	if f == ipv6 {
		return netip.MustParsePrefix("::1/128")
	}
	return c.loopback4
}

// loopbackIncluded tells whether a loopback range is asked to be redirected.
func (c *config) loopbackIncluded() bool {
	for _, p := range c.includes.prefixes {
		if p.Addr().IsLoopback() {
			return true
		}
	}
	return false
}

// portSet is all ports, or some.
type portSet struct {
	all   bool
	ports []uint16
}

func (s portSet) none() bool { return !s.all && len(s.ports) == 0 }

// prefixSet is all addresses, or some.
type prefixSet struct {
	all      bool
	prefixes []netip.Prefix
}

func (s prefixSet) of(f family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s.prefixes {
		if f.holds(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

// groupSet is the groups whose processes' traffic is redirected: all but some, or
// only some.
type groupSet struct {
	only   bool
	groups []uint32
}

// dnsCapture is which DNS traffic goes to the agent: none, all, or what is for the
// pod's own resolvers.
type dnsCapture struct {
	on, all bool
	servers []netip.Addr
}

// of gives the destinations of one family's captured DNS traffic. An invalid prefix
// stands for every address.
func (d dnsCapture) of(f family) []netip.Prefix {
	if !d.on {
		return nil
	}
	if d.all {
		return []netip.Prefix{{}}
	}
	var out []netip.Prefix
	for _, s := range d.servers {
		if f.holds(s) {
			out = append(out, netip.PrefixFrom(s, s.BitLen()))
		}
	}
	return out
}
