package match_test

import (
	"net/netip"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

func valueString(s string) *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: sm("exact", s, false)}}
}

func valueList(of *matcherv3.ValueMatcher) *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{
		ListMatch: &matcherv3.ListMatcher{MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: of}},
	}}
}

func valueOr(ms ...*matcherv3.ValueMatcher) *matcherv3.ValueMatcher {
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_OrMatch{OrMatch: &matcherv3.OrMatcher{ValueMatchers: ms}}}
}

func TestValue(t *testing.T) {
	null := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_NullMatch_{}}
	yes := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_BoolMatch{BoolMatch: true}}
	present := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}}
	never := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{}}
	number := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_DoubleMatch{
		DoubleMatch: &matcherv3.DoubleMatcher{MatchPattern: &matcherv3.DoubleMatcher_Exact{Exact: 1.5}},
	}}
	between := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_DoubleMatch{
		DoubleMatch: &matcherv3.DoubleMatcher{MatchPattern: &matcherv3.DoubleMatcher_Range{Range: &typev3.DoubleRange{Start: 1, End: 2}}},
	}}
	for _, c := range []struct {
		name string
		m    *matcherv3.ValueMatcher
		v    any
		want bool
	}{
		{"null", null, nil, true},
		{"null of string", null, "", false},
		{"bool", yes, true, true},
		{"bool false", yes, false, false},
		{"bool of string", yes, "true", false},
		{"present", present, map[string]any{}, true},
		{"present false", never, "a", false},
		{"number", number, 1.5, true},
		{"number of string", number, "1.5", false},
		{"range", between, 1.0, true},
		{"range end", between, 2.0, false},
		{"string", valueString("a"), "a", true},
		{"string of list", valueString("a"), []any{"a"}, false},
		{"list", valueList(valueString("a")), []any{"b", "a"}, true},
		{"list of strings", valueList(valueString("a")), []string{"b", "a"}, true},
		{"list without", valueList(valueString("a")), []any{"b", 1.0}, false},
		{"list of string", valueList(valueString("a")), "a", false},
		{"list or string: list", valueOr(valueList(valueString("a")), valueString("a")), []any{"a"}, true},
		{"list or string: string", valueOr(valueList(valueString("a")), valueString("a")), "a", true},
		{"list or string: neither", valueOr(valueList(valueString("a")), valueString("a")), "b", false},
		{"protobuf", valueList(valueString("a")), structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue("a")}}), true},
		{"protobuf null", null, structpb.NewNullValue(), true},
	} {
		f, err := match.Value(c.m)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := f(c.v); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	for want, m := range map[string]*matcherv3.ValueMatcher{
		"match_pattern is not set": {},
		"or_match":                 valueOr(valueString("a")),
		"list_match":               valueList(&matcherv3.ValueMatcher{}),
		"double_match":             {MatchPattern: &matcherv3.ValueMatcher_DoubleMatch{DoubleMatch: &matcherv3.DoubleMatcher{}}},
	} {
		if _, err := match.Value(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
}

func TestMetadata(t *testing.T) {
	key := func(k string) *matcherv3.MetadataMatcher_PathSegment {
		return &matcherv3.MetadataMatcher_PathSegment{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: k}}
	}
	m := &matcherv3.MetadataMatcher{Filter: "jwt", Path: []*matcherv3.MetadataMatcher_PathSegment{key("payload"), key("iss")}, Value: valueString("me")}
	look := func(v any, ok bool) match.Lookup {
		return func(filter string, path []string) (any, bool) {
			if filter != "jwt" || len(path) != 2 || path[0] != "payload" || path[1] != "iss" {
				t.Errorf("looked up %q in %q", path, filter)
			}
			return v, ok
		}
	}
	f, err := match.Metadata(m)
	if err != nil {
		t.Fatal(err)
	}
	m.Invert = true
	not, err := match.Metadata(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		v    any
		ok   bool
		want bool
	}{{"me", true, true}, {"you", true, false}, {nil, false, false}, {"me", false, false}} {
		if got := f(look(c.v, c.ok)); got != c.want {
			t.Errorf("%v, %v gives %v, want %v", c.v, c.ok, got, c.want)
		}
		if got := not(look(c.v, c.ok)); got == c.want {
			t.Errorf("inverted: %v, %v gives %v, want %v", c.v, c.ok, got, !c.want)
		}
	}
	for want, m := range map[string]*matcherv3.MetadataMatcher{
		"filter":  {Path: m.Path, Value: m.Value},
		"path":    {Filter: "f", Value: m.Value},
		"segment": {Filter: "f", Path: []*matcherv3.MetadataMatcher_PathSegment{{}}, Value: m.Value},
		"value":   {Filter: "f", Path: m.Path},
	} {
		if _, err := match.Metadata(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one that names %q", err, want)
		}
	}
}

func TestCIDR(t *testing.T) {
	cidr := func(p string, bits uint32) *corev3.CidrRange {
		return &corev3.CidrRange{AddressPrefix: p, PrefixLen: wrapperspb.UInt32(bits)}
	}
	for _, c := range []struct {
		c    *corev3.CidrRange
		addr string
		want bool
	}{
		{cidr("10.1.2.3", 16), "10.1.255.1", true},
		{cidr("10.1.2.3", 16), "10.2.0.1", false},
		{cidr("10.1.2.3", 32), "::ffff:10.1.2.3", true},
		{cidr("0.0.0.0", 0), "192.0.2.1", true},
		{&corev3.CidrRange{AddressPrefix: "0.0.0.0"}, "192.0.2.1", true},
		{cidr("0.0.0.0", 0), "fd00::1", false},
		{cidr("fd00::", 8), "fd12::1", true},
		{cidr("fe80::", 10), "fe80::1%eth0", true},
		{cidr("::1", 128), "127.0.0.1", false},
	} {
		f, err := match.CIDR(c.c)
		if err != nil {
			t.Fatal(err)
		}
		if got := f(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%v holds %s: got %v, want %v", c.c, c.addr, got, c.want)
		}
		if f(netip.Addr{}) {
			t.Errorf("%v holds the invalid address", c.c)
		}
	}
	if _, err := match.CIDR(cidr("localhost", 8)); err == nil || !strings.Contains(err.Error(), "address_prefix") {
		t.Errorf("got error %v, want one that names address_prefix", err)
	}
}
