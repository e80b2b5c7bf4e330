package hcm

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// retryPolicy says which failures are tried again, how often and how soon.
type retryPolicy struct {
	on           map[string]bool
	codes        map[int]bool
	max          int
	perTry       time.Duration
	base, limit  time.Duration
	avoid        bool // hosts tried already
	hostAttempts int
}

var retryTerms = map[string]bool{
	"5xx": true, "gateway-error": true, "reset": true, "reset-before-request": true, "connect-failure": true,
	"refused-stream": true, "retriable-4xx": true, "retriable-status-codes": true, "cancelled": true,
	"deadline-exceeded": true, "internal": true, "resource-exhausted": true, "unavailable": true,
}

const retryFields = "retry_on num_retries per_try_timeout retriable_status_codes retry_back_off retry_host_predicate " +
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
		on: map[string]bool{}, codes: map[int]bool{}, max: 1, perTry: p.GetPerTryTimeout().AsDuration(),
		base: 25 * time.Millisecond, limit: 250 * time.Millisecond, hostAttempts: int(p.GetHostSelectionRetryMaxAttempts()),
	}
	if out.hostAttempts == 0 {
		out.hostAttempts = 1
	}
	if n := p.GetNumRetries(); n != nil {
		out.max = int(n.GetValue())
	}
	for _, c := range p.GetRetriableStatusCodes() {
		out.codes[int(c)] = true
	}
	for term := range strings.SplitSeq(p.GetRetryOn(), ",") {
		if term = strings.TrimSpace(term); term == "" {
			continue
		}
		if !retryTerms[term] {
			return nil, fields.Unsupported(p, "retry_on", term)
		}
		out.on[term] = true
	}
	if b := p.GetRetryBackOff(); b != nil {
		out.base = b.GetBaseInterval().AsDuration()
		out.limit = 10 * out.base
		if m := b.GetMaxInterval(); m != nil {
			out.limit = m.AsDuration()
		}
	}
	for _, h := range p.GetRetryHostPredicate() {
		if url := h.GetTypedConfig().GetTypeUrl(); url != registry.PreviousHosts {
			return nil, fields.UnsupportedType("retry host predicate", h.GetName(), url)
		}
		out.avoid = true
	}
	return out, nil
}

// backoff returns a fully jittered exponential delay before the n-th retry (from 1).
func (p *retryPolicy) backoff(n int) time.Duration {
	d := p.base << min(n-1, 10)
	if d > p.limit {
		d = p.limit
	}
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// failure reports whether a failed attempt may be tried again.
func (p *retryPolicy) failure(e *upstream.Error) bool {
	switch e.Stage {
	case upstream.Connecting:
		return p.on["connect-failure"] || p.on["5xx"] || p.on["gateway-error"] || p.on["reset"] || p.on["reset-before-request"]
	case upstream.Refused:
		return p.on["refused-stream"] || p.on["5xx"] || p.on["gateway-error"] || p.on["reset"]
	case upstream.BeforeResponse:
		return p.on["reset"] || p.on["5xx"] || p.on["gateway-error"]
	case upstream.Timeout: // per try
		return p.on["5xx"] || p.on["gateway-error"] || p.on["reset"] || (p.on["retriable-status-codes"] && p.codes[504])
	}
	return false
}

var grpcRetry = map[string]string{
	"1": "cancelled", "4": "deadline-exceeded", "8": "resource-exhausted", "13": "internal", "14": "unavailable",
}

// response reports whether a response may be tried again.
func (p *retryPolicy) response(r *http.Response) bool {
	if st := r.Header.Get("Grpc-Status"); st != "" {
		if term := grpcRetry[st]; term != "" && p.on[term] {
			return true
		}
	}
	c := r.StatusCode
	switch {
	case c >= 500 && p.on["5xx"]:
		return true
	case (c == 502 || c == 503 || c == 504) && p.on["gateway-error"]:
		return true
	case c == 409 && p.on["retriable-4xx"]:
		return true
	}
	return p.on["retriable-status-codes"] && p.codes[c]
}
