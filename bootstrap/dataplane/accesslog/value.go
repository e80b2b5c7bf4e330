package accesslog

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
)

func valueOperators() {
	for name, source := range map[string]MetadataSource{
		"DYNAMIC_METADATA":  Dynamic,
		"CLUSTER_METADATA":  Cluster,
		"UPSTREAM_METADATA": UpstreamHost,
	} {
		operators[name] = definition{argument: required, length: true, build: func(arg string) (*operator, error) {
			return metadataOperator(source, arg)
		}}
	}
	operators["METADATA"] = definition{argument: required, length: true, build: func(arg string) (*operator, error) {
		kind, rest, _ := strings.Cut(arg, ":")
		source, ok := sources[kind]
		if !ok {
			return nil, fmt.Errorf("metadata type %q is not supported", kind)
		}
		return metadataOperator(source, rest)
	}}
	operators["FILTER_STATE"] = definition{argument: required, length: true, build: filterState}
}

var sources = map[string]MetadataSource{
	"DYNAMIC":               Dynamic,
	"CLUSTER":               Cluster,
	"ROUTE":                 Route,
	"UPSTREAM_HOST":         UpstreamHost,
	"LISTENER":              ListenerMetadata,
	"LISTENER_FILTER_CHAIN": ListenerFilterChain,
	"VIRTUAL_HOST":          VirtualHost,
}

// metadataOperator is NAMESPACE or NAMESPACE:KEY:KEY...
func metadataOperator(source MetadataSource, arg string) (*operator, error) {
	parts := strings.Split(arg, ":")
	if parts[0] == "" {
		return nil, fmt.Errorf("argument %q names no metadata", arg)
	}
	filter, path := parts[0], parts[1:]
	return &operator{value: func(e *Entry) (any, bool) {
		if e.Metadata == nil {
			return nil, false
		}
		v, ok := e.Metadata(source, filter, path)
		return plainValue(v), ok
	}}, nil
}

// filterState is KEY, KEY:PLAIN, KEY:TYPED or KEY:FIELD:NAME.
func filterState(arg string) (*operator, error) {
	parts := strings.Split(arg, ":")
	key := parts[0]
	get := func(e *Entry) (any, bool) {
		if e.FilterState == nil {
			return nil, false
		}
		v, ok := e.FilterState(key)
		return plainValue(v), ok
	}
	how := ""
	if len(parts) > 1 {
		how = parts[1]
	}
	switch {
	case key == "":
		return nil, fmt.Errorf("argument %q has no key", arg)
	case how == "FIELD" && len(parts) == 3 && parts[2] != "":
		return &operator{value: func(e *Entry) (any, bool) {
			v, _ := get(e)
			m, _ := v.(map[string]any)
			f, ok := m[parts[2]]
			return f, ok
		}}, nil
	case len(parts) > 2:
		return nil, fmt.Errorf("argument %q: want KEY:PLAIN, KEY:TYPED or KEY:FIELD:NAME", arg)
	case how == "PLAIN":
		return &operator{value: get}, nil
	case how == "" || how == "TYPED":
		return &operator{value: get, quote: true}, nil
	default:
		return nil, fmt.Errorf("argument %q: want PLAIN, TYPED or FIELD, not %q", arg, how)
	}
}

// plainValue takes protobuf's wrapping off a value.
func plainValue(v any) any {
	switch v := v.(type) {
	case *structpb.Value:
		return v.AsInterface()
	case *structpb.Struct:
		return v.AsMap()
	default:
		return v
	}
}

// appendValue appends v as JSON, keys sorted.
func appendValue(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		if v {
			return append(dst, "true"...)
		}
		return append(dst, "false"...)
	case float64:
		return appendNumber(dst, v)
	case string:
		return appendString(dst, v)
	case []string:
		dst = append(dst, '[')
		for i, s := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendString(dst, s)
		}
		return append(dst, ']')
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendValue(dst, e)
		}
		return append(dst, ']')
	case map[string]any:
		dst = append(dst, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, k), ':')
			dst = appendValue(dst, v[k])
		}
		return append(dst, '}')
	case *structpb.Value, *structpb.Struct:
		return appendValue(dst, plainValue(v))
	default:
		return appendString(dst, fmt.Sprint(v))
	}
}
