package hcm

import (
	"errors"
	"fmt"
	"net/http"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

// filter is one compiled HTTP filter; each hook may be nil. Filters keep no state of their own between hooks: what
// belongs to a request is on the Stream.
type filter struct {
	name     string
	request  func(*Stream) *reply // a reply ends the request here
	response func(s *Stream, status int, h http.Header)
	done     func(*Stream) // the request is over
}

// factory compiles a filter. body is the configuration, a TypedStruct only for types that are not linked in.
type factory func(m *Manager, name string, body *anypb.Any) (filter, error)

// factories by type URL. A type that registry lists as ignored has a factory that does nothing.
var factories map[string]factory

// perRoute compiles a route's configuration of a filter, by the type URL of that configuration.
var perRoute map[string]func(*anypb.Any) (any, error)

// Filters are entered here, not in init functions of their own, so that the table can be read in one place.
func init() {
	factories = map[string]factory{
		registry.Router:       newRouter,
		registry.HTTPRBAC:     newRBAC,
		registry.PeerMetadata: newPeerMetadata,
		registry.GRPCStats:    newGRPCStats,
		registry.Compressor:   ignored,
		registry.ALPN:         newALPN,
		registry.Fault:        newFault,
		registry.CORS:         newCORS,
		registry.IstioStats:   newStats,

		registry.HeaderMutation:  newHeaderMutation,
		registry.GRPCWeb:         newGRPCWeb,
		registry.StatefulSession: newSession,
		registry.DynamicForward:  newDynamic,

		registry.JWTAuthn:           newJWT,
		registry.HTTPExtAuthz:       newExtAuthz,
		registry.HTTPLocalRateLimit: newLocalRateLimit,
		registry.HTTPRateLimit:      newGlobalLimit,
	}
	perRoute = map[string]func(*anypb.Any) (any, error){
		registry.HTTPRBACPerRoute: rbacPerRoute,
		registry.Fault:            faultPerRoute,
		registry.CORSPolicy:       corsPerRoute,

		registry.HeaderMutationPerRoute:  headerMutationPerRoute,
		registry.StatefulSessionPerRoute: sessionPerRoute,

		registry.JWTPerRoute:        jwtPerRoute,
		registry.ExtAuthzPerRoute:   extAuthzPerRoute,
		registry.HTTPLocalRateLimit: localRateLimitPerRoute,
		registry.RateLimitPerRoute:  globalLimitPerRoute,
	}
}

func ignored(_ *Manager, name string, _ *anypb.Any) (filter, error) { return filter{name: name}, nil }

func (m *Manager) setFilters(p *hcmv3.HttpConnectionManager) error {
	list := p.GetHttpFilters()
	for i, f := range list {
		if err := fields.Check(f, "name typed_config is_optional disabled"); err != nil {
			return err
		}
		url := registry.InnerType(f.GetTypedConfig())
		make, ok := factories[url]
		if !ok {
			if f.GetIsOptional() {
				continue
			}
			return fields.UnsupportedType("http filter", f.GetName(), url)
		}
		if (url == registry.Router) != (i == len(list)-1) {
			return fmt.Errorf("http filter %q: the router has to be the last filter, and only there", f.GetName())
		}
		body, err := registry.Plain(f.GetTypedConfig())
		if err != nil {
			return fmt.Errorf("http filter %q: %w", f.GetName(), err)
		}
		c, err := make(m, f.GetName(), body)
		if err != nil {
			return fmt.Errorf("http filter %q: %w", f.GetName(), err)
		}
		if f.GetDisabled() {
			m.disabled |= 1 << len(m.filters)
		}
		m.filters = append(m.filters, c)
	}
	if len(m.filters) > 64 {
		return errors.New("more than 64 http filters")
	}
	return nil
}

// disabledPerRoute is the compiled form of a route configuration that switches a filter off.
type disabledPerRoute struct{}

// enabledPerRoute is that of one that only switches it on.
type enabledPerRoute struct{}

const filterConfig = "type.googleapis.com/envoy.config.route.v3.FilterConfig"

func compilePerFilter(in map[string]*anypb.Any) (map[string]any, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make(map[string]any, len(in))
	for name, body := range in {
		if body.GetTypeUrl() == filterConfig {
			fc := &routev3.FilterConfig{}
			if err := body.UnmarshalTo(fc); err != nil {
				return nil, err
			}
			if fc.GetDisabled() {
				out[name] = disabledPerRoute{}
				continue
			}
			if body = fc.GetConfig(); body == nil {
				return nil, fmt.Errorf("empty per filter configuration for %q", name)
			}
			if _, ok := perRoute[body.GetTypeUrl()]; body.GetTypeUrl() == "" || !ok && fc.GetIsOptional() {
				out[name] = enabledPerRoute{}
				continue
			}
		}
		body, err := registry.Plain(body)
		if err != nil {
			return nil, fmt.Errorf("route configuration of filter %q: %w", name, err)
		}
		compile, ok := perRoute[body.GetTypeUrl()]
		if !ok {
			return nil, fields.UnsupportedType("route configuration of filter", name, body.GetTypeUrl())
		}
		c, err := compile(body)
		if err != nil {
			return nil, fmt.Errorf("route configuration of filter %q: %w", name, err)
		}
		out[name] = c
	}
	return out, nil
}
