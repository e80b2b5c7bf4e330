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

	*state
	socket *socket
}

// state is what stays with a host when its configuration changes: counters, connections, what was found out about it.
type state struct {
	Active    atomic.Int64  // requests or connections in flight
	Requests  atomic.Uint64 // all requests
	Errors    atomic.Uint64
	Success   atomic.Uint64
	Conns     atomic.Int64
	ConnTotal atomic.Uint64
	ConnFail  atomic.Uint64

	added    atomic.Int64 // unix nanoseconds of when the host came, or came back to health
	lastUsed atomic.Int64 // unix nanoseconds, for original destinations
	ejected  atomic.Bool
	monitor  monitor
	addrs    atomic.Pointer[[]string] // what a logical host stands for now
	opening  atomic.Int64             // connections and attempts at one, for pools
	poolMu   sync.Mutex
	pools    map[poolKey]upstream.Pool
	gone     bool
}

func newState() *state {
	s := &state{}
	s.added.Store(time.Now().UnixNano())
	return s
}

func (s *state) since() time.Time { return time.Unix(0, s.added.Load()) }

// failedEDS reports whether discovery calls the host unfit for new requests.
func (e *Endpoint) failedEDS() bool {
	switch e.Health {
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_DRAINING, corev3.HealthStatus_TIMEOUT:
		return true
	}
	return false
}

// Healthy reports whether the endpoint takes new requests.
func (e *Endpoint) Healthy() bool { return !e.failedEDS() && !e.ejected.Load() }

// Degraded reports whether the endpoint takes new requests only when too few others do.
func (e *Endpoint) Degraded() bool { return e.Health == corev3.HealthStatus_DEGRADED }

// Ejected reports whether outlier detection has taken the endpoint out for a while.
func (e *Endpoint) Ejected() bool { return e.ejected.Load() }

// Status is the endpoint's health in one word.
func (e *Endpoint) Status() corev3.HealthStatus {
	if e.ejected.Load() {
		return corev3.HealthStatus_UNHEALTHY
	}
	return e.Health
}

// HealthFlags describes the endpoint's health as Envoy's admin port does.
func (e *Endpoint) HealthFlags() string {
	var out string
	if e.ejected.Load() {
		out += "/failed_outlier_check"
	}
	if e.failedEDS() {
		out += "/failed_eds_health"
	}
	if e.Degraded() {
		out += "/degraded_eds_health"
	}
	if e.Health == corev3.HealthStatus_DRAINING {
		out += "/eds_status_draining"
	}
	if out == "" {
		return "healthy"
	}
	return out
}

func (e *Endpoint) localityKey() string {
	return e.Locality.GetRegion() + "/" + e.Locality.GetZone() + "/" + e.Locality.GetSubZone()
}

// TransportName names the transport socket that connections use, for display.
func (e *Endpoint) TransportName() string { return e.socket.name }

// MTLS reports whether connections to the endpoint use TLS.
func (e *Endpoint) MTLS() bool { return e.socket.tls != nil }

func (e *state) closePools() {
	e.poolMu.Lock()
	pools := e.pools
	e.pools, e.gone = nil, true
	e.poolMu.Unlock()
	for _, p := range pools {
		p.Close()
	}
}

// poolKey tells apart the pools of one host.
type poolKey struct {
	proto Protocol
	high  bool
	alpn  string
	sni   string
}

// pool returns the pool for a variant of the connection, making it when it is new. A pool of an endpoint that is gone
// serves the request that asks and is then dropped, and so does one of an endpoint that is told of each client.
func (c *Cluster) pool(e *Endpoint, key poolKey, o ConnectOptions) (p upstream.Pool, temporary bool) {
	if e.socket.proxy != 0 {
		return c.newPool(e, key.proto, o), true
	}
	e.poolMu.Lock()
	defer e.poolMu.Unlock()
	if p, ok := e.pools[key]; ok {
		return p, false
	}
	p = c.newPool(e, key.proto, o)
	if e.gone {
		return p, true
	}
	if e.pools == nil {
		e.pools = map[poolKey]upstream.Pool{}
	}
	e.pools[key] = p
	return p, false
}

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

// maxPriority is the highest priority that the API allows.
const maxPriority = 128

// parseAssignment checks a and lists its endpoints. Host names are kept as they are for DNS clusters and refused for
// others.
func (c *Cluster) parseAssignment(a *endpointv3.ClusterLoadAssignment) ([]*Endpoint, error) {
	if err := fields.Check(a, assignmentFields); err != nil {
		return nil, err
	}
	if err := fields.Check(a.GetPolicy(), "overprovisioning_factor"); err != nil {
		return nil, err
	}
	var out []*Endpoint
	for _, l := range a.GetEndpoints() {
		if err := fields.Check(l, localityFields); err != nil {
			return nil, err
		}
		if l.GetPriority() > maxPriority {
			return nil, fmt.Errorf("priority %d: more than %d", l.GetPriority(), maxPriority)
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
		state: newState(), Hostname: lb.GetEndpoint().GetHostname(), Weight: 1, Priority: l.GetPriority(), Locality: l.GetLocality(),
		Health: lb.GetHealthStatus(), Metadata: lb.GetMetadata(), Proto: lb,
	}
	if c.balance.locality {
		e.Share = l.GetLoadBalancingWeight().GetValue()
	}
	if w := lb.GetLoadBalancingWeight(); w != nil {
		e.Weight = max(w.GetValue(), 1)
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
	if s := c.set.Load(); s != nil && proto.Equal(s.from, a) {
		return nil
	}
	all, err := c.parseAssignment(a)
	if err != nil {
		return err
	}
	c.swap(all, proto.CloneOf(a))
	return nil
}

func (c *Cluster) swap(all []*Endpoint, from *endpointv3.ClusterLoadAssignment) {
	c.update.Lock()
	old := c.set.Load()
	kept := map[*state]bool{}
	if old != nil && !c.closed {
		byAddr := make(map[string][]*Endpoint, len(old.all))
		for _, e := range old.all {
			byAddr[e.Address] = append(byAddr[e.Address], e)
		}
		for _, e := range all {
			for _, o := range byAddr[e.Address] {
				if sameHost(o, e) && !kept[o.state] {
					e.adopt(o)
					kept[o.state] = true
					break
				}
			}
		}
	}
	c.publish(newEndpointSet(all, from, &c.balance))
	c.arrived()
	closed := c.closed
	c.update.Unlock()
	c.outlier.membership(c)
	if old != nil {
		for _, e := range old.all {
			if !kept[e.state] {
				e.closePools()
			}
		}
	}
	if closed {
		for _, e := range all {
			e.closePools()
		}
	}
}

// adopt goes on with what is known of o, the same host under an older configuration.
func (e *Endpoint) adopt(o *Endpoint) {
	addrs := e.addrs.Load()
	e.state = o.state
	if addrs != nil {
		e.addrs.Store(addrs)
	}
	if o.failedEDS() && !e.failedEDS() {
		e.added.Store(time.Now().UnixNano())
	}
}
