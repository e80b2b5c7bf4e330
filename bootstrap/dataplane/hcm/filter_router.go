package hcm

import (
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// newRouter reads the router's options; forwarding itself is Stream.forward.
func newRouter(m *Manager, name string, body *anypb.Any) (filter, error) {
	p := &routerv3.Router{}
	if body != nil {
		if err := body.UnmarshalTo(p); err != nil {
			return filter{}, err
		}
	}
	if err := fields.Check(p, "dynamic_stats start_child_span suppress_envoy_headers respect_expected_rq_timeout"); err != nil {
		return filter{}, err
	}
	m.childSpans = p.GetStartChildSpan() //nolint:staticcheck // deprecated, still sent
	m.suppressHeaders, m.respectExpected = p.GetSuppressEnvoyHeaders(), p.GetRespectExpectedRqTimeout()
	return filter{name: name}, nil
}
