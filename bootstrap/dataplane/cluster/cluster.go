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
	Dynamic // hosts are named by requests
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
	errPending    = fmt.Errorf("too many wait for a connection: %w", ErrOverflow)
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

	balance        balance
	connectTimeout time.Duration
	keepNames      bool // of HTTP/1 headers
	idleTimeout    time.Duration
	maxPerConn     uint32
	bind           netip.Addr // source address for connections, zero for any
	keepalive      keepalive
	sockets        []socketMatch
	plainDefault   *socket
	autoSNI        bool
	autoSAN        bool
	streams        uint32        // upstream HTTP/2 streams per connection, 0 for no limit of ours
	ping, pingWait time.Duration // HTTP/2 keepalive
	maxAge         time.Duration // of pooled connections, 0 for any
	breakers       [2]breaker    // by routing priority
	perHost        uint32        // connections to one host, where hasPerHost
	hasPerHost     bool
	outlier        *detector // nil for none
	mx             bool      // istio.metadata_exchange among the cluster's network filters
	metadata       map[string]map[string]any

	set         atomic.Pointer[endpointSet]
	initialized atomic.Bool
	ready       chan struct{} // closed with initialized
	readyOnce   sync.Once
	update      sync.Mutex // changes of set, warm and closed
	warm        *time.Timer
	closed      bool

	origHeader string
	origPort   uint16
	origIdle   time.Duration
	origSwept  atomic.Int64
	orig       sync.Map // netip.AddrPort -> *Endpoint

	dns     dnsState
	dynamic *dynamic // for Dynamic
}

// Stats are the counters of one cluster.
type Stats struct {
	Scope                                                                 stats.Scope
	Requests, Success, NoEndpoint, ConnectFail, Connects                  *stats.Counter
	Overflow, ConnOverflow, Retry, RetrySuccess, Timeout, PerTry, RxReset *stats.Counter
	Sent, Received, TLSHandshake, TLSFail, TLSVerifyFail, Closed          *stats.Counter
	Status                                                                [6]*stats.Counter // by class, [2] is 2xx
	responses                                                             *responses
	Panic, PendingTotal, RetryOverflow, RetryLimit                        *stats.Counter
	ActiveRequests, ActiveConns, Members, Healthy, Degraded, Pending      *stats.Gauge
}

// NewStats registers the counters of cluster name in r.
func NewStats(r *stats.Registry, name string) *Stats {
	sc := stats.Scope{Name: "cluster." + name, Family: "envoy_cluster", Labels: stats.Label("cluster_name", name)}
	s := &Stats{
		Scope: sc, responses: newResponses(r, sc),
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
		Degraded: r.Gauge(sc, "membership_degraded"), Pending: r.Gauge(sc, "upstream_rq_pending_active"),
		Panic: r.Counter(sc, "lb_healthy_panic"), PendingTotal: r.Counter(sc, "upstream_rq_pending_total"),
		RetryOverflow: r.Counter(sc, "upstream_rq_retry_overflow"), RetryLimit: r.Counter(sc, "upstream_rq_retry_limit_exceeded"),
	}
	for i := 1; i < 6; i++ {
		s.Status[i] = r.Counter(sc, fmt.Sprintf("upstream_rq_%dxx", i))
	}
	return s
}

func (c *Cluster) arrived() {
	c.initialized.Store(true)
	c.readyOnce.Do(func() { close(c.ready) })
}

// warmUp is how long a request waits for the first endpoints of a cluster.
const warmUp = 2 * time.Second

// Await waits for the first endpoints of a new cluster, so that the routes that come with it may be followed at once.
// It waits neither long nor beyond the end of ctx.
func (c *Cluster) Await(ctx context.Context) {
	if c.initialized.Load() {
		return
	}
	t := time.NewTimer(warmUp)
	defer t.Stop()
	select {
	case <-c.ready:
	case <-t.C:
	case <-ctx.Done():
	}
}

// Initialized reports whether the first endpoints have arrived.
func (c *Cluster) Initialized() bool { return c.initialized.Load() }

// Metadata looks up a value of the cluster's filter metadata.
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

// Endpoints returns the current endpoints.
func (c *Cluster) Endpoints() []*Endpoint {
	if c.Kind == Dynamic {
		var out []*Endpoint
		c.dynamic.hosts.Range(func(_, v any) bool {
			out = append(out, v.(*named).endpoint)
			return true
		})
		return out
	}
	if c.Kind == OriginalDst {
		var out []*Endpoint
		c.orig.Range(func(_, v any) bool {
			out = append(out, v.(*Endpoint))
			return true
		})
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
	c.dns.stop()
	c.outlier.stop()
	c.update.Lock()
	c.closed = true
	if c.warm != nil {
		c.warm.Stop()
	}
	c.update.Unlock()
	for _, e := range c.Endpoints() {
		e.closePools()
	}
}
