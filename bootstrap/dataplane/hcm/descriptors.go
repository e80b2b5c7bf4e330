package hcm

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/ratelimit"
)

// rateLimit makes one descriptor of a request.
type rateLimit struct {
	stage   uint32
	actions []limitAction
}

// limitAction adds an entry to a descriptor. Without ok there is no descriptor; an entry without key is left out.
type limitAction func(*Stream) (e ratelimit.Entry, ok bool)

// compileRateLimits translates the rate limits of a route, virtual host or filter.
func compileRateLimits(list []*routev3.RateLimit) ([]rateLimit, error) {
	var out []rateLimit
	for _, p := range list {
		// disable_key: there is no runtime that could set it.
		if err := fields.Check(p, "stage disable_key actions"); err != nil {
			return nil, err
		}
		one := rateLimit{stage: p.GetStage().GetValue()}
		for _, a := range p.GetActions() {
			f, err := compileLimitAction(a)
			if err != nil {
				return nil, fmt.Errorf("rate_limits: %w", err)
			}
			one.actions = append(one.actions, f)
		}
		out = append(out, one)
	}
	return out, nil
}

// describeRoute makes the descriptors of a stage as the request's route wants them, and as its virtual host does where
// the route or vhost says so; OVERRIDE is for routes that have none of their own.
func describeRoute(s *Stream, vhost commonv3.VhRateLimitsOptions, stage uint32) []ratelimit.Descriptor {
	if s.route == nil {
		return nil
	}
	var ofRoute, ofHost []rateLimit
	include := false
	if s.route.forward != nil {
		ofRoute, include = s.route.forward.limits, s.route.forward.vhostLimits
	}
	switch vhost {
	case commonv3.VhRateLimitsOptions_INCLUDE:
		include = true
	case commonv3.VhRateLimitsOptions_OVERRIDE:
		include = include || len(ofRoute) == 0
	default:
	}
	if include {
		ofHost = s.route.vhost.limits
	}
	return describe(s, ofRoute, ofHost, stage)
}

// describe makes the descriptors of a stage.
func describe(s *Stream, route, host []rateLimit, stage uint32) []ratelimit.Descriptor {
	var out []ratelimit.Descriptor
	for _, list := range [2][]rateLimit{route, host} {
		for i := range list {
			if list[i].stage != stage {
				continue
			}
			if d := list[i].describe(s); len(d) > 0 {
				out = append(out, d)
			}
		}
	}
	return out
}

func (r *rateLimit) describe(s *Stream) ratelimit.Descriptor {
	d := make(ratelimit.Descriptor, 0, len(r.actions))
	for _, a := range r.actions {
		e, ok := a(s)
		if !ok {
			return nil
		}
		if e.Key != "" {
			d = append(d, e)
		}
	}
	return d
}

func compileLimitAction(p *routev3.RateLimit_Action) (limitAction, error) {
	switch a := p.GetActionSpecifier().(type) {
	case *routev3.RateLimit_Action_SourceCluster_:
		return func(s *Stream) (ratelimit.Entry, bool) {
			return ratelimit.Entry{Key: "source_cluster", Value: s.m.env.Node}, true
		}, nil
	case *routev3.RateLimit_Action_DestinationCluster_:
		return func(s *Stream) (ratelimit.Entry, bool) {
			return ratelimit.Entry{Key: "destination_cluster", Value: s.clusterN}, s.clusterN != ""
		}, nil
	case *routev3.RateLimit_Action_RequestHeaders_:
		return headerAction(a.RequestHeaders), nil
	case *routev3.RateLimit_Action_QueryParameters_:
		return queryAction(a.QueryParameters), nil
	case *routev3.RateLimit_Action_RemoteAddress_:
		return func(s *Stream) (ratelimit.Entry, bool) {
			return ratelimit.Entry{Key: "remote_address", Value: s.remote.Addr().String()}, s.remote.IsValid()
		}, nil
	case *routev3.RateLimit_Action_MaskedRemoteAddress_:
		return maskedAction(a.MaskedRemoteAddress), nil
	case *routev3.RateLimit_Action_GenericKey_:
		return genericAction(keyOr(a.GenericKey.GetDescriptorKey(), "generic_key"), a.GenericKey.GetDescriptorValue(), a.GenericKey.GetDefaultValue())
	case *routev3.RateLimit_Action_HeaderValueMatch_:
		return headerMatchAction(a.HeaderValueMatch)
	case *routev3.RateLimit_Action_QueryParameterValueMatch_:
		return queryMatchAction(a.QueryParameterValueMatch)
	case *routev3.RateLimit_Action_Metadata:
		return metadataAction(a.Metadata)
	//nolint:staticcheck // deprecated, still written
	case *routev3.RateLimit_Action_DynamicMetadata:
		return metadataValue(a.DynamicMetadata.GetDescriptorKey(), a.DynamicMetadata.GetDefaultValue(), false,
			a.DynamicMetadata.GetMetadataKey(), (*Stream).Metadata)
	default:
		return nil, fields.Unsupported(p, fmt.Sprintf("action_specifier (%T)", a), "")
	}
}

func keyOr(key, def string) string {
	if key == "" {
		return def
	}
	return key
}

