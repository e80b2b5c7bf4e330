package cluster

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// serving makes a cluster of p with the endpoints of ls.
func serving(t *testing.T, m *Manager, p *clusterv3.Cluster, ls ...*endpointv3.LocalityLbEndpoints) *Cluster {
	t.Helper()
	must(t, m.Apply(update(t, xds.ClusterType, nil, p)))
	must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment(p.GetName(), ls...))))
	return m.Get(p.GetName())
}

// hosts lists n endpoints of weight 1 with addresses 10.0.P.1 and on; the last sick of them are unhealthy.
func hosts(priority uint32, n, sick int) *endpointv3.LocalityLbEndpoints {
	l := locality(priority)
	for i := range n {
		h := corev3.HealthStatus_HEALTHY
		if i >= n-sick {
			h = corev3.HealthStatus_UNHEALTHY
		}
		l.LbEndpoints = append(l.LbEndpoints, lbEndpoint(fmt.Sprintf("10.0.%d.%d:80", priority, i+1), 1, h))
	}
	return l
}

func percent(v float64) *typev3.Percent { return &typev3.Percent{Value: v} }

// TestPriorities: load follows health, overprovisioned by 1.4, as Envoy's tables of priority load have it.
func TestPriorities(t *testing.T) {
	for _, c := range []struct {
		name  string
		sick  [3]int // of ten hosts in each priority
		panic float64
		want  [3]uint32
		mad   bool
	}{
		{"all well", [3]int{0, 0, 0}, 50, [3]uint32{100, 0, 0}, false},
		{"overprovisioning hides a loss", [3]int{2, 0, 0}, 50, [3]uint32{100, 0, 0}, false},
		{"the rest spills over", [3]int{5, 0, 0}, 0, [3]uint32{70, 30, 0}, false},
		{"over two priorities", [3]int{8, 5, 0}, 0, [3]uint32{28, 70, 2}, false},
		{"nobody in the first", [3]int{10, 0, 0}, 0, [3]uint32{0, 100, 0}, false},
		{"scaled up when all are short", [3]int{9, 9, 10}, 0, [3]uint32{50, 50, 0}, false},
		{"everything panics", [3]int{9, 9, 9}, 50, [3]uint32{34, 33, 33}, true},
		{"no panic at full capacity", [3]int{9, 0, 0}, 50, [3]uint32{14, 86, 0}, false},
	} {
		b := balance{policy: random, panicAt: c.panic}
		tiers := make([]tier, 3)
		for p := range tiers {
			for i := range 10 {
				e := &Endpoint{Weight: 1, state: newState(), Priority: uint32(p)}
				tiers[p].all = append(tiers[p].all, e)
				if i >= c.sick[p] {
					tiers[p].healthy = append(tiers[p].healthy, e)
				}
			}
		}
		var got [3]uint32
		last, mad := uint32(0), false
		for _, s := range b.share(tiers, defaultOverprovision) {
			got[s.priority] += s.upTo - last
			last, mad = s.upTo, mad || s.panic
		}
		if got != c.want || mad != c.mad || last != 100 {
			t.Errorf("%s: %v panic %v, want %v", c.name, got, mad, c.want)
		}
	}
}

func TestPanicAndDegraded(t *testing.T) {
	m := newManager(t)
	c := serving(t, m, edsCluster("c", clusterv3.Cluster_ROUND_ROBIN), hosts(0, 4, 3))
	if got := pickCounts(t, c, 400); len(got) != 4 || got["10.0.0.4:80"] != 100 {
		t.Errorf("with one of four well every host is used: %v", got)
	}
	if c.Stats.Panic.Value() != 400 {
		t.Errorf("panics counted: %d", c.Stats.Panic.Value())
	}
	off := edsCluster("off", clusterv3.Cluster_ROUND_ROBIN)
	off.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: percent(0)}
	c = serving(t, m, off, hosts(0, 4, 3))
	if got := pickCounts(t, c, 100); got["10.0.0.1:80"] != 100 {
		t.Errorf("without panic only the healthy one is used: %v", got)
	}
	must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment("off", hosts(0, 4, 4)))))
	if _, err := c.Pick(Choice{}); err == nil {
		t.Error("without panic nobody is used when all are ill")
	}
	l := locality(0, lbEndpoint("10.0.0.1:80", 1, corev3.HealthStatus_HEALTHY), lbEndpoint("10.0.0.2:80", 1, corev3.HealthStatus_DEGRADED))
	must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment("off", l))))
	got := pickCounts(t, c, 10_000)
	if n := got["10.0.0.2:80"]; n < 2700 || n > 3300 {
		t.Errorf("a degraded host takes what the healthy half cannot, 30%%: %v", got)
	}
}

