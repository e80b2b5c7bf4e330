package match

import (
	"fmt"
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// FilterState compiles m. The function gets the filter state object under m.Key in its string form and whether there is
// one; an absent object is no match.
func FilterState(m *matcherv3.FilterStateMatcher) (func(value string, ok bool) bool, error) {
	if m.GetKey() == "" {
		return nil, fmt.Errorf("filter state matcher: key must not be empty")
	}
	switch s := m.GetMatcher().(type) {
	case *matcherv3.FilterStateMatcher_StringMatch:
		f, err := Compile(s.StringMatch)
		if err != nil {
			return nil, fmt.Errorf("filter state matcher %q: %w", m.GetKey(), err)
		}
		return func(v string, ok bool) bool { return ok && f(v) }, nil
	case *matcherv3.FilterStateMatcher_AddressMatch:
		var ranges []netip.Prefix
		for _, r := range s.AddressMatch.GetRanges() {
			p, err := Prefix(&corev3.CidrRange{AddressPrefix: r.GetAddressPrefix(), PrefixLen: r.GetPrefixLen()})
			if err != nil {
				return nil, fmt.Errorf("filter state matcher %q: %w", m.GetKey(), err)
			}
			ranges = append(ranges, p)
		}
		invert := s.AddressMatch.GetInvertMatch()
		return func(v string, ok bool) bool {
			ip, valid := address(v)
			if !ok || !valid {
				return false
			}
			for _, p := range ranges {
				if p.Contains(ip) {
					return !invert
				}
			}
			return invert
		}, nil
	default:
		return nil, fmt.Errorf("filter state matcher %q: matcher %T is not supported", m.GetKey(), s)
	}
}

// address reads an IP address with or without a port.
func address(s string) (netip.Addr, bool) {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Unmap().WithZone(""), true
	}
	ap, err := netip.ParseAddrPort(s)
	return ap.Addr().Unmap().WithZone(""), err == nil
}
