// Package match compiles the matchers of Envoy's API into Go functions.
//
// It knows what a StringMatcher, HeaderMatcher, QueryParameterMatcher,
// PathMatcher, MetadataMatcher, CidrRange or URI template means, with Envoy's
// semantics down to missing headers, ASCII case folding and whole-value regular
// expressions. It knows nothing of requests, connections or filters: callers
// bring the values. Everything a matcher may say that is not understood is an
// error of the compiling function that names the field, so that the
// configuration can be refused; the compiled functions themselves never fail
// and are safe for concurrent use.
package match

import (
	"fmt"
	"regexp"
	"strings"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// String is a compiled predicate on strings.
type String func(string) bool

// Compile compiles m. The comparison is bytewise, or ASCII case-insensitive when
// ignore_case is set; ignore_case has no effect on safe_regex.
func Compile(m *matcherv3.StringMatcher) (String, error) {
	fold := m.GetIgnoreCase()
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return exact(p.Exact, fold), nil
	case *matcherv3.StringMatcher_Prefix:
		if p.Prefix == "" {
			return nil, fmt.Errorf("string matcher: prefix must not be empty")
		}
		return prefix(p.Prefix, fold), nil
	case *matcherv3.StringMatcher_Suffix:
		if p.Suffix == "" {
			return nil, fmt.Errorf("string matcher: suffix must not be empty")
		}
		return suffix(p.Suffix, fold), nil
	case *matcherv3.StringMatcher_Contains:
		if p.Contains == "" {
			return nil, fmt.Errorf("string matcher: contains must not be empty")
		}
		return contains(p.Contains, fold), nil
	case *matcherv3.StringMatcher_SafeRegex:
		re, err := Regex(p.SafeRegex)
		if err != nil {
			return nil, fmt.Errorf("string matcher: %w", err)
		}
		return re.MatchString, nil
	case *matcherv3.StringMatcher_Custom:
		return nil, fmt.Errorf("string matcher: custom %q (%s) is not supported",
			p.Custom.GetName(), p.Custom.GetTypedConfig().GetTypeUrl())
	case nil:
		return nil, fmt.Errorf("string matcher: match_pattern is not set")
	default:
		return nil, fmt.Errorf("string matcher: match_pattern %T is not supported", p)
	}
}

// CompileAny compiles ms into one predicate that holds when any member does. An
// empty list gives nil.
func CompileAny(ms []*matcherv3.StringMatcher) (String, error) {
	if len(ms) == 0 {
		return nil, nil
	}
	all := make([]String, len(ms))
	for i, m := range ms {
		f, err := Compile(m)
		if err != nil {
			return nil, err
		}
		all[i] = f
	}
	return func(s string) bool {
		for _, f := range all {
			if f(s) {
				return true
			}
		}
		return false
	}, nil
}

// Regex compiles m, in RE2 syntax, so that it must match the whole input, as
// with Envoy's RE2::FullMatch.
func Regex(m *matcherv3.RegexMatcher) (*regexp.Regexp, error) {
	if m.GetRegex() == "" {
		return nil, fmt.Errorf("safe_regex: regex must not be empty")
	}
	re, err := fullRegexp(m.GetRegex())
	if err != nil {
		return nil, fmt.Errorf("safe_regex: %w", err)
	}
	return re, nil
}

func fullRegexp(expr string) (*regexp.Regexp, error) {
	// Compiled alone first: an expression such as "a)|(b" becomes valid, and
	// wrong, once it is wrapped.
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}

func exact(want string, fold bool) String {
	if fold {
		return func(s string) bool { return equalFold(s, want) }
	}
	return func(s string) bool { return s == want }
}

func prefix(want string, fold bool) String {
	if fold {
		return func(s string) bool { return len(s) >= len(want) && equalFold(s[:len(want)], want) }
	}
	return func(s string) bool { return strings.HasPrefix(s, want) }
}

func suffix(want string, fold bool) String {
	if fold {
		return func(s string) bool { return len(s) >= len(want) && equalFold(s[len(s)-len(want):], want) }
	}
	return func(s string) bool { return strings.HasSuffix(s, want) }
}

func contains(want string, fold bool) String {
	if !fold {
		return func(s string) bool { return strings.Contains(s, want) }
	}
	return func(s string) bool {
		for i := 0; i+len(want) <= len(s); i++ {
			if equalFold(s[i:i+len(want)], want) {
				return true
			}
		}
		return false
	}
}

// equalFold is strings.EqualFold for ASCII only: Envoy does not fold the
// Kelvin sign to k, and neither may a policy.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
