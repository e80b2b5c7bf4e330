package cluster

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
)

// endpointSet is one version of a cluster's endpoints and of their health, ready to be picked from. It never changes.
type endpointSet struct {
	all    []*Endpoint
	from   *endpointv3.ClusterLoadAssignment
	byAddr map[string]*Endpoint
	// shares divide the load among groups of hosts. Most clusters have one.
	shares []share
	// ready is the healthy group of each priority, with the load that it can take, for retries that leave priorities out.
	ready []ready
}

type ready struct {
	load  uint32
	share func() *share
}

// share is a group of hosts that gets the load up to a percentage.
type share struct {
	upTo     uint32 // cumulative, the last is 100
	priority int
	picker   picker // nil for a group without hosts
	panic    bool
}

// tier is one priority.
type tier struct{ all, healthy, degraded []*Endpoint }

const defaultOverprovision = 140

func newEndpointSet(all []*Endpoint, from *endpointv3.ClusterLoadAssignment, b *balance) *endpointSet {
	s := &endpointSet{all: all, from: from, byAddr: make(map[string]*Endpoint, len(all))}
	highest := 0
	for _, e := range all {
		highest = max(highest, int(e.Priority))
	}
	tiers := make([]tier, highest+1)
	for _, e := range all {
		if _, ok := s.byAddr[e.Address]; !ok {
			s.byAddr[e.Address] = e
		}
		t := &tiers[e.Priority]
		t.all = append(t.all, e)
		switch {
		case !e.Healthy():
		case e.Health == corev3.HealthStatus_DEGRADED:
			t.degraded = append(t.degraded, e)
		default:
			t.healthy = append(t.healthy, e)
		}
	}
	over := uint32(defaultOverprovision)
	if f := from.GetPolicy().GetOverprovisioningFactor(); f != nil {
		over = f.GetValue()
	}
	s.shares = b.share(tiers, over)
	if len(tiers) > 1 {
		for i, t := range tiers {
			s.ready = append(s.ready, ready{availability(len(t.healthy), len(t.all), over), sync.OnceValue(func() *share {
				return &share{100, i, b.localityPicker(t.healthy, t.all, over), false}
			})})
		}
	}
	return s
}

// availability is how much load, in percent, a priority can take with n of all hosts.
func availability(n, all int, over uint32) uint32 {
	if all == 0 {
		return 0
	}
	return uint32(min(uint64(100), uint64(over)*uint64(n)/uint64(all)))
}

// share divides the load as Envoy does: each priority takes what its healthy hosts can, overprovisioned; the rest goes to
// the next; degraded hosts come after all healthy ones. A priority with too few healthy hosts panics and uses all.
func (b *balance) share(tiers []tier, over uint32) []share {
	healthy, degraded := make([]uint32, len(tiers)), make([]uint32, len(tiers))
	var sum uint32
	for i, t := range tiers {
		healthy[i] = availability(len(t.healthy), len(t.all), over)
		degraded[i] = availability(len(t.degraded), len(t.all), over)
		sum += healthy[i] + degraded[i]
	}
	total := min(sum, 100)
	if b.panicAt == 0 && total == 0 {
		return nil
	}
	panics, every := make([]bool, len(tiers)), true
	for i, t := range tiers {
		panics[i] = total != 100 && b.inPanic(t)
		every = every && panics[i]
	}
	if every {
		return b.sharePanic(tiers)
	}
	load := distribute(healthy, degraded, total)
	var out []share
	var upTo uint32
	add := func(n uint32, i int, hosts []*Endpoint) {
		if n == 0 {
			return
		}
		upTo += n
		s := share{upTo: upTo, priority: i, panic: panics[i]}
		if panics[i] {
			s.picker = b.hostPicker(tiers[i].all)
		} else {
			s.picker = b.localityPicker(hosts, tiers[i].all, over)
		}
		out = append(out, s)
	}
	for i, t := range tiers {
		add(load[0][i], i, t.healthy)
	}
	for i, t := range tiers {
		add(load[1][i], i, t.degraded)
	}
	return out
}

func (b *balance) inPanic(t tier) bool {
	if len(t.all) == 0 {
		return b.panicAt > 0
	}
	return 100*float64(len(t.healthy)+len(t.degraded))/float64(len(t.all)) < b.panicAt
}

