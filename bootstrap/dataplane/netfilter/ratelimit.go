package netfilter

import (
	"context"
	"errors"
	"time"

	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/local_ratelimit/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/ratelimit"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// LocalRateLimit closes new connections for which there is no token left.
type LocalRateLimit struct {
	bucket  *ratelimit.Bucket
	enabled bool
	limited *stats.Counter
}

var _ network.Filter = (*LocalRateLimit)(nil)

// ErrRateLimited says that there is no token left for a connection.
var ErrRateLimited = errors.New("local_rate_limited")

// NewLocalRateLimit compiles p.
func NewLocalRateLimit(p *limitv3.LocalRateLimit, reg *stats.Registry) (*LocalRateLimit, error) {
	if err := fields.Check(p, "stat_prefix token_bucket runtime_enabled"); err != nil {
		return nil, err
	}
	rate, err := ratelimit.CompileRate(p.GetTokenBucket())
	if err != nil {
		return nil, err
	}
	sc := stats.Scope{
		Name: "local_rate_limit." + p.GetStatPrefix(), Family: "envoy_local_rate_limit",
		Labels: stats.Label("envoy_local_network_ratelimit_prefix", p.GetStatPrefix()),
	}
	return &LocalRateLimit{
		bucket: rate.New(time.Now()), limited: reg.Counter(sc, "rate_limited"),
		enabled: p.GetRuntimeEnabled() == nil || p.GetRuntimeEnabled().GetDefaultValue().GetValue(),
	}, nil
}

// OnConnection implements network.Filter.
func (l *LocalRateLimit) OnConnection(context.Context, *network.Conn) error {
	if !l.enabled || l.bucket.Take(time.Now()) {
		return nil
	}
	l.limited.Inc()
	return ErrRateLimited
}
