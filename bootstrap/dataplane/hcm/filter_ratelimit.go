package hcm

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/ratelimit"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// localLimit is a local rate limit of a filter or of a route, with its buckets.
type localLimit struct {
	set         *ratelimit.Settings
	shared      *ratelimit.Limiter
	perConn     bool
	conns       sync.Map // *network.Conn to *ratelimit.Limiter, where perConn
	enabled     func() bool
	enforced    func() bool
	status      int
	exhausted   bool // gRPC clients read RESOURCE_EXHAUSTED and not UNAVAILABLE
	respAdd     []headerAdd
	reqAdd      []headerAdd
	stage       uint32
	own         []rateLimit // describe requests in place of the route's
	vhost       commonv3.VhRateLimitsOptions
	showHeaders bool
	statPrefix  string
}

const localLimitFields = "stat_prefix status token_bucket filter_enabled filter_enforced " +
	"request_headers_to_add_when_not_enforced response_headers_to_add descriptors stage " +
	"local_rate_limit_per_downstream_connection enable_x_ratelimit_headers vh_rate_limits " +
	"always_consume_default_token_bucket rate_limited_as_resource_exhausted rate_limits max_dynamic_descriptors"

func compileLocalLimit(p *limitv3.LocalRateLimit) (*localLimit, error) {
	if err := fields.Check(p, localLimitFields); err != nil {
		return nil, err
	}
	if p.GetStatPrefix() == "" {
		return nil, errors.New("stat_prefix must not be empty")
	}
	out := &localLimit{
		perConn: p.GetLocalRateLimitPerDownstreamConnection(), enabled: runtimeCoin(p.GetFilterEnabled(), false),
		enforced: runtimeCoin(p.GetFilterEnforced(), false), status: http.StatusTooManyRequests,
		exhausted: p.GetRateLimitedAsResourceExhausted(), stage: p.GetStage(), vhost: p.GetVhRateLimits(),
		showHeaders: p.GetEnableXRatelimitHeaders() == commonv3.XRateLimitHeadersRFCVersion_DRAFT_VERSION_03,
		statPrefix:  p.GetStatPrefix(),
	}
	if c := int(p.GetStatus().GetCode()); c >= http.StatusBadRequest {
		out.status = c
	}
	always := p.GetAlwaysConsumeDefaultTokenBucket()
	var err error
	if out.set, err = ratelimit.Compile(p.GetTokenBucket(), p.GetDescriptors(), always == nil || always.GetValue(),
		int(p.GetMaxDynamicDescriptors().GetValue())); err != nil {
		return nil, err
	}
	out.shared = out.set.New(time.Now())
	if out.respAdd, err = compileAdds(p.GetResponseHeadersToAdd()); err != nil {
		return nil, err
	}
	if out.reqAdd, err = compileAdds(p.GetRequestHeadersToAddWhenNotEnforced()); err != nil {
		return nil, err
	}
	out.own, err = compileRateLimits(p.GetRateLimits())
	return out, err
}

// limitCounters are the counters of a limit, under its own stat prefix.
type limitCounters struct{ enabled, enforced, ok, limited *stats.Counter }

func newLimitCounters(m *Manager, prefix string) *limitCounters {
	sc := stats.Scope{Name: prefix + ".http_local_rate_limit", Family: "envoy_http_local_rate_limit"}
	sc.Labels = stats.Label("local_http_ratelimit_prefix", prefix)
	count := func(what string) *stats.Counter { return m.env.Stats.Counter(sc, what) }
	return &limitCounters{count("enabled"), count("enforced"), count("ok"), count("rate_limited")}
}

// newLocalRateLimit refuses requests for which there is no token left with 429.
func newLocalRateLimit(m *Manager, name string, body *anypb.Any) (filter, error) {
	p := &limitv3.LocalRateLimit{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	base, err := compileLocalLimit(p)
	if err != nil {
		return filter{}, err
	}
	own := newLimitCounters(m, base.statPrefix)
	return filter{name: name, request: func(s *Stream) *reply {
		switch c := s.perFilter(name).(type) {
		case disabledPerRoute:
			return nil
		case *localLimit:
			if c.statPrefix == base.statPrefix {
				return c.request(s, own)
			}
			return c.request(s, newLimitCounters(m, c.statPrefix))
		}
		return base.request(s, own)
	}}, nil
}

func localRateLimitPerRoute(body *anypb.Any) (any, error) {
	p := &limitv3.LocalRateLimit{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	if p.GetTokenBucket() == nil {
		return nil, errors.New("local rate limit token bucket must be set for per filter configs")
	}
	return compileLocalLimit(p)
}

func (l *localLimit) request(s *Stream, n *limitCounters) *reply {
	if !l.set.Limited() || !l.enabled() {
		return nil
	}
	n.enabled.Inc()
	now := time.Now()
	allowed, bucket := l.limiter(s.conn, now).Allow(now, l.describe(s))
	if l.showHeaders && bucket != nil {
		level := bucket.Level(now)
		s.atResponse(func(h http.Header) { showLevel(h, level) })
	}
	if allowed {
		n.ok.Inc()
		return nil
	}
	n.limited.Inc()
	if !l.enforced() {
		addAll(l.reqAdd, s, s.req.Header)
		return nil
	}
	n.enforced.Inc()
	rep := &reply{
		status: l.status, body: "local_rate_limited", header: http.Header{"X-Envoy-Ratelimited": {"true"}},
		flags: accesslog.RateLimited, details: "local_rate_limited",
	}
	addAll(l.respAdd, s, rep.header)
	if l.exhausted {
		rep.grpc = "8"
	}
	return rep
}

func showLevel(h http.Header, l ratelimit.Level) {
	h["X-Ratelimit-Limit"] = []string{strconv.FormatUint(uint64(l.Limit), 10)}
	h["X-Ratelimit-Remaining"] = []string{strconv.FormatUint(uint64(l.Remaining), 10)}
	h["X-Ratelimit-Reset"] = []string{strconv.FormatUint(l.Reset, 10)}
}

// limiter returns the buckets that count for a connection.
func (l *localLimit) limiter(c *network.Conn, now time.Time) *ratelimit.Limiter {
	if !l.perConn {
		return l.shared
	}
	if own, ok := l.conns.Load(c); ok {
		return own.(*ratelimit.Limiter)
	}
	own, there := l.conns.LoadOrStore(c, l.set.New(now))
	if !there {
		c.OnClose(func() { l.conns.Delete(c) })
	}
	return own.(*ratelimit.Limiter)
}

// describe makes the descriptors of a request: by the filter's own rules, else by those of its route and virtual host.
func (l *localLimit) describe(s *Stream) []ratelimit.Descriptor {
	if len(l.own) > 0 {
		return describe(s, l.own, nil, 0)
	}
	return describeRoute(s, l.vhost, l.stage)
}