func TestWeightedLeastRequest(t *testing.T) {
	c := serving(t, newManager(t), edsCluster("c", clusterv3.Cluster_LEAST_REQUEST), locality(0,
		lbEndpoint("10.0.0.1:80", 3, 0), lbEndpoint("10.0.0.2:80", 1, 0)))
	got := pickCounts(t, c, 400)
	if got["10.0.0.1:80"] < 299 || got["10.0.0.1:80"] > 301 {
		t.Errorf("idle hosts share by weight: %v", got)
	}
	for _, e := range c.Endpoints() {
		if e.Weight == 3 {
			e.Active.Store(8) // its weight counts as a third
		}
	}
	pickCounts(t, c, 4) // what was due before
	got = pickCounts(t, c, 400)
	if got["10.0.0.1:80"] < 98 || got["10.0.0.1:80"] > 102 {
		t.Errorf("a weight of 3 with 8 requests in flight counts as 1/3: %v", got)
	}
}

func TestLeastRequestChoices(t *testing.T) {
	p := edsCluster("c", clusterv3.Cluster_LEAST_REQUEST)
	p.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{
		ChoiceCount: wrapperspb.UInt32(64),
	}}
	m := newManager(t)
	c := serving(t, m, p, hosts(0, 4, 0))
	for _, e := range c.Endpoints()[:3] {
		e.Active.Store(1)
	}
	if got := pickCounts(t, c, 1000); got["10.0.0.4:80"] < 999 {
		t.Errorf("64 choices of four find the idle one: %v", got)
	}
	full := &clusterv3.Cluster{}
	must(t, protojson.Unmarshal([]byte(`{"name":"full","loadBalancingPolicy":{"policies":[{"typedExtensionConfig":{"name":"lr","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
		"selectionMethod":"FULL_SCAN"}}}]}}`), full))
	eds := edsCluster("full", clusterv3.Cluster_LOAD_BALANCING_POLICY_CONFIG)
	eds.LoadBalancingPolicy = full.GetLoadBalancingPolicy()
	c = serving(t, m, eds, hosts(0, 9, 0))
	for _, e := range c.Endpoints()[1:] {
		e.Active.Store(1)
	}
	if got := pickCounts(t, c, 100); got["10.0.0.1:80"] != 100 {
		t.Errorf("a full scan always finds the idle one: %v", got)
	}
}

// hashed is a policy of consistent hashing by name, with room to configure it.
func hashed(name string, maglev bool) *clusterv3.Cluster {
	if maglev {
		return edsCluster(name, clusterv3.Cluster_MAGLEV)
	}
	return edsCluster(name, clusterv3.Cluster_RING_HASH)
}

func TestConsistentHashing(t *testing.T) {
	for _, maglev := range []bool{false, true} {
		t.Run(fmt.Sprintf("maglev %v", maglev), func(t *testing.T) {
			m := newManager(t)
			c := serving(t, m, hashed("c", maglev), hosts(0, 10, 0))
			seeded := rand.New(rand.NewPCG(1, 2))
			keys := make([]uint64, 10_000)
			before := make([]string, len(keys))
			count := map[string]int{}
			for i := range keys {
				keys[i] = seeded.Uint64()
				e, err := c.Pick(Choice{Hash: keys[i], Hashed: true})
				must(t, err)
				before[i] = e.Address
				count[e.Address]++
			}
			for a, n := range count {
				if n < 600 || n > 1500 {
					t.Errorf("%s has %d of 10000 keys", a, n)
				}
			}
			other := serving(t, m, hashed("d", maglev), hosts(0, 10, 0))
			must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment("c", hosts(0, 9, 0)))))
			moved := 0
			for i, k := range keys {
				e, err := other.Pick(Choice{Hash: k, Hashed: true})
				must(t, err)
				if e.Address != before[i] {
					t.Fatal("two proxies disagree about a key")
				}
				e, err = c.Pick(Choice{Hash: k, Hashed: true})
				must(t, err)
				if before[i] != "10.0.0.10:80" && e.Address != before[i] {
					moved++
				}
			}
			if moved > 900 {
				t.Errorf("%d keys of hosts that stayed have moved", moved)
			}
			first, err := c.Pick(Choice{Hash: 7, Hashed: true})
			must(t, err)
			again, err := c.Pick(Choice{Hash: 7, Hashed: true, Attempts: 20, Avoid: func(e *Endpoint) bool { return e == first }})
			must(t, err)
			if again == first {
				t.Error("a retry found no other host")
			}
		})
	}
}

