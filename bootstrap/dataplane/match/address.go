package match

import (
	"fmt"
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// Prefix returns the address range of c, with host bits cleared. An absent
// prefix_len is 0, and one that is longer than the address is clamped to it, as
// Envoy has it.
func Prefix(c *corev3.CidrRange) (netip.Prefix, error) {
	addr, err := netip.ParseAddr(c.GetAddressPrefix())
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("address_prefix: %w", err)
	}
	if addr.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("address_prefix %q: a zone is not supported", c.GetAddressPrefix())
	}
	bits := min(int(c.GetPrefixLen().GetValue()), addr.BitLen())
	return netip.PrefixFrom(addr, bits).Masked(), nil
}

// CIDR compiles c. IPv4 addresses that arrive mapped into IPv6 are matched as
// IPv4; an invalid address is in no range.
func CIDR(c *corev3.CidrRange) (func(netip.Addr) bool, error) {
	p, err := Prefix(c)
	if err != nil {
		return nil, err
	}
	return func(a netip.Addr) bool { return p.Contains(a.Unmap().WithZone("")) }, nil
}