// distribute gives each priority its load, healthy and degraded; the sum is 100.
func distribute(healthy, degraded []uint32, total uint32) [2][]uint32 {
	out := [2][]uint32{make([]uint32, len(healthy)), make([]uint32, len(degraded))}
	left := uint32(100)
	firstSet, first := 0, -1
	for set, avail := range [2][]uint32{healthy, degraded} {
		for i, a := range avail {
			if a > 0 && first < 0 {
				firstSet, first = set, i
			}
			n := uint32(0)
			if total > 0 {
				n = min(left, a*100/total)
			}
			out[set][i] = n
			left -= n
		}
	}
	if left > 0 {
		// What rounding has left over; without any availability the first priority has it all.
		out[firstSet][max(first, 0)] += left
	}
	return out
}

// sharePanic divides the load by the number of hosts, healthy or not: every priority panics.
func (b *balance) sharePanic(tiers []tier) []share {
	hosts := 0
	for _, t := range tiers {
		hosts += len(t.all)
	}
	if hosts == 0 {
		return nil
	}
	loads, left, first := make([]uint32, len(tiers)), uint32(100), -1
	for i, t := range tiers {
		loads[i] = uint32(100 * len(t.all) / hosts)
		left -= loads[i]
		if first < 0 && len(t.all) > 0 {
			first = i
		}
	}
	loads[first] += left
	var out []share
	var upTo uint32
	for i, t := range tiers {
		if loads[i] > 0 {
			upTo += loads[i]
			out = append(out, share{upTo, i, b.hostPicker(t.all), true})
		}
	}
	return out
}

// choose returns the group for one request. hash decides where it is given, else chance.
func (s *endpointSet) choose(hash uint64, hashed bool) *share {
	switch len(s.shares) {
	case 0:
		return nil
	case 1:
		return &s.shares[0]
	}
	n := uint32(hash%100) + 1
	if !hashed {
		n = rand.Uint32N(100) + 1
	}
	for i := range s.shares {
		if n <= s.shares[i].upTo {
			return &s.shares[i]
		}
	}
	return &s.shares[len(s.shares)-1]
}

// other returns the group for a request that leaves priorities out, given as bits, in proportion to what the rest can
// take. It gives nil when there is none, or nothing to leave out.
func (s *endpointSet) other(avoid uint64) *share {
	if avoid == 0 {
		return nil
	}
	var sum uint32
	for i := range s.ready {
		if i < 64 && avoid&(1<<i) == 0 {
			sum += s.ready[i].load
		}
	}
	if sum == 0 {
		return nil
	}
	n := rand.Uint32N(min(sum, 100))
	for i := range s.ready {
		if i >= 64 || avoid&(1<<i) != 0 {
			continue
		}
		if n < s.ready[i].load {
			return s.ready[i].share()
		}
		n -= s.ready[i].load
	}
	return nil
}

// localities picks a locality by weight, then a host of it.
type localities struct {
	list []picker
	next atomic.Uint64
}

func (l *localities) pick(hash uint64, attempt int) *Endpoint {
	return l.list[l.next.Add(1)%uint64(len(l.list))].pick(hash, attempt)
}

// localityPicker makes the picker of a group: by locality first where the cluster says so and localities have weights.
// A locality's weight shrinks with its healthy part, overprovisioned.
func (b *balance) localityPicker(hosts, all []*Endpoint, over uint32) picker {
	if !b.locality || len(hosts) == 0 {
		return b.hostPicker(hosts)
	}
	type part struct {
		hosts  []*Endpoint
		all    int
		weight uint32
		sum    float64
	}
	parts := map[string]*part{}
	shared := false
	for _, h := range all {
		p := parts[h.localityKey()]
		if p == nil {
			p = &part{}
			parts[h.localityKey()] = p
		}
		p.all++
		p.weight = max(p.weight, h.Share)
		shared = shared || h.Share > 0
	}
	if !shared {
		return b.hostPicker(hosts)
	}
	var order []*part
	for _, h := range hosts {
		p := parts[h.localityKey()]
		if len(p.hosts) == 0 {
			order = append(order, p)
		}
		p.hosts = append(p.hosts, h)
		p.sum += float64(h.Weight)
	}
	if b.policy == ringHash || b.policy == maglev {
		weights := make([]float64, len(hosts))
		for i, h := range hosts {
			p := parts[h.localityKey()]
			weights[i] = float64(p.weight) * float64(h.Weight) / p.sum
		}
		return b.hashPicker(hosts, weights)
	}
	var pickers []picker
	var weights []float64
	for _, p := range order {
		if p.weight == 0 {
			continue
		}
		part := math.Min(1, float64(over)/100*float64(len(p.hosts))/float64(p.all))
		pickers = append(pickers, b.hostPicker(p.hosts))
		weights = append(weights, float64(p.weight)*part)
	}
	if len(pickers) == 0 {
		return b.hostPicker(hosts)
	}
	l := &localities{list: schedule(pickers, weights)}
	l.next.Store(rand.Uint64N(uint64(len(l.list))))
	return l
}