// TestKnownHash pins the layout of the ring to Envoy's: xxHash64 of "ADDRESS_N", the first at or after the key.
func TestKnownHash(t *testing.T) {
	p := hashed("c", false)
	p.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{
		MinimumRingSize: wrapperspb.UInt64(4), MaximumRingSize: wrapperspb.UInt64(4),
	}}
	c := serving(t, newManager(t), p, locality(0, lbEndpoint("127.0.0.1:90", 1, 0), lbEndpoint("127.0.0.1:91", 1, 0)))
	r := c.set.Load().shares[0].picker.(*ring)
	if len(r.hashes) != 4 {
		t.Fatalf("a ring of %d", len(r.hashes))
	}
	for i, h := range r.hashes {
		for key, want := range map[uint64]*Endpoint{h: r.hosts[i], h + 1: r.hosts[(i+1)%4], h - 1: r.hosts[i]} {
			e, err := c.Pick(Choice{Hash: key, Hashed: true})
			must(t, err)
			if e != want {
				t.Errorf("key %d: %s, want %s", key, e.Address, want.Address)
			}
		}
	}
}

func TestHashWeightsAndBounds(t *testing.T) {
	m := newManager(t)
	for _, maglev := range []bool{false, true} {
		c := serving(t, m, hashed(fmt.Sprint("w", maglev), maglev), locality(0, lbEndpoint("10.0.0.1:80", 3, 0), lbEndpoint("10.0.0.2:80", 1, 0)))
		heavy, seeded := 0, rand.New(rand.NewPCG(1, 2))
		for range 10_000 {
			e, err := c.Pick(Choice{Hash: seeded.Uint64(), Hashed: true})
			must(t, err)
			if e.Weight == 3 {
				heavy++
			}
		}
		if heavy < 7000 || heavy > 8000 {
			t.Errorf("maglev %v: weight 3 of 4 has %d of 10000", maglev, heavy)
		}
	}
	p := hashed("b", false)
	p.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{ConsistentHashingLbConfig: &clusterv3.Cluster_CommonLbConfig_ConsistentHashingLbConfig{
		HashBalanceFactor: wrapperspb.UInt32(120),
	}}
	c := serving(t, m, p, hosts(0, 4, 0))
	for range 100 {
		e, err := c.Pick(Choice{Hash: 1, Hashed: true})
		must(t, err)
		e.Active.Add(1)
	}
	for _, e := range c.Endpoints() {
		if n := e.Active.Load(); n > 31 {
			t.Errorf("%s has %d of 100 requests with one key, bound to 120%% of 25", e.Address, n)
		}
	}
}

func TestHashByHostname(t *testing.T) {
	m := newManager(t)
	var picked [2]string
	for i, net := range []string{"10.1.0", "10.2.0"} {
		p := hashed(net, true)
		p.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{ConsistentHashingLbConfig: &clusterv3.Cluster_CommonLbConfig_ConsistentHashingLbConfig{
			UseHostnameForHashing: true,
		}}
		l := locality(0)
		for n := range 5 {
			e := lbEndpoint(fmt.Sprintf("%s.%d:80", net, n+1), 1, 0)
			e.GetEndpoint().Hostname = fmt.Sprintf("host-%d", n)
			l.LbEndpoints = append(l.LbEndpoints, e)
		}
		c := serving(t, m, p, l)
		for k := range uint64(100) {
			e, err := c.Pick(Choice{Hash: k * 7919, Hashed: true})
			must(t, err)
			picked[i] += e.Hostname + " "
		}
	}
	if picked[0] != picked[1] {
		t.Error("the same names at other addresses have other keys")
	}
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := edsCluster("c", clusterv3.Cluster_ROUND_ROBIN)
		p.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{
			SlowStartConfig: &clusterv3.Cluster_SlowStartConfig{
				SlowStartWindow: durationpb.New(100 * time.Second), MinWeightPercent: percent(10),
				Aggression: &corev3.RuntimeDouble{DefaultValue: 1},
			},
		}}
		m := newManager(t)
		c := serving(t, m, p, hosts(0, 1, 0))
		time.Sleep(200 * time.Second)
		must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment("c", hosts(0, 2, 0)))))
		for _, step := range []struct {
			wait time.Duration
			part float64 // of the old host's load
		}{{0, 0.1}, {50 * time.Second, 0.5}, {30 * time.Second, 0.8}, {21 * time.Second, 1}} {
			time.Sleep(step.wait)
			synctest.Wait()
			pickCounts(t, c, 50) // what was due before
			got := pickCounts(t, c, 2000)
			want := 2000 * step.part / (1 + step.part)
			if n := float64(got["10.0.0.2:80"]); math.Abs(n-want) > 30 {
				t.Errorf("after %v more the new host has %v of 2000, want %.0f", step.wait, n, want)
			}
		}
		if _, ok := c.set.Load().shares[0].picker.(*rotation); !ok {
			t.Error("once all hosts are warm, picking is plain again")
		}
		m.Close()
	})
}