// absent is what an action without a value comes to: the descriptor goes on without it, or there is none.
func absent(skip bool) (ratelimit.Entry, bool) { return ratelimit.Entry{}, skip }

func headerAction(p *routev3.RateLimit_Action_RequestHeaders) limitAction {
	name := strings.ToLower(p.GetHeaderName())
	return func(s *Stream) (ratelimit.Entry, bool) {
		if v := s.headerValues(name); len(v) > 0 && v[0] != "" {
			return ratelimit.Entry{Key: p.GetDescriptorKey(), Value: v[0]}, true
		}
		return absent(p.GetSkipIfAbsent())
	}
}

func queryAction(p *routev3.RateLimit_Action_QueryParameters) limitAction {
	return func(s *Stream) (ratelimit.Entry, bool) {
		_, query := cutPath(s.path)
		if q, err := url.ParseQuery(query); err == nil && q.Get(p.GetQueryParameterName()) != "" {
			return ratelimit.Entry{Key: p.GetDescriptorKey(), Value: q.Get(p.GetQueryParameterName())}, true
		}
		return absent(p.GetSkipIfAbsent())
	}
}

func maskedAction(p *routev3.RateLimit_Action_MaskedRemoteAddress) limitAction {
	v4, v6 := 32, 128
	if n := p.GetV4PrefixMaskLen(); n != nil {
		v4 = int(n.GetValue())
	}
	if n := p.GetV6PrefixMaskLen(); n != nil {
		v6 = int(n.GetValue())
	}
	return func(s *Stream) (ratelimit.Entry, bool) {
		a := s.remote.Addr().Unmap()
		bits := v6
		if a.Is4() {
			bits = v4
		}
		pre := netip.PrefixFrom(a, bits)
		return ratelimit.Entry{Key: "masked_remote_address", Value: pre.Masked().String()}, pre.IsValid()
	}
}

// genericAction gives a fixed entry, or one whose value is formatted from the request.
func genericAction(key, value, def string) (limitAction, error) {
	if !strings.Contains(value, "%") {
		e := ratelimit.Entry{Key: key, Value: value}
		return func(*Stream) (ratelimit.Entry, bool) { return e, true }, nil
	}
	f, err := accesslog.CompileText(value)
	if err != nil {
		return nil, err
	}
	return func(s *Stream) (ratelimit.Entry, bool) {
		v := string(f.Format(s.entry()))
		if v == "" || v == "-" {
			v = def
		}
		return ratelimit.Entry{Key: key, Value: v}, v != ""
	}, nil
}

func headerMatchAction(p *routev3.RateLimit_Action_HeaderValueMatch) (limitAction, error) {
	matches, err := match.Headers(p.GetHeaders())
	if err != nil {
		return nil, err
	}
	value, err := genericAction(keyOr(p.GetDescriptorKey(), "header_match"), p.GetDescriptorValue(), p.GetDefaultValue())
	if err != nil {
		return nil, err
	}
	want := p.GetExpectMatch() == nil || p.GetExpectMatch().GetValue()
	return func(s *Stream) (ratelimit.Entry, bool) {
		if matches(s.headerValues) != want {
			return ratelimit.Entry{}, false
		}
		return value(s)
	}, nil
}

func queryMatchAction(p *routev3.RateLimit_Action_QueryParameterValueMatch) (limitAction, error) {
	var all []func(string) bool
	for _, q := range p.GetQueryParameters() {
		f, err := match.Query(q)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	value, err := genericAction(keyOr(p.GetDescriptorKey(), "query_match"), p.GetDescriptorValue(), p.GetDefaultValue())
	if err != nil {
		return nil, err
	}
	want := p.GetExpectMatch() == nil || p.GetExpectMatch().GetValue()
	return func(s *Stream) (ratelimit.Entry, bool) {
		_, query := cutPath(s.path)
		got := true
		for _, f := range all {
			got = got && f(query)
		}
		if got != want {
			return ratelimit.Entry{}, false
		}
		return value(s)
	}, nil
}

func metadataAction(p *routev3.RateLimit_Action_MetaData) (limitAction, error) {
	of := (*Stream).Metadata
	switch p.GetSource() {
	case routev3.RateLimit_Action_MetaData_DYNAMIC:
	case routev3.RateLimit_Action_MetaData_ROUTE_ENTRY:
		of = func(s *Stream, filter string, path []string) (any, bool) {
			if s.route == nil {
				return nil, false
			}
			return dig(s.route.about.GetFilterMetadata()[filter], path)
		}
	default:
		return nil, fields.Unsupported(p, "source", p.GetSource().String())
	}
	return metadataValue(p.GetDescriptorKey(), p.GetDefaultValue(), p.GetSkipIfAbsent(), p.GetMetadataKey(), of)
}

func metadataValue(
	key, def string, skip bool, at *metadatav3.MetadataKey, of func(*Stream, string, []string) (any, bool),
) (limitAction, error) {
	var path []string
	for _, seg := range at.GetPath() {
		path = append(path, seg.GetKey())
	}
	return func(s *Stream) (ratelimit.Entry, bool) {
		v, _ := of(s, at.GetKey(), path)
		text, _ := v.(string)
		if text == "" {
			text = def
		}
		if text == "" {
			return absent(skip)
		}
		return ratelimit.Entry{Key: key, Value: text}, true
	}, nil
}
