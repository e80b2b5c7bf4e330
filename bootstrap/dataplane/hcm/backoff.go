package hcm

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// backoff says how long to wait before a retry.
type backoff struct {
	base, limit time.Duration
	reset       []resetHeader // headers by which an upstream that limits its clients says when to come back
	resetLimit  time.Duration // longer waits are not believed
}

type resetHeader struct {
	name string
	unix bool // a point in time, not a number of seconds
}

var defaultBackoff = backoff{base: 25 * time.Millisecond, limit: 250 * time.Millisecond}

func compileBackoff(p *routev3.RetryPolicy) (backoff, error) {
	out := defaultBackoff
	if b := p.GetRetryBackOff(); b != nil {
		if err := fields.Check(b, "base_interval max_interval"); err != nil {
			return out, err
		}
		out.base = max(b.GetBaseInterval().AsDuration(), time.Millisecond)
		out.limit = 10 * out.base
		if m := b.GetMaxInterval(); m != nil {
			out.limit = m.AsDuration()
		}
	}
	r := p.GetRateLimitedRetryBackOff()
	if err := fields.Check(r, "reset_headers max_interval"); err != nil {
		return out, err
	}
	for _, h := range r.GetResetHeaders() {
		out.reset = append(out.reset, resetHeader{http.CanonicalHeaderKey(h.GetName()), h.GetFormat() == routev3.RetryPolicy_UNIX_TIMESTAMP})
	}
	out.resetLimit = 300 * time.Second
	if m := r.GetMaxInterval(); m != nil {
		out.resetLimit = m.AsDuration()
	}
	return out, nil
}

// delay returns a fully jittered exponential delay before the n-th retry (from 1), or where a response says when to come
// back, that and up to half as much again.
func (b *backoff) delay(n int, h http.Header) time.Duration {
	for _, r := range b.reset {
		if d := r.read(h); d > 0 && d <= b.resetLimit {
			return d + rand.N(d/2+1)
		}
	}
	d := min(b.base<<min(n-1, 10), b.limit)
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

func (r *resetHeader) read(h http.Header) time.Duration {
	v := h[r.name]
	if len(v) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(v[0]), 10, 64)
	if err != nil || n <= 0 || n > 1<<40 {
		return 0
	}
	if r.unix {
		return time.Until(time.Unix(n, 0))
	}
	return time.Duration(min(n, 1<<30)) * time.Second
}
