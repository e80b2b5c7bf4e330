package match

import (
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	uritemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// Path compiles m. The function gets the value of :path; query and fragment
// are cut off before matching.
func Path(m *matcherv3.PathMatcher) (func(path string) bool, error) {
	p, ok := m.GetRule().(*matcherv3.PathMatcher_Path)
	if !ok {
		return nil, fmt.Errorf("path matcher: rule %T is not supported", m.GetRule())
	}
	f, err := Compile(p.Path)
	if err != nil {
		return nil, fmt.Errorf("path matcher: %w", err)
	}
	return func(path string) bool { return f(WithoutQuery(path)) }, nil
}

// WithoutQuery returns path up to its query or fragment.
func WithoutQuery(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		return path[:i]
	}
	return path
}

// PathExtension compiles a path match extension (envoy.path.match), of which
// there is one: uri_template. The function gets the value of :path.
func PathExtension(c *corev3.TypedExtensionConfig) (func(path string) bool, error) {
	var t uritemplatev3.UriTemplateMatchConfig
	if !c.GetTypedConfig().MessageIs(&t) {
		return nil, fmt.Errorf("path match extension %q (%s) is not supported", c.GetName(), c.GetTypedConfig().GetTypeUrl())
	}
	if err := c.GetTypedConfig().UnmarshalTo(&t); err != nil {
		return nil, fmt.Errorf("path match extension %q: %w", c.GetName(), err)
	}
	return Template(t.GetPathTemplate())
}

// pchar is the set of RFC 3986 path characters that a template may use
// literally: all but "*" and "=", which templates use themselves.
const pchar = `a-zA-Z0-9\-._~%!$&'()+,;:@`

const (
	maxVariables    = 5
	maxVariableName = 16
)

// Template compiles an Envoy URI template: segments separated by slashes, each
// a literal, "*" (one segment, not empty), "**" (the rest, possibly empty), or
// "{name}" and "{name=pattern}". Only literals may follow a "**", and the last
// segment may be an operator or variable with a literal suffix. The function
// gets the value of :path; query and fragment are cut off before matching.
func Template(template string) (func(path string) bool, error) {
	t := templateParser{names: map[string]bool{}}
	expr, err := t.parse(template)
	if err != nil {
		return nil, fmt.Errorf("uri template %q: %w", template, err)
	}
	re, err := fullRegexp(expr)
	if err != nil {
		return nil, fmt.Errorf("uri template %q: %w", template, err)
	}
	return func(path string) bool { return re.MatchString(WithoutQuery(path)) }, nil
}
