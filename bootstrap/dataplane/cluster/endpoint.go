package cluster

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// Endpoint is one upstream host. It outlives updates that leave its address and metadata alone, so that its
// connections stay.
type Endpoint struct {
	Network  string // "tcp" or "unix"
	Address  string // host:port or socket path
	Addr     netip.AddrPort
	Hostname string
	Weight   uint32
	Share    uint32 // weight of the endpoint's locality, 0 when not set
	Priority uint32
	Locality *corev3.Locality
	Health   corev3.HealthStatus
	Metadata *corev3.Metadata
	Proto    *endpointv3.LbEndpoint

	Active    atomic.Int64  // requests or connections in flight
	Requests  atomic.Uint64 // all requests
	Errors    atomic.Uint64
	Success   atomic.Uint64
	Conns     atomic.Int64
	ConnTotal atomic.Uint64
	ConnFail  atomic.Uint64

	socket   *socket
	lastUsed atomic.Int64 // unix nanoseconds, for original destinations
	poolMu   sync.Mutex
	pools    map[string]upstream.Pool
	gone     bool
}

// Healthy reports whether the endpoint takes new requests.
func (e *Endpoint) Healthy() bool {
	switch e.Health {
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_DRAINING, corev3.HealthStatus_TIMEOUT:
		return false
	}
	return true
}

// TransportName names the transport socket that connections use, for display.
func (e *Endpoint) TransportName() string { return e.socket.name }

// MTLS reports whether connections to the endpoint use TLS.
func (e *Endpoint) MTLS() bool { return e.socket.tls != nil }

func (e *Endpoint) closePools() {
	e.poolMu.Lock()
	pools := e.pools
	e.pools, e.gone = nil, true
	e.poolMu.Unlock()
	for _, p := range pools {
		p.Close()
	}
}

// pool returns the pool for a variant of the connection, making it when it is new. A pool of an endpoint that is gone
// serves the request that asks and is then dropped.
func (e *Endpoint) pool(key string, build func() upstream.Pool) (p upstream.Pool, temporary bool) {
	e.poolMu.Lock()
	defer e.poolMu.Unlock()
	if p, ok := e.pools[key]; ok {
		return p, false
	}
	p = build()
	if e.gone {
		return p, true
	}
	if e.pools == nil {
		e.pools = map[string]upstream.Pool{}
	}
	e.pools[key] = p
	return p, false
}

func (e *Endpoint) touch() { e.lastUsed.Store(time.Now().UnixNano()) }

// sameHost reports whether connections to a can serve b.
func sameHost(a, b *Endpoint) bool {
	return a.Network == b.Network && a.Address == b.Address && a.socket == b.socket && a.Hostname == b.Hostname
}

const (
	assignmentFields = "cluster_name endpoints policy named_endpoints"
	localityFields   = "locality lb_endpoints load_balancing_weight priority metadata proximity"
	lbEndpointFields = "endpoint health_status metadata load_balancing_weight"
	endpointFields   = "address hostname health_check_config"
)

