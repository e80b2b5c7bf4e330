package match_test

import (
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

func TestHeader(t *testing.T) {
	str := func(kind, v string) *routev3.HeaderMatcher {
		return &routev3.HeaderMatcher{Name: "x", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: sm(kind, v, false)}}
	}
	present := func(p bool) *routev3.HeaderMatcher {
		return &routev3.HeaderMatcher{Name: "x", HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: p}}
	}
	inRange := func(a, b int64) *routev3.HeaderMatcher {
		return &routev3.HeaderMatcher{Name: "x", HeaderMatchSpecifier: &routev3.HeaderMatcher_RangeMatch{RangeMatch: &typev3.Int64Range{Start: a, End: b}}}
	}
	not := func(m *routev3.HeaderMatcher) *routev3.HeaderMatcher { m.InvertMatch = true; return m }
	empty := func(m *routev3.HeaderMatcher) *routev3.HeaderMatcher {
		m.TreatMissingHeaderAsEmpty = true
		return m
	}
	absent, one := []string(nil), func(s ...string) []string { return s }
	for _, c := range []struct {
		name string
		m    *routev3.HeaderMatcher
		in   []string
		want bool
	}{
		{"nothing specified is presence", &routev3.HeaderMatcher{Name: "x"}, one(""), true},
		{"nothing specified, absent", &routev3.HeaderMatcher{Name: "x"}, absent, false},
		{"present", present(true), one("a"), true},
		{"present, absent", present(true), absent, false},
		{"not present, absent", not(present(true)), absent, true},
		{"not present", not(present(true)), one("a"), false},
		{"present false", present(false), one("a"), false},
		{"present false, absent", present(false), absent, true},
		{"not present false, absent", not(present(false)), absent, false},
		{"exact", str("exact", "a"), one("a"), true},
		{"values are joined", str("exact", "a,b"), one("a", "b"), true},
		{"one of two values", str("exact", "a"), one("a", "b"), false},
		{"absent", str("exact", "a"), absent, false},
		{"inverted, absent is still no match", not(str("exact", "a")), absent, false},
		{"inverted", not(str("exact", "a")), one("b"), true},
		{"inverted regex on a longer value", not(str("regex", `\d{3}`)), one("1234"), true},
		{"range", inRange(-10, 0), one("-1"), true},
		{"range end is excluded", inRange(-10, 0), one("0"), false},
		{"range start is included", inRange(-10, 0), one("-10"), true},
		{"range of a non-number", inRange(-10, 0), one("somestring"), false},
		{"range of a float", inRange(0, 20), one("10.9"), false},
		{"range of a part", inRange(-10, 0), one("-1somestring"), false},
		{"inverted range, missing as empty", empty(not(inRange(0, 10))), absent, true},
		{"inverted range, missing", not(inRange(0, 10)), absent, false},
		{"regex of nothing, missing as empty", empty(str("regex", "^$")), absent, true},
		{"regex of nothing, missing", str("regex", "^$"), absent, false},
		{"deprecated exact", &routev3.HeaderMatcher{Name: "x", HeaderMatchSpecifier: &routev3.HeaderMatcher_ExactMatch{ExactMatch: "a"}}, one("a"), true},
		{"deprecated prefix", &routev3.HeaderMatcher{Name: "x", HeaderMatchSpecifier: &routev3.HeaderMatcher_PrefixMatch{PrefixMatch: "a"}}, one("ab"), true},
		{"deprecated suffix", &routev3.HeaderMatcher{Name: "x", HeaderMatchSpecifier: &routev3.HeaderMatcher_SuffixMatch{SuffixMatch: "b"}}, one("ab"), true},
		{"deprecated contains", &routev3.HeaderMatcher{Name: "x", HeaderMatchSpecifier: &routev3.HeaderMatcher_ContainsMatch{ContainsMatch: "b"}}, one("abc"), true},
		{"deprecated regex", &routev3.HeaderMatcher{Name: "x", HeaderMatchSpecifier: &routev3.HeaderMatcher_SafeRegexMatch{SafeRegexMatch: &matcherv3.RegexMatcher{Regex: "a+"}}}, one("aa"), true},
	} {
		f, err := match.Header(c.m)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := f(c.in); got != c.want {
			t.Errorf("%s: %q gives %v, want %v", c.name, c.in, got, c.want)
		}
	}
	_, err := match.Header(str("prefix", ""))
	if err == nil || !strings.Contains(err.Error(), `"x"`) || !strings.Contains(err.Error(), "prefix") {
		t.Errorf("error %v does not name header and field", err)
	}
	if _, err := match.Header(&routev3.HeaderMatcher{}); err == nil {
		t.Error("a header matcher without a name compiles")
	}
}

func TestHeaderEachSeesEveryValue(t *testing.T) {
	f, err := match.HeaderEach(&routev3.HeaderMatcher{Name: "x", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: sm("exact", "admin", false)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in   []string
		want bool
	}{
		{[]string{"admin"}, true},
		{[]string{"user", "admin"}, true},
		{[]string{"user"}, false},
		{nil, false},
	} {
		if got := f(c.in); got != c.want {
			t.Errorf("%q gives %v, want %v", c.in, got, c.want)
		}
	}
}

func TestHeadersAllHaveToMatch(t *testing.T) {
	f, err := match.Headers([]*routev3.HeaderMatcher{
		{Name: "X-A"},
		{Name: "x-b", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: sm("exact", "1", false)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		h    map[string][]string
		want bool
	}{
		{map[string][]string{"x-a": {""}, "x-b": {"1"}}, true},
		{map[string][]string{"x-a": {""}, "x-b": {"2"}}, false},
		{map[string][]string{"x-b": {"1"}}, false},
	} {
		if got := f(func(n string) []string { return c.h[n] }); got != c.want {
			t.Errorf("%v gives %v, want %v", c.h, got, c.want)
		}
	}
}

func TestQuery(t *testing.T) {
	present := func(p bool) *routev3.QueryParameterMatcher {
		return &routev3.QueryParameterMatcher{Name: "a", QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: p}}
	}
	str := func(kind, v string) *routev3.QueryParameterMatcher {
		return &routev3.QueryParameterMatcher{Name: "a", QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{StringMatch: sm(kind, v, false)}}
	}
	for _, c := range []struct {
		m    *routev3.QueryParameterMatcher
		in   string
		want bool
	}{
		{&routev3.QueryParameterMatcher{Name: "a"}, "b=1&a", true},
		{&routev3.QueryParameterMatcher{Name: "a"}, "b=a", false},
		{present(true), "a=1", true},
		{present(false), "a=1", false},
		{present(false), "", true},
		{str("exact", "1"), "a=1&a=2", true},
		{str("exact", "2"), "a=1&a=2", false},
		{str("exact", ""), "a", true},
		{str("exact", "x=y"), "a=x=y", true},
		{str("exact", "%20"), "a=%20", true},
		{str("exact", "1"), "aa=1", false},
		{str("regex", ".*"), "", false},
	} {
		f, err := match.Query(c.m)
		if err != nil {
			t.Fatal(err)
		}
		if got := f(c.in); got != c.want {
			t.Errorf("%v on %q gives %v, want %v", c.m, c.in, got, c.want)
		}
	}
	if _, err := match.Query(str("prefix", "")); err == nil || !strings.Contains(err.Error(), "prefix") {
		t.Errorf("got error %v, want one that names prefix", err)
	}
}
