package match_test

import (
	"strings"
	"testing"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

func sm(kind, value string, fold bool) *matcherv3.StringMatcher {
	m := &matcherv3.StringMatcher{IgnoreCase: fold}
	switch kind {
	case "exact":
		m.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: value}
	case "prefix":
		m.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: value}
	case "suffix":
		m.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: value}
	case "contains":
		m.MatchPattern = &matcherv3.StringMatcher_Contains{Contains: value}
	case "regex":
		m.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: value}}
	}
	return m
}

func TestString(t *testing.T) {
	for _, c := range []struct {
		kind, value string
		fold        bool
		yes, no     []string
	}{
		{"exact", "GET", false, []string{"GET"}, []string{"get", "GETS", ""}},
		{"exact", "", false, []string{""}, []string{"x"}},
		{"exact", "Key", true, []string{"KEY", "key"}, []string{"\u212aey", "keys"}},
		{"prefix", "/api", false, []string{"/api", "/api/v1"}, []string{"/Api", "/ap", ""}},
		{"prefix", "/api", true, []string{"/API/v1"}, []string{"/a"}},
		{"suffix", ".com", false, []string{".com", "a.com"}, []string{"a.COM", "com"}},
		{"suffix", ".com", true, []string{"a.COM"}, []string{"om"}},
		{"contains", "bc", false, []string{"abcd", "bc"}, []string{"aBCd", "b"}},
		{"contains", "bc", true, []string{"aBCd"}, []string{"acb", ""}},
		{"regex", `\d{3}`, false, []string{"123"}, []string{"1234", "12", "x123"}},
		{"regex", `a|ab`, false, []string{"a", "ab"}, []string{"abc", "b"}},
		{"regex", `abc`, true, []string{"abc"}, []string{"ABC"}},
		{"regex", `a.c`, false, []string{"abc"}, []string{"a\nc", "abc\n"}},
	} {
		f, err := match.Compile(sm(c.kind, c.value, c.fold))
		if err != nil {
			t.Fatalf("%s %q: %v", c.kind, c.value, err)
		}
		for _, s := range c.yes {
			if !f(s) {
				t.Errorf("%s %q fold %v does not match %q", c.kind, c.value, c.fold, s)
			}
		}
		for _, s := range c.no {
			if f(s) {
				t.Errorf("%s %q fold %v matches %q", c.kind, c.value, c.fold, s)
			}
		}
	}
}

func TestStringErrorsNameTheField(t *testing.T) {
	for want, m := range map[string]*matcherv3.StringMatcher{
		"prefix must not be empty":     sm("prefix", "", false),
		"suffix must not be empty":     sm("suffix", "", false),
		"contains must not be empty":   sm("contains", "", false),
		"safe_regex: regex must not":   sm("regex", "", false),
		"safe_regex: error parsing":    sm("regex", "a)|(b", false),
		"match_pattern is not set":     {},
		`custom "lua" () is not suppo`: {MatchPattern: &matcherv3.StringMatcher_Custom{Custom: &xdscorev3.TypedExtensionConfig{Name: "lua"}}},
	} {
		if _, err := match.Compile(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
	if _, err := match.CompileAny([]*matcherv3.StringMatcher{sm("exact", "a", false), {}}); err == nil {
		t.Error("CompileAny passes over a matcher without a pattern")
	}
}

func TestCompileAny(t *testing.T) {
	if f, err := match.CompileAny(nil); f != nil || err != nil {
		t.Errorf("an empty list gives %v, %v; want nil, nil", f != nil, err)
	}
	f, err := match.CompileAny([]*matcherv3.StringMatcher{sm("exact", "a", false), sm("prefix", "b", false)})
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[string]bool{"a": true, "bc": true, "c": false} {
		if f(s) != want {
			t.Errorf("%q: got %v, want %v", s, !want, want)
		}
	}
}
