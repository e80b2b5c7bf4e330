package rbac

import (
	"fmt"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// The rules that permissions and principals have in common.

func matchAny(set bool) (predicate, error) {
	if !set {
		return nil, fmt.Errorf("any must be true")
	}
	return always, nil
}

func named(field string, join func([]predicate) predicate, ps []predicate, err error) (predicate, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return join(ps), nil
}

func noRequest(field string) error {
	return fmt.Errorf("%s: a network filter sees no HTTP request", field)
}

func compileHeader(m *routev3.HeaderMatcher, opts Options) (predicate, error) {
	if opts.Network {
		return nil, noRequest("header")
	}
	f, err := match.HeaderEach(m)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	name := strings.ToLower(m.GetName())
	return func(req Request) bool { return f(req.Header(name)) }, nil
}

func compileURLPath(m *matcherv3.PathMatcher, opts Options) (predicate, error) {
	if opts.Network {
		return nil, noRequest("url_path")
	}
	f, err := match.Path(m)
	if err != nil {
		return nil, fmt.Errorf("url_path: %w", err)
	}
	return func(req Request) bool {
		path := req.Path()
		return path != "" && f(path)
	}, nil
}

func compileMetadata(m *matcherv3.MetadataMatcher) (predicate, error) {
	f, err := match.Metadata(m)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return func(req Request) bool { return f(req.Metadata) }, nil
}

func compileSourcedMetadata(m *rbacv3.SourcedMetadata) (predicate, error) {
	if m.GetMetadataSource() != rbacv3.MetadataSource_DYNAMIC {
		return nil, fmt.Errorf("sourced_metadata: metadata_source %v is not supported", m.GetMetadataSource())
	}
	p, err := compileMetadata(m.GetMetadataMatcher())
	if err != nil {
		return nil, fmt.Errorf("sourced_metadata: %w", err)
	}
	return p, nil
}
