package hcm

import (
	"errors"
	"net/http"

	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// newDynamic finds the address of the host that a request names, where the request goes to a cluster that takes any.
func newDynamic(_ *Manager, name string, body *anypb.Any) (filter, error) {
	p := &dfpv3.FilterConfig{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	if err := fields.Check(p, "dns_cache_config"); err != nil {
		return filter{}, err
	}
	if err := cluster.CheckCache(p.GetDnsCacheConfig()); err != nil {
		return filter{}, err
	}
	return filter{name: name, request: func(s *Stream) *reply {
		if s.cluster == nil || s.cluster.Kind != cluster.Dynamic {
			return nil
		}
		key, err := s.cluster.Resolve(s.ctx, s.authority)
		switch {
		case errors.Is(err, cluster.ErrTooMany):
			return &reply{
				status: http.StatusServiceUnavailable, body: "DNS cache overflow", flags: accesslog.UpstreamOverflow, details: "dns_cache_overflow",
			}
		case err != nil:
			return &reply{
				status: http.StatusServiceUnavailable, body: "DNS resolution failure", flags: accesslog.DNSResolutionFailed,
				details: "dns_resolution_failure",
			}
		}
		s.dynamic = key
		return nil
	}}, nil
}
