package hcm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/ratelimit"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/rpc"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

const (
	shouldRateLimit    = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
	globalLimitTimeout = 20 * time.Millisecond
)

// globalLimit asks a rate limit service about requests.
type globalLimit struct {
	name        string
	domain      string
	stage       uint32
	kind        string // of requests: "internal", "external", or any
	timeout     time.Duration
	deny        bool // refuse where the service does not answer
	errorStatus int
	status      int
	exhausted   bool
	quiet       bool // no x-envoy-ratelimited
	showHeaders bool
	respAdd     []headerAdd
	service     *rpc.Service

	ok, over, failed, allowed *stats.Counter
}

// globalLimitRoute is what a route changes.
type globalLimitRoute struct {
	vhost  limitv3.RateLimitPerRoute_VhRateLimitsOptions
	own    []rateLimit
	domain string
}

const globalLimitFields = "domain stage request_type timeout failure_mode_deny rate_limited_as_resource_exhausted rate_limit_service " +
	"enable_x_ratelimit_headers disable_x_envoy_ratelimited_header rate_limited_status response_headers_to_add status_on_error stat_prefix"

func newGlobalLimit(m *Manager, name string, body *anypb.Any) (filter, error) {
	p := &limitv3.RateLimit{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	if err := fields.Check(p, globalLimitFields); err != nil {
		return filter{}, err
	}
	if err := fields.Check(p.GetRateLimitService(), "grpc_service transport_api_version"); err != nil {
		return filter{}, err
	}
	if p.GetDomain() == "" {
		return filter{}, errors.New("domain must not be empty")
	}
	g := &globalLimit{
		name: name, domain: p.GetDomain(), stage: p.GetStage(), kind: p.GetRequestType(), timeout: globalLimitTimeout,
		deny: p.GetFailureModeDeny(), errorStatus: http.StatusInternalServerError, status: http.StatusTooManyRequests,
		exhausted: p.GetRateLimitedAsResourceExhausted(), quiet: p.GetDisableXEnvoyRatelimitedHeader(),
		showHeaders: p.GetEnableXRatelimitHeaders() == limitv3.RateLimit_DRAFT_VERSION_03,
	}
	if d := p.GetTimeout(); d != nil {
		g.timeout = d.AsDuration()
	}
	if c := int(p.GetRateLimitedStatus().GetCode()); c >= http.StatusBadRequest {
		g.status = c
	}
	if c := int(p.GetStatusOnError().GetCode()); c != 0 {
		g.errorStatus = c
	}
	var err error
	if g.respAdd, err = compileAdds(p.GetResponseHeadersToAdd()); err != nil {
		return filter{}, err
	}
	if g.service, err = rpc.Compile(p.GetRateLimitService().GetGrpcService(), m.env.Clusters); err != nil {
		return filter{}, err
	}
	scope := "http." + m.name + ".ratelimit"
	if p.GetStatPrefix() != "" {
		scope += "." + p.GetStatPrefix()
	}
	sc := stats.Scope{Name: scope, Family: "envoy_http_ratelimit", Labels: stats.Label("http_conn_manager_prefix", m.name)}
	count := func(what string) *stats.Counter { return m.env.Stats.Counter(sc, what) }
	g.ok, g.over, g.failed, g.allowed = count("ok"), count("over_limit"), count("error"), count("failure_mode_allowed")
	return filter{name: name, request: g.request}, nil
}

func (g *globalLimit) request(s *Stream) *reply {
	if g.kind == "internal" && s.edge || g.kind == "external" && !s.edge {
		return nil
	}
	r, _ := s.perFilter(g.name).(*globalLimitRoute)
	ds := g.describe(s, r)
	if len(ds) == 0 {
		return nil
	}
	req := &rlsv3.RateLimitRequest{Domain: g.domain}
	if r != nil && r.domain != "" {
		req.Domain = r.domain
	}
	for _, d := range ds {
		one := &commonv3.RateLimitDescriptor{}
		for _, e := range d {
			one.Entries = append(one.Entries, &commonv3.RateLimitDescriptor_Entry{Key: e.Key, Value: e.Value})
		}
		req.Descriptors = append(req.Descriptors, one)
	}
	ctx := s.ctx
	if g.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, g.timeout)
		defer cancel()
	}
	resp := &rlsv3.RateLimitResponse{}
	if err := g.service.Call(ctx, shouldRateLimit, req, resp); err != nil || resp.GetOverallCode() == rlsv3.RateLimitResponse_UNKNOWN {
		return g.unanswered(s)
	}
	for key, v := range resp.GetDynamicMetadata().AsMap() {
		s.setMetadata("envoy.filters.http.ratelimit", key, v)
	}
	if g.showHeaders {
		if h := tightest(resp.GetStatuses()); h != nil {
			s.atResponse(func(to http.Header) { copyInto(to, h) })
		}
	}
	if resp.GetOverallCode() == rlsv3.RateLimitResponse_OVER_LIMIT {
		g.over.Inc()
		return g.refuse(s, resp)
	}
	g.ok.Inc()
	for _, h := range resp.GetRequestHeadersToAdd() {
		s.req.Header.Add(h.GetKey(), headerText(h))
	}
	if add := resp.GetResponseHeadersToAdd(); len(add) > 0 {
		s.atResponse(func(to http.Header) {
			for _, h := range add {
				to.Add(h.GetKey(), headerText(h))
			}
		})
	}
	return nil
}

