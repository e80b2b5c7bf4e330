package netpol

import (
	"net/netip"
	"slices"
	"testing"
)

func rangesOf(prefixes ...string) (ranges []addrRange) {
	for _, p := range prefixes {
		ranges = append(ranges, prefixRange(netip.MustParsePrefix(p)))
	}
	return ranges
}

func TestRanges(t *testing.T) {
	sub := func(from string, cuts ...string) []addrRange {
		r := rangesOf(from)
		for _, c := range rangesOf(cuts...) {
			r = subtract(r, c)
		}
		return r
	}
	tests := map[string]struct {
		got  []addrRange
		want []string
	}{
		"host":                {rangesOf("10.0.0.1/32"), []string{"10.0.0.1"}},
		"all":                 {rangesOf("0.0.0.0/0"), []string{"0.0.0.0-255.255.255.255"}},
		"host bits":           {rangesOf("10.0.0.77/24"), []string{"10.0.0.0-10.0.0.255"}},
		"cut middle":          {sub("10.0.0.0/24", "10.0.0.16/28"), []string{"10.0.0.0-10.0.0.15", "10.0.0.32-10.0.0.255"}},
		"cut start":           {sub("10.0.0.0/24", "10.0.0.0/25"), []string{"10.0.0.128-10.0.0.255"}},
		"cut end":             {sub("10.0.0.0/24", "10.0.0.128/25"), []string{"10.0.0.0-10.0.0.127"}},
		"cut all":             {sub("10.0.0.0/24", "10.0.0.0/16"), nil},
		"cut elsewhere":       {sub("10.0.0.0/24", "10.0.1.0/24"), []string{"10.0.0.0-10.0.0.255"}},
		"cut twice":           {sub("10.0.0.0/30", "10.0.0.1/32", "10.0.0.2/32"), []string{"10.0.0.0", "10.0.0.3"}},
		"cut both ends of v4": {sub("0.0.0.0/0", "0.0.0.0/1", "255.0.0.0/8"), []string{"128.0.0.0-254.255.255.255"}},
		"join touching":       {union(rangesOf("10.0.1.0/24", "10.0.0.0/24")), []string{"10.0.0.0-10.0.1.255"}},
		"join nested":         {union(rangesOf("10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/32")), []string{"10.0.0.0-11.0.0.0"}},
		"keep apart":          {union(rangesOf("10.0.0.2/32", "10.0.0.0/32")), []string{"10.0.0.0", "10.0.0.2"}},
		"join at the end":     {union(rangesOf("255.255.255.255/32", "255.255.255.254/32")), []string{"255.255.255.254-255.255.255.255"}},
		"join with all":       {union(rangesOf("0.0.0.0/0", "10.0.0.0/8")), []string{"0.0.0.0-255.255.255.255"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, r := range tt.got {
				got = append(got, r.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestUnionPorts(t *testing.T) {
	tests := map[string]struct{ in, want []portRange }{
		"overlap":      {[]portRange{{93, 99}, {90, 95}}, []portRange{{90, 99}}},
		"touch":        {[]portRange{{1, 1}, {2, 2}}, []portRange{{1, 2}}},
		"apart":        {[]portRange{{5, 5}, {1, 3}}, []portRange{{1, 3}, {5, 5}}},
		"nested":       {[]portRange{{0, 65535}, {80, 80}}, []portRange{{0, 65535}}},
		"at the end":   {[]portRange{{65535, 65535}, {65534, 65534}}, []portRange{{65534, 65535}}},
		"equal starts": {[]portRange{{80, 90}, {80, 80}}, []portRange{{80, 90}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := unionPorts(tt.in); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
