package hcm

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	prioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// retryTerm is one condition of retry_on, or several.
type retryTerm uint32

const (
	on5xx retryTerm = 1 << iota
	onGatewayError
	onReset
	onResetBeforeRequest
	onConnectFailure
	onRefusedStream
	onRetriable4xx
	onStatusCodes
	onHeaders
	onRateLimited
	onHTTP3PostConnect // HTTP/3 is not spoken, so it never comes about
	onCancelled
	onDeadlineExceeded
	onInternal
	onResourceExhausted
	onUnavailable
)

var retryTerms = map[string]retryTerm{
	"5xx": on5xx, "gateway-error": onGatewayError, "reset": onReset, "reset-before-request": onResetBeforeRequest,
	"connect-failure": onConnectFailure, "refused-stream": onRefusedStream, "retriable-4xx": onRetriable4xx,
	"retriable-status-codes": onStatusCodes, "retriable-headers": onHeaders, "envoy-ratelimited": onRateLimited,
	"http3-post-connect-failure": onHTTP3PostConnect, "cancelled": onCancelled, "deadline-exceeded": onDeadlineExceeded,
	"internal": onInternal, "resource-exhausted": onResourceExhausted, "unavailable": onUnavailable,
}

// grpcTerms are the conditions by gRPC status.
var grpcTerms = map[string]retryTerm{
	"1": onCancelled, "4": onDeadlineExceeded, "8": onResourceExhausted, "13": onInternal, "14": onUnavailable,
}

// retryPolicy says which failures are tried again, how often and how soon. It is immutable.
type retryPolicy struct {
	on           retryTerm
	codes        []int
	headers      []headerMatch // any of them in a response
	request      []headerMatch // any of them in the request, where there are some
	max          int
	perTry       time.Duration
	perTryIdle   time.Duration
	backoff      backoff
	avoid        bool // hosts tried already
	priorities   int  // after how many attempts the priorities they went to are left out, 0 for never
	hostAttempts int
}

type headerMatch struct {
	name  string // canonical
	match func([]string) bool
}

const retryFields = "retry_on num_retries per_try_timeout per_try_idle_timeout retriable_status_codes retriable_headers " +
	"retriable_request_headers retry_back_off rate_limited_retry_back_off retry_host_predicate retry_priority " +
	"host_selection_retry_max_attempts"

// compileRetry gives nil for a nil policy.
func compileRetry(p *routev3.RetryPolicy) (*retryPolicy, error) {
	if p == nil {
		return nil, nil
	}
	if err := fields.Check(p, retryFields); err != nil {
		return nil, err
	}
	out := &retryPolicy{
		max: 1, perTry: p.GetPerTryTimeout().AsDuration(), perTryIdle: p.GetPerTryIdleTimeout().AsDuration(),
		hostAttempts: max(int(p.GetHostSelectionRetryMaxAttempts()), 1),
	}
	if n := p.GetNumRetries(); n != nil {
		out.max = int(n.GetValue())
	}
	for _, c := range p.GetRetriableStatusCodes() {
		out.codes = append(out.codes, int(c))
	}
	var bad string
	if out.on, bad = parseTerms(p.GetRetryOn()); bad != "" {
		return nil, fields.Unsupported(p, "retry_on", bad)
	}
	var err error
	if out.headers, err = compileAnyHeader(p.GetRetriableHeaders()); err != nil {
		return nil, err
	}
	if out.request, err = compileAnyHeader(p.GetRetriableRequestHeaders()); err != nil {
		return nil, err
	}
	if out.backoff, err = compileBackoff(p); err != nil {
		return nil, err
	}
	for _, h := range p.GetRetryHostPredicate() {
		if url := h.GetTypedConfig().GetTypeUrl(); url != registry.PreviousHosts {
			return nil, fields.UnsupportedType("retry host predicate", h.GetName(), url)
		}
		out.avoid = true
	}
	if rp := p.GetRetryPriority(); rp != nil {
		if url := rp.GetTypedConfig().GetTypeUrl(); url != registry.PreviousPriorities {
			return nil, fields.UnsupportedType("retry priority", rp.GetName(), url)
		}
		c := &prioritiesv3.PreviousPrioritiesConfig{}
		if err := rp.GetTypedConfig().UnmarshalTo(c); err != nil {
			return nil, err
		}
		if c.GetUpdateFrequency() <= 0 {
			return nil, fmt.Errorf("previous_priorities: update_frequency must be greater than 0")
		}
		out.priorities = int(c.GetUpdateFrequency())
	}
	return out, nil
}

// parseTerms reads a list of conditions. The second result is one that is not known.
func parseTerms(list string) (on retryTerm, unknown string) {
	for term := range strings.SplitSeq(list, ",") {
		if term = strings.TrimSpace(term); term == "" {
			continue
		}
		t := retryTerms[term]
		if t == 0 {
			unknown = term
		}
		on |= t
	}
	return on, unknown
}

