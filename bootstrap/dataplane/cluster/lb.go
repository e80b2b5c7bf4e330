package cluster

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

type policy int

const (
	roundRobin policy = iota
	leastRequest
	random
	provided
)

func compilePolicy(c *clusterv3.Cluster) (policy, error) {
	switch c.GetLbPolicy() {
	case clusterv3.Cluster_ROUND_ROBIN:
		return roundRobin, nil
	case clusterv3.Cluster_LEAST_REQUEST:
		return leastRequest, nil
	case clusterv3.Cluster_RANDOM:
		return random, nil
	case clusterv3.Cluster_CLUSTER_PROVIDED:
		return provided, nil
	default:
		return 0, fields.Unsupported(c, "lb_policy", c.GetLbPolicy().String())
	}
}

// endpointSet is one version of a cluster's endpoints, grouped by priority.
type endpointSet struct {
	all    []*Endpoint
	from   *endpointv3.ClusterLoadAssignment
	levels []level
	lb     policy
}

// level is the healthy part of one priority.
type level struct {
	hosts    []*Endpoint
	schedule []*Endpoint // hosts repeated by weight, interleaved
	next     atomic.Uint64
}

func newEndpointSet(all []*Endpoint, from *endpointv3.ClusterLoadAssignment, lb policy) *endpointSet {
	s := &endpointSet{all: all, from: from, lb: lb}
	highest := -1
	for _, e := range all {
		highest = max(highest, int(e.Priority))
	}
	s.levels = make([]level, highest+1)
	for _, e := range all {
		if e.Healthy() {
			s.levels[e.Priority].hosts = append(s.levels[e.Priority].hosts, e)
		}
	}
	for i := range s.levels {
		l := &s.levels[i]
		l.schedule = schedule(l.hosts, effective(l.hosts))
		// A fresh start at a random place keeps many proxies from hitting the first host together.
		if len(l.schedule) > 0 {
			l.next.Store(rand.Uint64N(uint64(len(l.schedule))))
		}
	}
	return s
}

const maxSchedule = 1024

// effective gives each host's share of the load: its own weight, or where localities have weights, its part of its
// locality's.
func effective(hosts []*Endpoint) []uint64 {
	out := make([]uint64, len(hosts))
	sums, shared := map[string]uint64{}, false
	key := func(e *Endpoint) string {
		return e.Locality.GetRegion() + "/" + e.Locality.GetZone() + "/" + e.Locality.GetSubZone()
	}
	for _, h := range hosts {
		shared = shared || h.Share > 0
		sums[key(h)] += uint64(h.Weight)
	}
	for i, h := range hosts {
		out[i] = uint64(h.Weight)
		if shared {
			const fine = 1000 // keeps small weights apart after the division
			out[i] = uint64(h.Share) * uint64(h.Weight) * fine / max(sums[key(h)], 1)
		}
	}
	return out
}

// schedule spreads hosts by weight with smooth weighted round robin.
func schedule(hosts []*Endpoint, weights []uint64) []*Endpoint {
	equal := true
	var total, divisor uint64
	for _, w := range weights {
		equal = equal && w == weights[0]
		total += w
		divisor = gcd(divisor, w)
	}
	if equal || total == 0 {
		return hosts
	}
	slots := total / divisor
	if slots > maxSchedule {
		slots = maxSchedule
	}
	credit := make([]int64, len(hosts))
	out := make([]*Endpoint, 0, slots)
	for range slots {
		best := -1
		for i, w := range weights {
			credit[i] += int64(w)
			if w > 0 && (best < 0 || credit[i] > credit[best]) {
				best = i
			}
		}
		credit[best] -= int64(total)
		out = append(out, hosts[best])
	}
	return out
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Choice carries what load balancing may look at.
type Choice struct {
	Original netip.AddrPort       // where the client wanted to go
	Avoid    func(*Endpoint) bool // hosts tried already; honoured where another exists
	Attempts int                  // how often to look for a host that Avoid lets pass
}

// Pick chooses an endpoint, or returns ErrNoEndpoint or ErrNoOriginal.
func (c *Cluster) Pick(ch Choice) (*Endpoint, error) {
	if c.Kind == OriginalDst {
		return c.original(ch.Original)
	}
	s := c.set.Load()
	if s == nil {
		c.Stats.NoEndpoint.Inc()
		return nil, ErrNoEndpoint
	}
	var l *level
	for i := range s.levels {
		if len(s.levels[i].schedule) > 0 {
			l = &s.levels[i]
			break
		}
	}
	if l == nil {
		c.Stats.NoEndpoint.Inc()
		return nil, ErrNoEndpoint
	}
	e := l.pick(s.lb)
	for range ch.Attempts {
		if ch.Avoid == nil || !ch.Avoid(e) {
			break
		}
		e = l.pick(s.lb)
	}
	return e, nil
}

func (l *level) pick(p policy) *Endpoint {
	n := uint64(len(l.schedule))
	if n == 1 {
		return l.schedule[0]
	}
	switch p {
	case leastRequest:
		a, b := l.schedule[rand.Uint64N(n)], l.schedule[rand.Uint64N(n)]
		if b.Active.Load() < a.Active.Load() {
			return b
		}
		return a
	case random:
		return l.schedule[rand.Uint64N(n)]
	default:
		return l.schedule[l.next.Add(1)%n]
	}
}

// originalIdle is how long an unused original destination is remembered with its connections.
const originalIdle = time.Minute

func (c *Cluster) original(dst netip.AddrPort) (*Endpoint, error) {
	if !dst.IsValid() {
		return nil, ErrNoOriginal
	}
	c.origMu.Lock()
	defer c.origMu.Unlock()
	if e, ok := c.orig[dst]; ok {
		e.touch()
		return e, nil
	}
	if c.orig == nil {
		c.orig = map[netip.AddrPort]*Endpoint{}
	}
	for k, e := range c.orig {
		if e.Active.Load() == 0 && time.Since(time.Unix(0, e.lastUsed.Load())) > originalIdle {
			delete(c.orig, k)
			go e.closePools()
		}
	}
	sock, err := c.socketFor(nil)
	if err != nil {
		return nil, err
	}
	e := &Endpoint{Network: "tcp", Address: dst.String(), Addr: dst, Weight: 1, socket: sock}
	e.touch()
	c.orig[dst] = e
	return e, nil
}

// String describes a policy as Envoy names it.
func (p policy) String() string {
	return [...]string{"ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "CLUSTER_PROVIDED"}[p]
}

var _ fmt.Stringer = policy(0)