// parseAssignment checks a and lists its endpoints. Host names are kept as they are for DNS clusters and refused for
// others.
func (c *Cluster) parseAssignment(a *endpointv3.ClusterLoadAssignment) ([]*Endpoint, error) {
	if err := fields.Check(a, assignmentFields); err != nil {
		return nil, err
	}
	if err := fields.Check(a.GetPolicy(), "overprovisioning_factor endpoint_stale_after weighted_priority_health"); err != nil {
		return nil, err
	}
	var out []*Endpoint
	for _, l := range a.GetEndpoints() {
		if err := fields.Check(l, localityFields); err != nil {
			return nil, err
		}
		for _, lb := range l.GetLbEndpoints() {
			e, err := c.parseEndpoint(l, lb)
			if err != nil {
				return nil, err
			}
			if e != nil {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

func (c *Cluster) parseEndpoint(l *endpointv3.LocalityLbEndpoints, lb *endpointv3.LbEndpoint) (*Endpoint, error) {
	if err := fields.Check(lb, lbEndpointFields); err != nil {
		return nil, err
	}
	if err := fields.Check(lb.GetEndpoint(), endpointFields); err != nil {
		return nil, err
	}
	e := &Endpoint{
		Hostname: lb.GetEndpoint().GetHostname(), Weight: 1, Priority: l.GetPriority(), Locality: l.GetLocality(),
		Health: lb.GetHealthStatus(), Metadata: lb.GetMetadata(), Proto: lb,
	}
	if c.localityLB {
		e.Share = l.GetLoadBalancingWeight().GetValue()
	}
	if w := lb.GetLoadBalancingWeight(); w != nil {
		e.Weight = w.GetValue()
	}
	switch a := lb.GetEndpoint().GetAddress().GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		if a.SocketAddress.GetProtocol() != corev3.SocketAddress_TCP {
			return nil, fields.Unsupported(a.SocketAddress, "protocol", "only TCP")
		}
		e.Network = "tcp"
		e.Address = net.JoinHostPort(a.SocketAddress.GetAddress(), strconv.Itoa(int(a.SocketAddress.GetPortValue())))
		if ip, err := netip.ParseAddr(a.SocketAddress.GetAddress()); err == nil {
			e.Addr = netip.AddrPortFrom(ip.Unmap(), uint16(a.SocketAddress.GetPortValue()))
		} else if c.Kind != StrictDNS && c.Kind != LogicalDNS {
			return nil, fmt.Errorf("endpoint %q: not an IP address", a.SocketAddress.GetAddress())
		}
	case *corev3.Address_Pipe:
		e.Network, e.Address = "unix", a.Pipe.GetPath()
	default:
		return nil, fields.Unsupported(lb.GetEndpoint(), fmt.Sprintf("address (%T)", a), "")
	}
	sock, err := c.socketFor(e.Metadata)
	if err != nil {
		return nil, err
	}
	e.socket = sock
	return e, nil
}

// SetEndpoints replaces the endpoints; those that stay keep their connections. An error leaves the old ones.
func (c *Cluster) SetEndpoints(a *endpointv3.ClusterLoadAssignment) error {
	all, err := c.parseAssignment(a)
	if err != nil {
		return err
	}
	c.swap(all, proto.CloneOf(a))
	return nil
}

func (c *Cluster) swap(all []*Endpoint, from *endpointv3.ClusterLoadAssignment) {
	old := c.set.Load()
	kept := map[*Endpoint]bool{}
	if old != nil {
		byAddr := make(map[string]*Endpoint, len(old.all))
		for _, e := range old.all {
			byAddr[e.Address] = e
		}
		for i, e := range all {
			if o, ok := byAddr[e.Address]; ok && !kept[o] && sameHost(o, e) && o.sameRank(e) {
				all[i] = o
				kept[o] = true
			} else if ok && sameHost(o, e) && !kept[o] {
				e.adopt(o)
				kept[o] = true
			}
		}
	}
	c.set.Store(newEndpointSet(all, from, c.lb))
	c.initialized.Store(true)
	healthy := 0
	for _, e := range all {
		if e.Healthy() {
			healthy++
		}
	}
	c.Stats.Members.Set(int64(len(all)))
	c.Stats.Healthy.Set(int64(healthy))
	if old != nil {
		for _, e := range old.all {
			if !kept[e] {
				e.closePools()
			}
		}
	}
}

func (e *Endpoint) sameRank(o *Endpoint) bool {
	return e.Weight == o.Weight && e.Share == o.Share && e.Priority == o.Priority && e.Health == o.Health &&
		proto.Equal(e.Locality, o.Locality) && proto.Equal(e.Metadata, o.Metadata)
}

// adopt moves the pools of o, the same host under an older configuration, to e.
func (e *Endpoint) adopt(o *Endpoint) {
	o.poolMu.Lock()
	e.pools, o.pools = o.pools, nil
	o.gone = true
	o.poolMu.Unlock()
	e.Requests.Store(o.Requests.Load())
	e.Success.Store(o.Success.Load())
	e.Errors.Store(o.Errors.Load())
}
