package match

import (
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// Query compiles m. The function gets the query string as it stands in :path,
// without the question mark and a fragment; like Envoy's router it does not
// decode percent signs, takes the first of repeated keys, and reads a key
// without "=" as present with an empty value.
func Query(m *routev3.QueryParameterMatcher) (func(rawQuery string) bool, error) {
	name := m.GetName()
	if name == "" {
		return nil, fmt.Errorf("query parameter matcher: name must not be empty")
	}
	switch s := m.GetQueryParameterMatchSpecifier().(type) {
	case nil:
		return func(q string) bool { _, ok := queryValue(q, name); return ok }, nil
	case *routev3.QueryParameterMatcher_PresentMatch:
		return func(q string) bool { _, ok := queryValue(q, name); return ok == s.PresentMatch }, nil
	case *routev3.QueryParameterMatcher_StringMatch:
		f, err := Compile(s.StringMatch)
		if err != nil {
			return nil, fmt.Errorf("query parameter matcher %q: %w", name, err)
		}
		return func(q string) bool { v, ok := queryValue(q, name); return ok && f(v) }, nil
	default:
		return nil, fmt.Errorf("query parameter matcher %q: query_parameter_match_specifier %T is not supported", name, s)
	}
}

func queryValue(q, name string) (string, bool) {
	for q != "" {
		var pair string
		pair, q, _ = strings.Cut(q, "&")
		if key, value, _ := strings.Cut(pair, "="); key == name {
			return value, true
		}
	}
	return "", false
}