func (g *globalLimit) refuse(s *Stream, resp *rlsv3.RateLimitResponse) *reply {
	rep := &reply{
		status: g.status, body: string(resp.GetRawBody()), header: http.Header{}, flags: accesslog.RateLimited,
		details: "request_rate_limited",
	}
	for _, h := range resp.GetResponseHeadersToAdd() {
		rep.header.Add(h.GetKey(), headerText(h))
	}
	if !g.quiet {
		rep.header["X-Envoy-Ratelimited"] = []string{"true"}
	}
	addAll(g.respAdd, s, rep.header)
	if g.exhausted {
		rep.grpc = "8"
	}
	return rep
}

func (g *globalLimit) unanswered(s *Stream) *reply {
	if s.ctx.Err() != nil {
		return &reply{flags: accesslog.DownstreamConnectionTermination, details: "downstream_remote_disconnect"}
	}
	g.failed.Inc()
	if g.deny {
		return &reply{status: g.errorStatus, flags: accesslog.RateLimitServiceError, details: "rate_limiter_error"}
	}
	g.allowed.Inc()
	return nil
}

// describe makes the descriptors of a request as its route, its virtual host and what the route says about the filter
// want them.
func (g *globalLimit) describe(s *Stream, r *globalLimitRoute) []ratelimit.Descriptor {
	if r != nil && len(r.own) > 0 {
		return describe(s, r.own, nil, 0)
	}
	mode := commonv3.VhRateLimitsOptions_OVERRIDE
	if r != nil {
		mode = commonv3.VhRateLimitsOptions(r.vhost) // the same options under the same numbers
	}
	return describeRoute(s, mode, g.stage)
}

// tightest shows the limit that is closest to its end, and all limits that there are.
func tightest(list []*rlsv3.RateLimitResponse_DescriptorStatus) http.Header {
	var least *rlsv3.RateLimitResponse_DescriptorStatus
	var policies strings.Builder
	for _, st := range list {
		l := st.GetCurrentLimit()
		if l == nil {
			continue
		}
		if least == nil || st.GetLimitRemaining() < least.GetLimitRemaining() {
			least = st
		}
		fmt.Fprintf(&policies, ", %d", l.GetRequestsPerUnit())
		if w := windows[l.GetUnit()]; w > 0 {
			fmt.Fprintf(&policies, ";w=%d", w)
		}
		if l.GetName() != "" {
			fmt.Fprintf(&policies, ";name=%q", l.GetName())
		}
	}
	if least == nil {
		return nil
	}
	return http.Header{
		"X-Ratelimit-Limit":     {strconv.FormatUint(uint64(least.GetCurrentLimit().GetRequestsPerUnit()), 10) + policies.String()},
		"X-Ratelimit-Remaining": {strconv.FormatUint(uint64(least.GetLimitRemaining()), 10)},
		"X-Ratelimit-Reset":     {strconv.FormatInt(least.GetDurationUntilReset().GetSeconds(), 10)},
	}
}

// windows are the lengths of units in seconds.
var windows = map[rlsv3.RateLimitResponse_RateLimit_Unit]int{
	rlsv3.RateLimitResponse_RateLimit_SECOND: 1, rlsv3.RateLimitResponse_RateLimit_MINUTE: 60,
	rlsv3.RateLimitResponse_RateLimit_HOUR: 3600, rlsv3.RateLimitResponse_RateLimit_DAY: 24 * 3600,
	rlsv3.RateLimitResponse_RateLimit_WEEK: 7 * 24 * 3600, rlsv3.RateLimitResponse_RateLimit_MONTH: 30 * 24 * 3600,
	rlsv3.RateLimitResponse_RateLimit_YEAR: 365 * 24 * 3600,
}

func copyInto(to, from http.Header) {
	for k, v := range from {
		to[k] = v
	}
}

func headerText(h *corev3.HeaderValue) string {
	if raw := h.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return h.GetValue()
}

func globalLimitPerRoute(body *anypb.Any) (any, error) {
	p := &limitv3.RateLimitPerRoute{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	if err := fields.Check(p, "vh_rate_limits rate_limits domain"); err != nil {
		return nil, err
	}
	out := &globalLimitRoute{vhost: p.GetVhRateLimits(), domain: p.GetDomain()}
	var err error
	out.own, err = compileRateLimits(p.GetRateLimits())
	return out, err
}