func TestLocalityHealth(t *testing.T) {
	p := edsCluster("c", clusterv3.Cluster_RANDOM)
	p.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{
		HealthyPanicThreshold: percent(0),
		LocalityConfigSpecifier: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
		},
	}
	a, b := hosts(0, 4, 2), hosts(0, 4, 0)
	for i, e := range b.GetLbEndpoints() {
		e.GetEndpoint().Address = lbEndpoint(fmt.Sprintf("10.9.0.%d:80", i), 1, 0).GetEndpoint().GetAddress()
	}
	a.Locality, a.LoadBalancingWeight = &corev3.Locality{Region: "a"}, wrapperspb.UInt32(1)
	b.Locality, b.LoadBalancingWeight = &corev3.Locality{Region: "b"}, wrapperspb.UInt32(1)
	c := serving(t, newManager(t), p, a, b)
	near := 0
	for addr, n := range pickCounts(t, c, 1700) {
		if strings.HasPrefix(addr, "10.0.") {
			near += n
		}
	}
	if near < 699 || near > 701 {
		t.Errorf("a locality that is half well has 0.7 of its weight, 700 of 1700: %d", near)
	}
}

func TestStickyHosts(t *testing.T) {
	p := edsCluster("c", clusterv3.Cluster_ROUND_ROBIN)
	l := locality(0, lbEndpoint("10.0.0.1:80", 1, corev3.HealthStatus_HEALTHY), lbEndpoint("10.0.0.2:80", 1, corev3.HealthStatus_DRAINING),
		lbEndpoint("10.0.0.3:80", 1, corev3.HealthStatus_HEALTHY))
	m := newManager(t)
	c := serving(t, m, p, l)
	for range 10 {
		if e, err := c.Pick(Choice{Sticky: "10.0.0.3:80"}); err != nil || e.Address != "10.0.0.3:80" {
			t.Fatalf("%v %v", e, err)
		}
	}
	if e, err := c.Pick(Choice{Sticky: "10.0.0.2:80"}); err != nil || e.Address == "10.0.0.2:80" {
		t.Errorf("a draining host is not for sessions unless configured: %v %v", e, err)
	}
	if _, err := c.Pick(Choice{Sticky: "10.0.0.7:80", Strict: true}); err == nil {
		t.Error("strict, and yet another host")
	}
	p = proto.CloneOf(p)
	p.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{OverrideHostStatus: &corev3.HealthStatusSet{
		Statuses: []corev3.HealthStatus{corev3.HealthStatus_HEALTHY, corev3.HealthStatus_DRAINING},
	}}
	c = serving(t, m, p, l)
	if e, err := c.Pick(Choice{Sticky: "10.0.0.2:80"}); err != nil || e.Address != "10.0.0.2:80" {
		t.Errorf("sessions stay with a draining host: %v %v", e, err)
	}
	if got := pickCounts(t, c, 100); got["10.0.0.2:80"] != 0 {
		t.Errorf("new clients do not go to a draining host: %v", got)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, p := range []policy{roundRobin, leastRequest, random, ringHash, maglev} {
		b.Run(p.String(), func(b *testing.B) {
			k := &balance{policy: p, choices: 2, bias: 1, minRing: defaultRing, maxRing: maxRing, table: defaultMaglev, panicAt: 50}
			var all []*Endpoint
			for i := range 10 {
				all = append(all, &Endpoint{Address: fmt.Sprint(i), Weight: 1, state: newState()})
			}
			c := &Cluster{balance: *k}
			c.set.Store(newEndpointSet(all, nil, k))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := c.Pick(Choice{}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func TestZones(t *testing.T) {
	m := newManager(t)
	p := edsCluster("c", clusterv3.Cluster_ROUND_ROBIN)
	p.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{LocalityConfigSpecifier: &clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig_{
		ZoneAwareLbConfig: &clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig{MinClusterSize: wrapperspb.UInt64(2)},
	}}
	must(t, m.Apply(update(t, xds.ClusterType, nil, p))) // without a cluster of its own there is nothing to compare
	m.HasLocal("local_cluster")
	p.Name = "d"
	if err := m.Apply(update(t, xds.ClusterType, nil, p)); err == nil || !strings.Contains(err.Error(), "zone_aware_lb_config: not supported") {
		t.Errorf("%v", err)
	}
	p.GetCommonLbConfig().GetZoneAwareLbConfig().RoutingEnabled = percent(0)
	must(t, m.Apply(update(t, xds.ClusterType, nil, p)))
}
