package cluster

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

type (
	uint32Value = wrapperspb.UInt32Value
	uint64Value = wrapperspb.UInt64Value
)

// setExtension takes the first known policy of load_balancing_policy, as Envoy does.
func (b *balance) setExtension(p *clusterv3.Cluster) error {
	if err := fields.Check(p.GetCommonLbConfig(), "healthy_panic_threshold override_host_status"); err != nil {
		return err
	}
	return b.setFirst(p, p.GetLoadBalancingPolicy())
}

func (b *balance) setFirst(p *clusterv3.Cluster, list *clusterv3.LoadBalancingPolicy) error {
	for _, one := range list.GetPolicies() {
		known, err := b.setTyped(p, one.GetTypedExtensionConfig().GetTypedConfig())
		if known || err != nil {
			return err
		}
	}
	if len(list.GetPolicies()) == 0 {
		return fields.Unsupported(p, "load_balancing_policy", "no policies")
	}
	one := list.GetPolicies()[0].GetTypedExtensionConfig()
	return fields.UnsupportedType("load balancing policy", one.GetName(), one.GetTypedConfig().GetTypeUrl())
}

func (b *balance) setTyped(p *clusterv3.Cluster, body *anypb.Any) (known bool, err error) {
	switch body.GetTypeUrl() {
	case registry.LBRoundRobin:
		return true, unpack(body, &roundv3.RoundRobin{}, "slow_start_config locality_lb_config", func(m *roundv3.RoundRobin) error {
			b.policy = roundRobin
			if err := b.setLocality(m.GetLocalityLbConfig()); err != nil {
				return err
			}
			return b.setSlowStart(m.GetSlowStartConfig())
		})
	case registry.LBLeastRequest:
		const known = "choice_count active_request_bias slow_start_config locality_lb_config selection_method"
		return true, unpack(body, &leastv3.LeastRequest{}, known, func(m *leastv3.LeastRequest) error {
			b.policy, b.fullScan = leastRequest, m.GetSelectionMethod() == leastv3.LeastRequest_FULL_SCAN
			b.setLeastRequest(m)
			if err := b.setLocality(m.GetLocalityLbConfig()); err != nil {
				return err
			}
			return b.setSlowStart(m.GetSlowStartConfig())
		})
	case registry.LBRandom:
		return true, unpack(body, &randomv3.Random{}, "locality_lb_config", func(m *randomv3.Random) error {
			b.policy = random
			return b.setLocality(m.GetLocalityLbConfig())
		})
	case registry.LBRingHash:
		const known = "hash_function minimum_ring_size maximum_ring_size consistent_hashing_lb_config locality_weighted_lb_config"
		return true, unpack(body, &ringv3.RingHash{}, known, func(m *ringv3.RingHash) error {
			if f := m.GetHashFunction(); f != ringv3.RingHash_XX_HASH && f != ringv3.RingHash_DEFAULT_HASH {
				return fields.Unsupported(m, "hash_function", f.String())
			}
			b.locality = b.locality || m.GetLocalityWeightedLbConfig() != nil
			if err := b.setConsistent(m.GetConsistentHashingLbConfig()); err != nil {
				return err
			}
			return b.setRing(m)
		})
	case registry.LBMaglev:
		const known = "table_size consistent_hashing_lb_config locality_weighted_lb_config"
		return true, unpack(body, &maglevv3.Maglev{}, known, func(m *maglevv3.Maglev) error {
			b.locality = b.locality || m.GetLocalityWeightedLbConfig() != nil
			if err := b.setConsistent(m.GetConsistentHashingLbConfig()); err != nil {
				return err
			}
			return b.setMaglev(m)
		})
	case registry.LBWrrLocality:
		return true, unpack(body, &wrrv3.WrrLocality{}, "endpoint_picking_policy", func(m *wrrv3.WrrLocality) error {
			b.locality = true
			return b.setFirst(p, m.GetEndpointPickingPolicy())
		})
	}
	return false, nil
}

func unpack[M proto.Message](body *anypb.Any, m M, known string, set func(M) error) error {
	if err := body.UnmarshalTo(m); err != nil {
		return err
	}
	if err := fields.Check(m, known); err != nil {
		return err
	}
	return set(m)
}

func (b *balance) setLocality(c *commonv3.LocalityLbConfig) error {
	if err := fields.Check(c, "locality_weighted_lb_config zone_aware_lb_config"); err != nil {
		return err
	}
	b.locality = b.locality || c.GetLocalityWeightedLbConfig() != nil
	z := c.GetZoneAwareLbConfig()
	b.zones = z != nil && (z.GetRoutingEnabled() == nil || z.GetRoutingEnabled().GetValue() > 0)
	return fields.Check(z, "routing_enabled min_cluster_size")
}

func (b *balance) setConsistent(c *commonv3.ConsistentHashingLbConfig) error {
	if err := fields.Check(c, "use_hostname_for_hashing hash_balance_factor"); err != nil {
		return err
	}
	b.byHostname = c.GetUseHostnameForHashing()
	return b.setFactor(c.GetHashBalanceFactor().GetValue())
}
