package netfilter

import (
	"context"
	"errors"

	netv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/extauthz"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// ExtAuthz asks an authorization service about connections, when the client's first byte comes.
type ExtAuthz struct {
	set                                          *extauthz.Settings
	total, ok, denied, failed, allowed, disabled *stats.Counter
	active                                       *stats.Gauge
}

var _ network.Filter = (*ExtAuthz)(nil)

// Why the service's word, or the lack of it, ends a connection.
var (
	ErrExtDenied = errors.New("ext_authz_denied")
	ErrExtError  = errors.New("ext_authz_error")
)

const extAuthzMetadata = "envoy.filters.network.ext_authz"

// NewExtAuthz compiles p.
func NewExtAuthz(p *netv3.ExtAuthz, clusters *cluster.Manager, reg *stats.Registry) (*ExtAuthz, error) {
	set, err := extauthz.CompileNetwork(p, clusters)
	if err != nil {
		return nil, err
	}
	sc := stats.Scope{Name: "ext_authz." + p.GetStatPrefix(), Family: "envoy_ext_authz", Labels: stats.Label("envoy_ext_authz_prefix", p.GetStatPrefix())}
	return &ExtAuthz{
		set: set, total: reg.Counter(sc, "total"), ok: reg.Counter(sc, "ok"), denied: reg.Counter(sc, "denied"),
		failed: reg.Counter(sc, "error"), allowed: reg.Counter(sc, "failure_mode_allowed"), disabled: reg.Counter(sc, "disabled"),
		active: reg.Gauge(sc, "active"),
	}, nil
}

// OnConnection implements network.Filter.
func (e *ExtAuthz) OnConnection(ctx context.Context, c *network.Conn) error {
	atFirstByte(c, func() error { return e.check(ctx, c) })
	return nil
}

func (e *ExtAuthz) check(ctx context.Context, c *network.Conn) error {
	if !e.set.Asked(c.Metadata) {
		e.disabled.Inc()
		return nil
	}
	e.total.Inc()
	e.active.Inc()
	defer e.active.Dec()
	v, err := e.set.Client.Check(ctx, e.set.Connection(c, c.Metadata))
	if err != nil {
		e.failed.Inc()
		if e.set.FailOpen {
			e.allowed.Inc()
			return nil
		}
		return ErrExtError
	}
	for key, value := range v.Metadata {
		c.SetMetadata(extAuthzMetadata, key, value)
	}
	if !v.Allowed {
		e.denied.Inc()
		return ErrExtDenied
	}
	e.ok.Inc()
	return nil
}
