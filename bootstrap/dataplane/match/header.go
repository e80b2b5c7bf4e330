package match

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// Header compiles m for routing: the function gets all values of the header
// m.Name, in order, and matches them joined by commas. No values means that the
// header is absent. An absent header is no match, inverted or not, except for
// present_match and where treat_missing_header_as_empty is set.
func Header(m *routev3.HeaderMatcher) (func(values []string) bool, error) {
	h, err := compileHeader(m)
	if err != nil {
		return nil, err
	}
	return func(values []string) bool {
		if len(values) == 0 {
			return h.absent()
		}
		if len(values) == 1 {
			return h.one(values[0])
		}
		return h.one(strings.Join(values, ","))
	}, nil
}

// HeaderEach compiles m for access control: it differs from Header in that each
// value of a repeated header is matched by itself and one match is enough, so
// that a repeated header does not get past a DENY rule. Envoy's RBAC filters do
// this since 1.38 (rbac_match_headers_individually).
func HeaderEach(m *routev3.HeaderMatcher) (func(values []string) bool, error) {
	h, err := compileHeader(m)
	if err != nil {
		return nil, err
	}
	return func(values []string) bool {
		if len(values) == 0 {
			return h.absent()
		}
		for _, v := range values {
			if h.one(v) {
				return true
			}
		}
		return false
	}, nil
}

// Headers compiles ms into one function that is true when all of them match;
// get returns all values of the header of that name. The names are passed to
// get in lower case.
func Headers(ms []*routev3.HeaderMatcher) (func(get func(name string) []string) bool, error) {
	type named struct {
		name  string
		match func([]string) bool
	}
	all := make([]named, len(ms))
	for i, m := range ms {
		f, err := Header(m)
		if err != nil {
			return nil, err
		}
		all[i] = named{strings.ToLower(m.GetName()), f}
	}
	return func(get func(string) []string) bool {
		for i := range all {
			if !all[i].match(get(all[i].name)) {
				return false
			}
		}
		return true
	}, nil
}

type header struct {
	value        String // nil: matches by presence alone
	present      bool   // what present_match says, when value is nil
	invert       bool
	emptyMissing bool
}

func (h *header) absent() bool {
	switch {
	case h.emptyMissing:
		return h.one("")
	case h.value == nil:
		return h.present == h.invert
	default:
		return false
	}
}

func (h *header) one(v string) bool {
	if h.value == nil {
		return h.present != h.invert
	}
	return h.value(v) != h.invert
}

func compileHeader(m *routev3.HeaderMatcher) (*header, error) {
	if m.GetName() == "" {
		return nil, fmt.Errorf("header matcher: name must not be empty")
	}
	h := &header{invert: m.GetInvertMatch(), emptyMissing: m.GetTreatMissingHeaderAsEmpty()}
	var err error
	switch s := m.GetHeaderMatchSpecifier().(type) {
	case nil:
		h.present = true
	case *routev3.HeaderMatcher_PresentMatch:
		h.present = s.PresentMatch
	case *routev3.HeaderMatcher_StringMatch:
		h.value, err = Compile(s.StringMatch)
	case *routev3.HeaderMatcher_RangeMatch:
		h.value = integerIn(s.RangeMatch.GetStart(), s.RangeMatch.GetEnd())
	case *routev3.HeaderMatcher_ExactMatch:
		// The deprecated exact_match with an empty value matches any value.
		h.value = func(v string) bool { return s.ExactMatch == "" || v == s.ExactMatch } //nolint:staticcheck // deprecated, still sent
	case *routev3.HeaderMatcher_SafeRegexMatch:
		var re *regexp.Regexp
		if re, err = Regex(s.SafeRegexMatch); err == nil { //nolint:staticcheck // deprecated, still sent
			h.value = re.MatchString
		}
	case *routev3.HeaderMatcher_PrefixMatch:
		h.value, err = Compile(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s.PrefixMatch}}) //nolint:staticcheck // deprecated, still sent
	case *routev3.HeaderMatcher_SuffixMatch:
		h.value, err = Compile(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: s.SuffixMatch}}) //nolint:staticcheck // deprecated, still sent
	case *routev3.HeaderMatcher_ContainsMatch:
		h.value, err = Compile(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: s.ContainsMatch}}) //nolint:staticcheck // deprecated, still sent
	default:
		err = fmt.Errorf("header_match_specifier %T is not supported", s)
	}
	if err != nil {
		return nil, fmt.Errorf("header matcher %q: %w", m.GetName(), err)
	}
	return h, nil
}

// integerIn matches base 10 integers in [start, end).
func integerIn(start, end int64) String {
	return func(v string) bool {
		n, err := strconv.ParseInt(v, 10, 64)
		return err == nil && start <= n && n < end
	}
}