func compileAnyHeader(list []*routev3.HeaderMatcher) ([]headerMatch, error) {
	var out []headerMatch
	for _, m := range list {
		f, err := match.Header(m)
		if err != nil {
			return nil, err
		}
		out = append(out, headerMatch{http.CanonicalHeaderKey(m.GetName()), f})
	}
	return out, nil
}

func anyHeader(list []headerMatch, h http.Header) bool {
	for i := range list {
		if list[i].match(h[list[i].name]) {
			return true
		}
	}
	return false
}

// failure reports whether a failed attempt may be tried again.
func (p *retryPolicy) failure(e *upstream.Error) bool {
	if errors.Is(e.Err, cluster.ErrOverflow) {
		return false // more of it would help nobody
	}
	if p.on&(on5xx|onGatewayError|onReset) != 0 {
		return e.Stage != upstream.Cancelled
	}
	switch e.Stage {
	case upstream.Connecting:
		return p.on&(onConnectFailure|onResetBeforeRequest) != 0
	case upstream.Refused:
		return p.on&onRefusedStream != 0
	case upstream.Timeout: // per try
		return p.on&onStatusCodes != 0 && p.code(http.StatusGatewayTimeout)
	}
	return false
}

func (p *retryPolicy) code(c int) bool {
	for _, x := range p.codes {
		if x == c {
			return true
		}
	}
	return false
}

// response reports whether a response may be tried again.
func (p *retryPolicy) response(r *http.Response) bool {
	if _, limited := r.Header["X-Envoy-Ratelimited"]; limited {
		return p.on&onRateLimited != 0
	}
	c := r.StatusCode
	switch {
	case c >= 500 && p.on&on5xx != 0,
		(c == http.StatusBadGateway || c == http.StatusServiceUnavailable || c == http.StatusGatewayTimeout) && p.on&onGatewayError != 0,
		c == http.StatusConflict && p.on&onRetriable4xx != 0,
		p.on&onStatusCodes != 0 && p.code(c),
		p.on&onHeaders != 0 && anyHeader(p.headers, r.Header):
		return true
	}
	if st := r.Header["Grpc-Status"]; len(st) > 0 {
		return p.on&grpcTerms[st[0]] != 0
	}
	return false
}

// retryHeaders are those by which a trusted client or a header rule steers retries.
const (
	retryOnHeader    = "X-Envoy-Retry-On"
	retryGRPCHeader  = "X-Envoy-Retry-Grpc-On"
	retryMaxHeader   = "X-Envoy-Max-Retries"
	retryCodesHeader = "X-Envoy-Retriable-Status-Codes"
	retryNamesHeader = "X-Envoy-Retriable-Header-Names"
)

// retries returns the policy for a request: the route's with what headers add to it, or nil.
func (f *forwardAction) retries(s *Stream) *retryPolicy {
	p := f.retry
	if s.internal || f.steers {
		p = p.steered(s.req.Header)
	}
	if p == nil || p.on == 0 || len(p.request) > 0 && !anyHeader(p.request, s.req.Header) {
		return nil
	}
	return p
}

func (p *retryPolicy) steered(h http.Header) *retryPolicy {
	take := func(name string) string {
		v := h[name]
		delete(h, name)
		if len(v) == 0 {
			return ""
		}
		return v[0]
	}
	on, grpcOn, most, codes, names := take(retryOnHeader), take(retryGRPCHeader), take(retryMaxHeader), take(retryCodesHeader), take(retryNamesHeader)
	if on == "" && grpcOn == "" && most == "" && codes == "" && names == "" {
		return p
	}
	out := &retryPolicy{max: 1, hostAttempts: 1, backoff: defaultBackoff}
	if p != nil {
		*out = *p
	}
	a, _ := parseTerms(on)
	b, _ := parseTerms(grpcOn)
	out.on |= a | b
	var n int
	if _, err := fmt.Sscanf(most, "%d", &n); err == nil && out.on != 0 && n >= 0 {
		out.max = n
	}
	out.codes = append([]int(nil), out.codes...)
	for c := range strings.SplitSeq(codes, ",") {
		if _, err := fmt.Sscanf(strings.TrimSpace(c), "%d", &n); err == nil {
			out.codes = append(out.codes, n)
		}
	}
	out.headers = append([]headerMatch(nil), out.headers...)
	for name := range strings.SplitSeq(names, ",") {
		if name = strings.TrimSpace(name); name != "" {
			out.headers = append(out.headers, headerMatch{
				http.CanonicalHeaderKey(name), func(v []string) bool { return len(v) > 0 },
			})
		}
	}
	return out
}
