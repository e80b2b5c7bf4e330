// Package cluster holds upstream clusters: their endpoints, load balancing, transport sockets and connections.
//
// It knows discovery results (EDS, static, DNS, original destination) and how to reach an endpoint. It does not know
// routes, filters or the discovery protocol.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

// Kind is how a cluster finds its endpoints.
type Kind int

// Kinds.
const (
	Static Kind = iota
	StrictDNS
	LogicalDNS
	EDS
	OriginalDst
)

// Protocol is the HTTP version spoken to endpoints.
type Protocol int

// Protocols.
const (
	HTTP1      Protocol = iota
	HTTP2               // explicit
	Downstream          // whatever the client spoke
	Auto                // by ALPN
)

// Errors that a request can meet before any connection is tried.
var (
	ErrNoEndpoint = errors.New("no healthy upstream")
	ErrOverflow   = errors.New("upstream overflow")
	ErrNoOriginal = errors.New("no original destination to connect to")
)

// Cluster is one upstream cluster. It is safe for concurrent use; its configuration never changes, only its endpoints.
type Cluster struct {
	Name     string
	Proto    *clusterv3.Cluster
	Version  string
	Updated  time.Time
	Kind     Kind
	EDSName  string // resource to subscribe to, for EDS
	Protocol Protocol
	Stats    *Stats

	lb             policy
	connectTimeout time.Duration
	idleTimeout    time.Duration
	maxPerConn     uint32
	bind           netip.Addr // source address for connections, zero for any
	keepalive      keepalive
	sockets        []socketMatch
	plainDefault   *socket
	autoSNI        bool
	autoSAN        bool
	limits         Limits
	localityLB     bool // share the load by locality weight first
	mx             bool // istio.metadata_exchange among the cluster's network filters
	metadata       map[string]map[string]any

	set         atomic.Pointer[endpointSet]
	initialized atomic.Bool
	origMu      sync.Mutex
	orig        map[netip.AddrPort]*Endpoint
	stopDNS     context.CancelFunc
	active      atomic.Int64 // requests in flight
	retries     atomic.Int64
	pending     atomic.Int64 // requests that wait for a connection
	connections atomic.Int64
}

// Limits are the circuit breaker's thresholds for the default priority.
type Limits struct{ Connections, Pending, Requests, Retries uint32 }

// Stats are the counters of one cluster.
type Stats struct {
	Scope                                                                 stats.Scope
	Requests, Success, NoEndpoint, ConnectFail, Connects                  *stats.Counter
	Overflow, ConnOverflow, Retry, RetrySuccess, Timeout, PerTry, RxReset *stats.Counter
	Sent, Received, TLSHandshake, TLSFail, TLSVerifyFail, Closed          *stats.Counter
	Status                                                                [6]*stats.Counter // by class, [2] is 2xx
	ActiveRequests, ActiveConns, Members, Healthy                         *stats.Gauge
}

// NewStats registers the counters of cluster name in r.
func NewStats(r *stats.Registry, name string) *Stats {
	sc := stats.Scope{Name: "cluster." + name, Family: "envoy_cluster", Labels: stats.Label("cluster_name", name)}
	s := &Stats{
		Scope:    sc,
		Requests: r.Counter(sc, "upstream_rq_total"), Success: r.Counter(sc, "upstream_rq_completed"),
		NoEndpoint: r.Counter(sc, "upstream_cx_none_healthy"), ConnectFail: r.Counter(sc, "upstream_cx_connect_fail"),
		Connects: r.Counter(sc, "upstream_cx_total"), Overflow: r.Counter(sc, "upstream_rq_pending_overflow"),
		ConnOverflow: r.Counter(sc, "upstream_cx_overflow"),
		Retry:        r.Counter(sc, "upstream_rq_retry"), RetrySuccess: r.Counter(sc, "upstream_rq_retry_success"),
		Timeout: r.Counter(sc, "upstream_rq_timeout"), PerTry: r.Counter(sc, "upstream_rq_per_try_timeout"),
		RxReset: r.Counter(sc, "upstream_rq_rx_reset"), Sent: r.Counter(sc, "upstream_cx_tx_bytes_total"),
		Received: r.Counter(sc, "upstream_cx_rx_bytes_total"), TLSHandshake: r.Counter(sc, "ssl.handshake"),
		TLSFail: r.Counter(sc, "ssl.connection_error"), TLSVerifyFail: r.Counter(sc, "ssl.fail_verify_san"),
		Closed:         r.Counter(sc, "upstream_cx_destroy"),
		ActiveRequests: r.Gauge(sc, "upstream_rq_active"), ActiveConns: r.Gauge(sc, "upstream_cx_active"),
		Members: r.Gauge(sc, "membership_total"), Healthy: r.Gauge(sc, "membership_healthy"),
	}
	for i := 1; i < 6; i++ {
		s.Status[i] = r.Counter(sc, fmt.Sprintf("upstream_rq_%dxx", i))
	}
	return s
}

// Initialized reports whether the first endpoints have arrived.
func (c *Cluster) Initialized() bool { return c.initialized.Load() }

// External reports whether no endpoint of the cluster belongs to the mesh; metadata is the cluster's filter metadata.
func (c *Cluster) Metadata(filter, key string) (any, bool) {
	v, ok := c.metadata[filter][key]
	return v, ok
}

// Refs lists the secrets that connections to the cluster need.
func (c *Cluster) Refs() []*tlsctx.Ref {
	var out []*tlsctx.Ref
	for _, m := range c.sockets {
		if m.socket.tls != nil {
			out = append(out, m.socket.tls.Refs()...)
		}
	}
	if c.plainDefault.tls != nil {
		out = append(out, c.plainDefault.tls.Refs()...)
	}
	return out
}

// BeginRequest counts a request against the circuit breaker; the caller must call the result when the request is over.
func (c *Cluster) BeginRequest() (func(), error) {
	if n := c.active.Add(1); c.limits.Requests > 0 && n > int64(c.limits.Requests) {
		c.active.Add(-1)
		c.Stats.Overflow.Inc()
		return nil, ErrOverflow
	}
	c.Stats.ActiveRequests.Inc()
	return func() {
		c.active.Add(-1)
		c.Stats.ActiveRequests.Dec()
	}, nil
}

// BeginRetry counts a retry against the circuit breaker, as BeginRequest does.
func (c *Cluster) BeginRetry() (func(), error) {
	if n := c.retries.Add(1); c.limits.Retries > 0 && n > int64(c.limits.Retries) {
		c.retries.Add(-1)
		return nil, ErrOverflow
	}
	return func() { c.retries.Add(-1) }, nil
}

// LimitsView returns the circuit breaker's thresholds.
func (c *Cluster) LimitsView() Limits { return c.limits }

// Endpoints returns the current endpoints.
func (c *Cluster) Endpoints() []*Endpoint {
	if c.Kind == OriginalDst {
		c.origMu.Lock()
		defer c.origMu.Unlock()
		out := make([]*Endpoint, 0, len(c.orig))
		for _, e := range c.orig {
			out = append(out, e)
		}
		return out
	}
	if s := c.set.Load(); s != nil {
		return s.all
	}
	return nil
}

// Assignment returns the load assignment that the endpoints came from, or nil.
func (c *Cluster) Assignment() *endpointv3.ClusterLoadAssignment {
	if s := c.set.Load(); s != nil {
		return s.from
	}
	return nil
}

// close lets go of everything that would outlive the cluster. Running requests finish.
func (c *Cluster) close() {
	if c.stopDNS != nil {
		c.stopDNS()
	}
	for _, e := range c.Endpoints() {
		e.closePools()
	}
}
