package netpol

import (
	"cmp"
	"net/netip"
	"slices"
)

// addrRange is the addresses from lo to hi, both included.
type addrRange struct {
	lo, hi netip.Addr
}

func (r addrRange) String() string {
	if r.lo == r.hi {
		return r.lo.String()
	}
	return r.lo.String() + "-" + r.hi.String()
}

// prefixRange is the addresses of an IPv4 prefix.
func prefixRange(p netip.Prefix) addrRange {
	p = p.Masked()
	hi := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		hi[bit/8] |= 0x80 >> (bit % 8)
	}
	return addrRange{lo: p.Addr(), hi: netip.AddrFrom4(hi)}
}

// subtract is what of the ranges remains without the addresses in cut.
func subtract(ranges []addrRange, cut addrRange) (rest []addrRange) {
	for _, r := range ranges {
		if cut.hi.Less(r.lo) || r.hi.Less(cut.lo) {
			rest = append(rest, r)
			continue
		}
		if r.lo.Less(cut.lo) {
			rest = append(rest, addrRange{lo: r.lo, hi: cut.lo.Prev()})
		}
		if cut.hi.Less(r.hi) {
			rest = append(rest, addrRange{lo: cut.hi.Next(), hi: r.hi})
		}
	}
	return rest
}

// union sorts ranges and joins those that overlap or touch.
func union(ranges []addrRange) (joined []addrRange) {
	ranges = slices.SortedFunc(slices.Values(ranges), func(a, b addrRange) int { return a.lo.Compare(b.lo) })
	for _, r := range ranges {
		if n := len(joined); n > 0 {
			last := &joined[n-1]
			if next := last.hi.Next(); !next.IsValid() || !next.Less(r.lo) {
				if last.hi.Less(r.hi) {
					last.hi = r.hi
				}
				continue
			}
		}
		joined = append(joined, r)
	}
	return joined
}

func contains(ranges []addrRange, ip netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r addrRange) bool { return !ip.Less(r.lo) && !r.hi.Less(ip) })
}

// portRange is the ports from lo to hi, both included.
type portRange struct {
	lo, hi uint16
}

// unionPorts sorts ranges and joins those that overlap or touch.
func unionPorts(ranges []portRange) (joined []portRange) {
	ranges = slices.SortedFunc(slices.Values(ranges), func(a, b portRange) int {
		return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(a.hi, b.hi))
	})
	for _, r := range ranges {
		if n := len(joined); n > 0 && int(r.lo) <= int(joined[n-1].hi)+1 {
			joined[n-1].hi = max(joined[n-1].hi, r.hi)
			continue
		}
		joined = append(joined, r)
	}
	return joined
}
