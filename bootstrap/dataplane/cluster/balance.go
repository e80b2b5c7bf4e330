package cluster

import (
	"fmt"
	"math"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// policy is how one host of a group is chosen.
type policy int

const (
	roundRobin policy = iota
	leastRequest
	random
	ringHash
	maglev
	provided
)

// String describes a policy as Envoy names it.
func (p policy) String() string {
	return [...]string{"ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV", "CLUSTER_PROVIDED"}[p]
}

var _ fmt.Stringer = policy(0)

// balance is the compiled load balancing configuration of a cluster.
type balance struct {
	policy     policy
	choices    int     // hosts that least request compares
	fullScan   bool    // least request compares all of them
	bias       float64 // exponent of active requests where weights differ
	slow       slowStart
	minRing    uint64
	maxRing    uint64
	table      uint64 // size of maglev's table
	byHostname bool   // hash host names instead of addresses
	factor     uint32 // bounded load in percent of the average, 0 for unbounded
	locality   bool   // share the load by locality weight first
	zones      bool   // compare zones with those of a local cluster
	panicAt    float64
	override   uint32 // health statuses, as bits, that a session may stick to
}

const (
	defaultRing   = 1024
	maxRing       = 8 << 20
	defaultMaglev = 65537
	maxMaglev     = 5000011
	defaultPanic  = 50
)

func compileBalance(p *clusterv3.Cluster) (balance, error) {
	b := balance{
		choices: 2, bias: 1, minRing: defaultRing, maxRing: maxRing, table: defaultMaglev, panicAt: defaultPanic,
		override: statusBits([]corev3.HealthStatus{
			corev3.HealthStatus_UNKNOWN, corev3.HealthStatus_HEALTHY, corev3.HealthStatus_DEGRADED,
		}),
	}
	if err := b.setCommon(p.GetCommonLbConfig()); err != nil {
		return b, err
	}
	if p.GetLoadBalancingPolicy() != nil {
		return b, b.setExtension(p)
	}
	switch p.GetLbPolicy() {
	case clusterv3.Cluster_ROUND_ROBIN:
		b.policy = roundRobin
		if err := fields.Check(p.GetRoundRobinLbConfig(), "slow_start_config"); err != nil {
			return b, err
		}
		return b, b.setSlowStart(p.GetRoundRobinLbConfig().GetSlowStartConfig())
	case clusterv3.Cluster_LEAST_REQUEST:
		b.policy = leastRequest
		c := p.GetLeastRequestLbConfig()
		if err := fields.Check(c, "choice_count active_request_bias slow_start_config"); err != nil {
			return b, err
		}
		b.setLeastRequest(c)
		return b, b.setSlowStart(c.GetSlowStartConfig())
	case clusterv3.Cluster_RANDOM:
		b.policy = random
	case clusterv3.Cluster_RING_HASH:
		c := p.GetRingHashLbConfig()
		if err := fields.Check(c, "minimum_ring_size maximum_ring_size hash_function"); err != nil {
			return b, err
		}
		if c.GetHashFunction() != clusterv3.Cluster_RingHashLbConfig_XX_HASH {
			return b, fields.Unsupported(c, "hash_function", c.GetHashFunction().String())
		}
		return b, b.setRing(c)
	case clusterv3.Cluster_MAGLEV:
		if err := fields.Check(p.GetMaglevLbConfig(), "table_size"); err != nil {
			return b, err
		}
		return b, b.setMaglev(p.GetMaglevLbConfig())
	case clusterv3.Cluster_CLUSTER_PROVIDED:
		b.policy = provided
	default:
		return b, fields.Unsupported(p, "lb_policy", p.GetLbPolicy().String())
	}
	return b, nil
}

func statusBits(list []corev3.HealthStatus) uint32 {
	var out uint32
	for _, s := range list {
		out |= 1 << uint32(s)
	}
	return out
}

func (b *balance) setCommon(c *clusterv3.Cluster_CommonLbConfig) error {
	const known = "locality_weighted_lb_config zone_aware_lb_config healthy_panic_threshold override_host_status " +
		"consistent_hashing_lb_config update_merge_window ignore_new_hosts_until_first_hc"
	if err := fields.Check(c, known); err != nil {
		return err
	}
	b.locality = c.GetLocalityWeightedLbConfig() != nil
	// Zone awareness compares zones with those of a local cluster, and without one it changes nothing: see HasLocal.
	z := c.GetZoneAwareLbConfig()
	if err := fields.Check(z, "routing_enabled min_cluster_size"); err != nil {
		return err
	}
	b.zones = z != nil && (z.GetRoutingEnabled() == nil || z.GetRoutingEnabled().GetValue() > 0)
	if t := c.GetHealthyPanicThreshold(); t != nil {
		b.panicAt = t.GetValue()
	}
	if s := c.GetOverrideHostStatus(); s != nil {
		b.override = statusBits(s.GetStatuses())
	}
	h := c.GetConsistentHashingLbConfig()
	if err := fields.Check(h, "use_hostname_for_hashing hash_balance_factor"); err != nil {
		return err
	}
	b.byHostname = h.GetUseHostnameForHashing()
	return b.setFactor(h.GetHashBalanceFactor().GetValue())
}

func (b *balance) setFactor(f uint32) error {
	if f != 0 && f < 100 {
		return fmt.Errorf("hash_balance_factor: %d is less than 100", f)
	}
	b.factor = f
	return nil
}

func (b *balance) setRing(c interface {
	GetMinimumRingSize() *uint64Value
	GetMaximumRingSize() *uint64Value
},
) error {
	b.policy = ringHash
	if v := c.GetMinimumRingSize(); v != nil {
		b.minRing = v.GetValue()
	}
	if v := c.GetMaximumRingSize(); v != nil {
		b.maxRing = v.GetValue()
	}
	if b.minRing > b.maxRing || b.maxRing > maxRing {
		return fmt.Errorf("ring hash: minimum_ring_size %d, maximum_ring_size %d", b.minRing, b.maxRing)
	}
	return nil
}

func (b *balance) setMaglev(c interface{ GetTableSize() *uint64Value }) error {
	b.policy = maglev
	if v := c.GetTableSize(); v != nil {
		b.table = v.GetValue()
	}
	if b.table > maxMaglev || !prime(b.table) {
		return fmt.Errorf("maglev: table_size %d is not a prime number up to %d", b.table, maxMaglev)
	}
	return nil
}

func prime(n uint64) bool {
	if n < 2 {
		return false
	}
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}

func (b *balance) setLeastRequest(c interface {
	GetChoiceCount() *uint32Value
	GetActiveRequestBias() *corev3.RuntimeDouble
},
) {
	if v := c.GetChoiceCount(); v != nil {
		b.choices = max(int(v.GetValue()), 2)
	}
	if v := c.GetActiveRequestBias(); v != nil {
		b.bias = math.Max(v.GetDefaultValue(), 0)
	}
}
