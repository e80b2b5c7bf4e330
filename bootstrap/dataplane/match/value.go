package match

import (
	"fmt"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// Lookup returns the value that filter stored under path in a request's dynamic
// metadata, and whether there is one. Values have the types that
// structpb.Value.AsInterface returns (nil, bool, float64, string, []any,
// map[string]any), or are []string or *structpb.Value.
type Lookup func(filter string, path []string) (any, bool)

// Metadata compiles m. What is looked for is the value at m.Path in the
// metadata of filter m.Filter; a value that is absent satisfies no value
// matcher, so that with invert it matches.
func Metadata(m *matcherv3.MetadataMatcher) (func(Lookup) bool, error) {
	filter := m.GetFilter()
	if filter == "" {
		return nil, fmt.Errorf("metadata matcher: filter must not be empty")
	}
	if len(m.GetPath()) == 0 {
		return nil, fmt.Errorf("metadata matcher %q: path must not be empty", filter)
	}
	path := make([]string, len(m.GetPath()))
	for i, s := range m.GetPath() {
		key, ok := s.GetSegment().(*matcherv3.MetadataMatcher_PathSegment_Key)
		if !ok {
			return nil, fmt.Errorf("metadata matcher %q: path segment %T is not supported", filter, s.GetSegment())
		}
		path[i] = key.Key
	}
	value, err := Value(m.GetValue())
	if err != nil {
		return nil, fmt.Errorf("metadata matcher %q: %w", filter, err)
	}
	invert := m.GetInvert()
	return func(look Lookup) bool {
		v, ok := look(filter, path)
		return (ok && value(v)) != invert
	}, nil
}

// Value compiles m for values of the types that Lookup names.
func Value(m *matcherv3.ValueMatcher) (func(any) bool, error) {
	f, err := compileValue(m)
	if err != nil {
		return nil, fmt.Errorf("value matcher: %w", err)
	}
	return func(v any) bool {
		if p, ok := v.(*structpb.Value); ok {
			v = p.AsInterface()
		}
		return f(v)
	}, nil
}

func compileValue(m *matcherv3.ValueMatcher) (func(any) bool, error) {
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.ValueMatcher_NullMatch_:
		return func(v any) bool { return v == nil }, nil
	case *matcherv3.ValueMatcher_BoolMatch:
		return func(v any) bool { b, ok := v.(bool); return ok && b == p.BoolMatch }, nil
	case *matcherv3.ValueMatcher_PresentMatch:
		return func(any) bool { return p.PresentMatch }, nil
	case *matcherv3.ValueMatcher_StringMatch:
		f, err := Compile(p.StringMatch)
		if err != nil {
			return nil, err
		}
		return func(v any) bool { s, ok := v.(string); return ok && f(s) }, nil
	case *matcherv3.ValueMatcher_DoubleMatch:
		f, err := double(p.DoubleMatch)
		if err != nil {
			return nil, err
		}
		return func(v any) bool { n, ok := v.(float64); return ok && f(n) }, nil
	case *matcherv3.ValueMatcher_ListMatch:
		return list(p.ListMatch)
	case *matcherv3.ValueMatcher_OrMatch:
		return or(p.OrMatch.GetValueMatchers())
	case nil:
		return nil, fmt.Errorf("match_pattern is not set")
	default:
		return nil, fmt.Errorf("match_pattern %T is not supported", p)
	}
}

func double(m *matcherv3.DoubleMatcher) (func(float64) bool, error) {
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.DoubleMatcher_Exact:
		return func(n float64) bool { return n == p.Exact }, nil
	case *matcherv3.DoubleMatcher_Range:
		start, end := p.Range.GetStart(), p.Range.GetEnd()
		return func(n float64) bool { return start <= n && n < end }, nil
	default:
		return nil, fmt.Errorf("double_match: match_pattern %T is not supported", p)
	}
}

func list(m *matcherv3.ListMatcher) (func(any) bool, error) {
	p, ok := m.GetMatchPattern().(*matcherv3.ListMatcher_OneOf)
	if !ok {
		return nil, fmt.Errorf("list_match: match_pattern %T is not supported", m.GetMatchPattern())
	}
	one, err := compileValue(p.OneOf)
	if err != nil {
		return nil, fmt.Errorf("list_match: %w", err)
	}
	return func(v any) bool {
		switch l := v.(type) {
		case []any:
			for _, e := range l {
				if one(e) {
					return true
				}
			}
		case []string:
			for _, e := range l {
				if one(e) {
					return true
				}
			}
		}
		return false
	}, nil
}

func or(ms []*matcherv3.ValueMatcher) (func(any) bool, error) {
	if len(ms) < 2 {
		return nil, fmt.Errorf("or_match: value_matchers needs two or more")
	}
	fs := make([]func(any) bool, len(ms))
	for i, m := range ms {
		f, err := compileValue(m)
		if err != nil {
			return nil, fmt.Errorf("or_match: %w", err)
		}
		fs[i] = f
	}
	return func(v any) bool {
		for _, f := range fs {
			if f(v) {
				return true
			}
		}
		return false
	}, nil
}
